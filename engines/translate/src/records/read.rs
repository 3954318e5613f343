//! Reading the records of a block.

use super::forms::Form;
use super::{Forms, LAST, MORE, STACKS, tag, take_byte, take_signed, take_unsigned};
use crate::site::{GroupSite, Kind, Site};
use crate::views::ViewState;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// An instruction; the part is its first.
    Instruction,
    /// Another part of the same instruction.
    After,
    /// A place where the part leaves.
    Site(Site),
    /// An access, at a host address, to what is seen.
    View(u64, ViewState),
}

/// The records of a block, in order.
#[derive(Debug, Clone)]
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    forms: &'a Forms,
    /// Where the part that was read last begins and ends.
    begin: u64,
    end: u64,
    /// Where its last access to what is seen is, or its start.
    view_at: u64,
    /// Offset in its page, and bytes, of its instruction, and whether the block goes on behind that.
    guest: u16,
    length: u8,
    goes_on: bool,
    after: bool,
}

impl<'a> Records<'a> {
    /// The records in `bytes` of a block that begins with the instruction at the offset `guest` in its page, whose code is
    /// at the host address `begin`.
    pub(crate) fn new(bytes: &'a [u8], forms: &'a Forms, begin: u64, guest: u16) -> Self {
        Self {
            bytes,
            forms,
            begin,
            end: begin,
            view_at: begin,
            guest,
            length: 0,
            goes_on: true,
            after: false,
        }
    }

    /// The site with a number in the block.
    pub(crate) fn site(self, number: usize) -> Option<Site> {
        let sites = self.filter_map(|record| match record {
            Record::Site(site) => Some(site),
            _ => None,
        });
        { sites }.nth(number)
    }

    /// Number in the block, and the rest, of the site of the memory operand or group of them that goes on at `ready` with
    /// what the TLB has.
    pub(crate) fn operand_at(self, ready: u64) -> Option<(usize, Site)> {
        let mut sites = 0;
        for record in self {
            let Record::Site(site) = record else { continue };
            match site.kind {
                Kind::Miss { ready: at, .. } | Kind::Group(GroupSite { ready: at, .. })
                    if at == ready =>
                {
                    return Some((sites, site));
                }
                _ => sites += 1,
            }
        }
        None
    }

    /// Offset in its page of the instruction that the code at a host address belongs to.
    pub(crate) fn guest_at(mut self, pc: u64) -> Option<u16> {
        while let Some(record) = self.next() {
            let begins = matches!(record, Record::Instruction | Record::After);
            if begins && (self.begin..self.end).contains(&pc) {
                return Some(self.guest);
            }
        }
        None
    }

    /// Where the guest's state is while the access at a host address to what is seen runs.
    pub(crate) fn view_at(mut self, pc: u64) -> Option<ViewState> {
        self.find_map(|record| match record {
            Record::View(at, state) if at == pc => Some(state),
            _ => None,
        })
    }

    /// Offsets of the instructions in their page.
    pub(crate) fn guest_offsets(mut self) -> impl Iterator<Item = u16> + 'a {
        std::iter::from_fn(move || {
            loop {
                if self.next()? == Record::Instruction {
                    return Some(self.guest);
                }
            }
        })
    }

    /// Where the block's code ends.
    pub(crate) fn end(mut self) -> u64 {
        self.by_ref().for_each(drop);
        self.end
    }

    /// Begins a part of so many bytes.
    fn begin_part(&mut self, host: u32) {
        self.begin = self.end;
        self.view_at = self.begin;
        self.end += u64::from(host);
    }

    /// Begins the part of an instruction of so many bytes.
    fn instruction(&mut self, length: u8, host: u32, goes_on: bool) -> Record {
        self.begin_part(host);
        self.length = length;
        self.after = false;
        self.goes_on = goes_on;
        Record::Instruction
    }

    fn next_record(&mut self) -> Option<Record> {
        let mut goes_on = true;
        // Where the instruction or the site is, from where it is expected.
        let mut away = 0;
        loop {
            let first = take_byte(&mut self.bytes)?;
            match first {
                tag::ENDS => goes_on = false,
                tag::JUMPED | tag::AWAY => away = take_signed(&mut self.bytes)? as u16,
                tag::AFTER => {
                    let host = take_unsigned(&mut self.bytes)?;
                    self.begin_part(host);
                    self.after = true;
                    return Some(Record::After);
                }
                ..=tag::ANY => {
                    let behind = u16::from(self.length);
                    self.guest = self.guest.wrapping_add(behind).wrapping_add(away);
                    let (length, host) = self.lengths(first)?;
                    return Some(self.instruction(length, host, goes_on));
                }
                tag::VIEW..tag::ENTRY => return self.view(first),
                _ => {
                    let kind = self.kind(first)?;
                    let next = if self.goes_on && !self.after { self.end } else { 0 };
                    let offset = self.guest.wrapping_add(away);
                    return Some(Record::Site(Site { offset, length: self.length, next, kind }));
                }
            }
        }
    }

    /// Lengths of an instruction and its host code.
    fn lengths(&mut self, first: u8) -> Option<(u8, u32)> {
        if first < tag::LONG {
            return self.forms.lengths.get(first - tag::INSTRUCTION);
        }
        let length = match first {
            tag::ANY => take_byte(&mut self.bytes)?,
            _ => 1 + first - tag::LONG,
        };
        Some((length, take_unsigned(&mut self.bytes)?))
    }

    fn view(&mut self, first: u8) -> Option<Record> {
        let [flags, behind, distance, _] = match first {
            tag::VIEW_ANY => self.forms.take(&mut self.bytes)?,
            _ => [0, 0, (first - tag::VIEW).into(), 0],
        };
        self.view_at += u64::from(distance);
        let [flags_kept, r10, r11] = bits(flags);
        Some(Record::View(
            self.view_at,
            ViewState { flags_kept, homes: [r10, r11], behind: behind as i16 },
        ))
    }

    /// What begins the record of a probe: where it is tried again, and its form.
    fn probe(&mut self, before: u8) -> Option<(u64, Form)> {
        let form = self.forms.take(&mut self.bytes)?;
        let more = if before < MORE { 0 } else { self.distance()? };
        Some((self.begin + u64::from(before) + more, form))
    }

    fn distance(&mut self) -> Option<u64> {
        Some(take_unsigned(&mut self.bytes)?.into())
    }

    /// What stands in a list, or follows if that ends before.
    fn choice(&mut self, list: &[i32], number: u8) -> Option<i32> {
        match list.get(usize::from(number)) {
            Some(&usual) => Some(usual),
            None => take_signed(&mut self.bytes),
        }
    }

    fn kind(&mut self, first: u8) -> Option<Kind> {
        Some(match first {
            tag::ENTRY..tag::LINK => Kind::Entry { flags_kept: first != tag::ENTRY },
            tag::LINK..tag::INDIRECT => {
                let (place, away) = ((first - tag::LINK) / 2, (first - tag::LINK) & 1 != 0);
                let last = match LAST.get(usize::from(place)) {
                    Some(&last) => last,
                    None => self.distance()?,
                };
                let next = self.guest.wrapping_add(self.length.into());
                let away = if away { take_signed(&mut self.bytes)? } else { 0 };
                let target = next.wrapping_add(away as u16);
                Kind::Link { patch: self.end.wrapping_sub(last), target }
            }
            tag::INDIRECT..tag::FAR => {
                Kind::Indirect { stack: self.choice(&STACKS, first - tag::INDIRECT)? }
            }
            tag::FAR..tag::MISS => {
                let number = first - tag::FAR;
                let stack = self.choice(&STACKS[..2], number % 3)? as i8;
                let last = if number < 3 { LAST[0] } else { self.distance()? };
                let jump_patch = self.end.wrapping_sub(last);
                let page_patch = jump_patch.wrapping_sub(self.distance()?);
                Kind::Far { page_patch, jump_patch, target: take_signed(&mut self.bytes)?, stack }
            }
            tag::MISS..tag::GROUP => {
                let (retry, [flags, size, to_ready, _]) = self.probe(first - tag::MISS)?;
                let [in_r11, write, flags_kept, spanned] = bits(flags);
                let (size, ready) = (size as u8, retry + u64::from(to_ready));
                Kind::Miss { in_r11, size, write, flags_kept, spanned, retry, ready }
            }
            tag::GROUP..tag::INTERPRET => Kind::Group(self.group(first - tag::GROUP)?),
            tag::INTERPRET..tag::END => {
                let [goes_on, spanned] = bits((first - tag::INTERPRET).into());
                Kind::Interpret { op: take_unsigned(&mut self.bytes)?, goes_on, spanned }
            }
            ..tag::ENTRY | tag::END.. => return None,
        })
    }

    fn group(&mut self, before: u8) -> Option<GroupSite> {
        let (retry, [flags, size, to_ready, after_patch]) = self.probe(before)?;
        let [write, flags_kept, has_first] = bits(flags);
        let ready = retry + u64::from(to_ready);
        let patch = ready.wrapping_sub(after_patch.into());
        let first = match has_first {
            false => None,
            true => Some((take_unsigned(&mut self.bytes)? as i32, size.into())),
        };
        Some(GroupSite { first, patch, write, flags_kept, retry, ready })
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    #[inline]
    fn next(&mut self) -> Option<Record> {
        self.next_record()
    }
}

fn bits<const N: usize>(bits: u16) -> [bool; N] {
    std::array::from_fn(|number| bits >> number & 1 != 0)
}
