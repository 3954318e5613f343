//! Writing the records of a block.

use super::forms::Form;
use super::{
    Forms, LAST, MORE, Noted, OF_GROUP, OF_VIEW, OPERAND, Part, STACKS, put_signed, put_unsigned,
    tag,
};
use crate::site::{GroupSite, Kind};
use crate::views::ViewState;

/// Appends the records of a block, for [`super::Records`] to read.
pub(crate) fn write(bytes: &mut Vec<u8>, forms: &mut Forms, noted: Noted<'_>) {
    let Noted { start, length, parts, mut sites, mut views } = noted;
    let mut next = parts.first().map_or(0, |first| first.guest);
    for (number, part) in parts.iter().enumerate() {
        let end = parts.get(number + 1).map_or(length, |next| next.host);
        let [begin, end_address] = [part.host, end].map(|host| start + u64::from(host));
        let mut writer = Writer { bytes, forms, begin, end: end_address };
        let (own_sites, later) =
            sites.split_at(sites.partition_point(|site| usize::from(site.part) <= number));
        sites = later;
        if !part.goes_on && own_sites.iter().any(|site| matches!(site.kind, Kind::Miss { .. })) {
            writer.bytes.push(tag::ENDS);
        }
        writer.part(part, next);
        next = part.guest.wrapping_add(part.length.into());
        let (own_views, later) = views.split_at(views.partition_point(|view| view.host < end));
        views = later;
        let mut last = part.host;
        for view in own_views {
            writer.view(view.host - last, view.state);
            last = view.host;
        }
        for site in own_sites {
            if site.offset != part.guest {
                writer.bytes.push(tag::AWAY);
                writer.signed(i32::from(site.offset) - i32::from(part.guest));
            }
            writer.site(&site.kind, next);
        }
    }
}

/// Writes records of the code between two addresses.
struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
    forms: &'a mut Forms,
    begin: u64,
    end: u64,
}

impl Writer<'_> {
    fn unsigned(&mut self, value: u32) {
        put_unsigned(self.bytes, value);
    }

    fn signed(&mut self, value: i32) {
        put_signed(self.bytes, value);
    }

    fn distance(&mut self, from: u64, to: u64) {
        let distance = u32::try_from(to.wrapping_sub(from));
        debug_assert!(distance.is_ok(), "places in a block are in order");
        self.unsigned(distance.unwrap_or(0));
    }

    /// The part itself; the guest instruction is expected at the offset `next`.
    fn part(&mut self, part: &Part, next: u16) {
        let &Part { guest, length, .. } = part;
        let host = (self.end - self.begin) as u32;
        if part.after {
            self.bytes.push(tag::AFTER);
            return self.unsigned(host);
        }
        if guest != next {
            self.bytes.push(tag::JUMPED);
            self.signed(i32::from(guest) - i32::from(next));
        }
        if let Some(number) = self.forms.lengths.number(length, host) {
            self.bytes.push(tag::INSTRUCTION + number);
            return;
        }
        match length {
            1..=tag::LENGTHS => self.bytes.push(tag::LONG + length - 1),
            _ => self.bytes.extend([tag::ANY, length]),
        }
        self.unsigned(host);
    }

    fn view(&mut self, distance: u32, state: ViewState) {
        let ViewState { flags_kept, homes: [r10, r11], behind } = state;
        let flags = bits([flags_kept, r10, r11]);
        match u8::try_from(distance) {
            Ok(distance @ 0..MORE) if flags == 0 && behind == 0 => {
                self.bytes.push(tag::VIEW + distance);
            }
            _ => {
                self.bytes.push(tag::VIEW_ANY);
                let distance = between(0, distance.into());
                let form = [OF_VIEW | u16::from(flags), behind as u16, distance, 0];
                self.forms.put(self.bytes, form);
            }
        }
    }

    /// Begins the record of a site with a number from a list, or the list's length.
    fn choice(&mut self, first: u8, found: Option<usize>, others: u8) -> bool {
        self.bytes.push(first + found.map_or(others, |found| found as u8));
        found.is_none()
    }

    /// A site; the next guest instruction is the one at the offset `next`.
    fn site(&mut self, kind: &Kind, next: u16) {
        let last = |patch: u64| LAST.iter().position(|&last| self.end.wrapping_sub(patch) == last);
        match *kind {
            Kind::Entry { flags_kept } => self.bytes.push(tag::ENTRY + u8::from(flags_kept)),
            Kind::Link { patch, target } => {
                let place = last(patch).unwrap_or(LAST.len());
                self.bytes.push(tag::LINK + 2 * place as u8 + u8::from(target != next));
                if place == LAST.len() {
                    self.distance(patch, self.end);
                }
                if target != next {
                    self.signed(i32::from(target) - i32::from(next));
                }
            }
            Kind::Indirect { stack } => {
                let usual = STACKS.iter().position(|&usual| usual == stack);
                if self.choice(tag::INDIRECT, usual, 3) {
                    self.signed(stack);
                }
            }
            Kind::Far { page_patch, jump_patch, target, stack } => {
                let stack = i32::from(stack);
                let usual = STACKS[..2].iter().position(|&usual| usual == stack);
                let is_last = last(jump_patch) == Some(0);
                let place = tag::FAR + 3 * u8::from(!is_last);
                let unusual = self.choice(place, usual, 2);
                if unusual {
                    self.signed(stack);
                }
                if !is_last {
                    self.distance(jump_patch, self.end);
                }
                self.distance(page_patch, jump_patch);
                self.signed(target);
            }
            Kind::Miss { in_r11, size, write, flags_kept, spanned, retry, ready } => {
                let flags = bits([in_r11, write, flags_kept, spanned]);
                let form = [OPERAND | u16::from(flags), size.into(), between(retry, ready), 0];
                self.probe(tag::MISS, retry, form);
            }
            Kind::Group(group) => self.group(&group),
            Kind::Interpret { op, goes_on, spanned } => {
                self.bytes.push(tag::INTERPRET + bits([goes_on, spanned]));
                self.unsigned(op);
            }
        }
    }

    fn group(&mut self, group: &GroupSite) {
        let &GroupSite { first, patch, write, flags_kept, retry, ready } = group;
        let flags = bits([write, flags_kept, first.is_some()]);
        let [to_ready, after_patch] = [retry, patch].map(|from| between(from, ready));
        let (offset, size) = first.unwrap_or_default();
        self.probe(
            tag::GROUP,
            retry,
            [OF_GROUP | u16::from(flags), size as u16, to_ready, after_patch],
        );
        if first.is_some() {
            self.unsigned(offset as u32);
        }
    }

    /// Begins the record of a probe that is tried again at `retry`.
    fn probe(&mut self, first: u8, retry: u64, form: Form) {
        let before = retry.wrapping_sub(self.begin);
        self.bytes.push(first + before.min(MORE.into()) as u8);
        self.forms.put(self.bytes, form);
        if before >= MORE.into() {
            self.distance(self.begin + u64::from(MORE), retry);
        }
    }
}

/// The distance of two places in a part.
fn between(from: u64, to: u64) -> u16 {
    let distance = u16::try_from(to.wrapping_sub(from));
    debug_assert!(distance.is_ok(), "parts are short");
    distance.unwrap_or(0)
}

fn bits<const N: usize>(bits: [bool; N]) -> u8 {
    bits.iter().rev().fold(0, |sum, &bit| sum << 1 | u8::from(bit))
}
