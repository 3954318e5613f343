use super::read::Record;
use super::*;
use crate::site::{GroupSite, Site};
use crate::views::ViewState;
use ambos_random::Random;

const START: u64 = 0x7000_0000_1230;

/// A block of random parts, sites and accesses, as they come in blocks.
struct Sample {
    length: u32,
    parts: Vec<Part>,
    sites: Vec<Placed>,
    views: Vec<ViewSite>,
}

impl Sample {
    fn new(random: &mut Random) -> Self {
        let mut sample =
            Self { length: 0, parts: Vec::new(), sites: Vec::new(), views: Vec::new() };
        let mut guest = random.below(0x1000) as u16;
        for number in 0..=random.below(20) as u16 {
            let after = number > 0 && random.below(6) == 0;
            let last = sample.parts.last().copied();
            let last = last.filter(|_| after);
            if last.is_none() && random.below(5) == 0 {
                guest = random.below(0x1000) as u16;
            }
            let length = 1 + random.below(15) as u8;
            let first =
                Part { host: 0, guest, length, live: 0, goes_on: random.below(4) > 0, after };
            let part = Part { host: sample.length, after, ..last.unwrap_or(first) };
            if !after {
                guest = guest.wrapping_add(part.length.into());
            }
            sample.parts.push(part);
            let hosts = [0, u64::from(part.length), random.below(30), random.below(500)];
            let host = random.pick(&hosts);
            sample.fill(random, number, part, host);
            sample.length += host as u32;
        }
        sample
    }

    /// Sites and accesses of a part of so many bytes.
    fn fill(&mut self, random: &mut Random, number: u16, part: Part, host: u64) {
        let mut at = 0;
        while random.below(3) == 0 && at < host {
            at += random.below(host - at);
            let behinds = [0, 0, 8, -16, random.below(0x7fff) as i16];
            let behind = random.pick(&behinds);
            let mut flag = || random.below(2) == 0;
            let state = ViewState { flags_kept: flag(), homes: [flag(), flag()], behind };
            self.views.push(ViewSite { host: part.host + at as u32, state });
            at += 1;
        }
        let begin = START + u64::from(part.host);
        while random.below(2) == 0 {
            let distances = [0, 0, part.length.into(), random.below(0x1000) as u16];
            let away = random.pick(&distances);
            let offset = part.guest.wrapping_add(away);
            let kind = kind(random, (begin, begin + host), part);
            self.sites.push(Placed { part: number, offset, kind });
        }
    }

    fn bytes(&self, forms: &mut Forms) -> Vec<u8> {
        let Self { length, ref parts, ref sites, ref views } = *self;
        let mut bytes = vec![0x55];
        write(&mut bytes, forms, Noted { start: START, length, parts, sites, views });
        bytes.split_off(1)
    }

    fn records<'a>(&self, bytes: &'a [u8], forms: &'a Forms) -> Records<'a> {
        Records::new(bytes, forms, START, self.parts[0].guest)
    }

    /// A site as it should be read.
    fn site(&self, site: Placed) -> Site {
        let part = self.parts[usize::from(site.part)];
        let end = self.parts.get(usize::from(site.part) + 1).map_or(self.length, |next| next.host);
        let goes_on = part.goes_on && !part.after;
        let next = if goes_on { START + u64::from(end) } else { 0 };
        Site { offset: site.offset, length: part.length, next, kind: site.kind }
    }
}

/// A random place in a range of addresses.
fn within(random: &mut Random, (begin, end): (u64, u64)) -> u64 {
    begin + random.below(end - begin + 1)
}

fn kind(random: &mut Random, (begin, end): (u64, u64), part: Part) -> Kind {
    let far = random.next() as i32;
    let next = part.guest.wrapping_add(part.length.into());
    let size = random.pick(&[1, 2, 4, 8, 16, 32, 64, 10, 255]);
    let retry = within(random, (begin, end));
    let ready = within(random, (retry, end));
    let [write, flags_kept, third, fourth] = [0; 4].map(|_: u8| random.below(2) == 0);
    match random.below(7) {
        0 => Kind::Entry { flags_kept },
        1 => {
            let any = within(random, (begin, end));
            let patch = random.pick(&[end - 4, end - 9, any]);
            Kind::Link { patch, target: random.pick(&[next, next & 0xfff, far as u16 & 0xfff]) }
        }
        2 => Kind::Indirect { stack: random.pick(&[0, -8, 8, 24, far]) },
        3 => {
            let page_patch = within(random, (begin, end));
            let any = within(random, (page_patch, end));
            let jump_patch = random.pick(&[(end - 4).max(page_patch), any]);
            Kind::Far { page_patch, jump_patch, target: far, stack: random.pick(&[0, -8, 8, 100]) }
        }
        4 => {
            let (in_r11, spanned) = (third, fourth);
            Kind::Miss { in_r11, size, write, flags_kept, spanned, retry, ready }
        }
        5 => {
            let offset = random.below(0x1000) as i32;
            let first = third.then_some((offset, random.pick(&[size.into(), 512, 0x8000])));
            let patch = within(random, (retry, ready));
            Kind::Group(GroupSite { first, patch, write, flags_kept, retry, ready })
        }
        _ => Kind::Interpret { op: random.next() as u32, goes_on: third, spanned: fourth },
    }
}

#[test]
fn blocks_come_back_as_they_were() {
    let mut random = Random::new(15);
    let mut forms = Forms::default();
    for _ in 0..3000 {
        let sample = Sample::new(&mut random);
        let bytes = sample.bytes(&mut forms);
        let records = sample.records(&bytes, &forms);
        let instructions = || sample.parts.iter().filter(|part| !part.after);
        assert!(records.clone().guest_offsets().eq(instructions().map(|part| part.guest)));
        assert_eq!(records.clone().end(), START + u64::from(sample.length));
        for (number, &site) in sample.sites.iter().enumerate() {
            let mut want = sample.site(site);
            let got = records.clone().site(number).unwrap();
            // Only operands ask where to go on after an instruction that the block ends with.
            let misses = |site: &Placed| matches!(site.kind, Kind::Miss { .. });
            let told = sample.sites.iter().any(|other| other.part == site.part && misses(other));
            if !told {
                want.next = got.next;
            }
            assert_eq!(got, want);
        }
        assert_eq!(records.clone().site(sample.sites.len()), None);
        let views = records.clone().filter_map(|record| match record {
            Record::View(at, state) => Some((at, state)),
            _ => None,
        });
        let want = sample.views.iter().map(|view| (START + u64::from(view.host), view.state));
        assert!(views.eq(want.clone()));
        for (at, state) in want {
            assert_eq!(records.clone().view_at(at), Some(state));
        }
    }
}

#[test]
fn code_is_found_by_its_address() {
    let mut random = Random::new(16);
    let mut forms = Forms::default();
    for _ in 0..300 {
        let sample = Sample::new(&mut random);
        let bytes = sample.bytes(&mut forms);
        let records = sample.records(&bytes, &forms);
        for offset in 0..sample.length {
            let part = sample.parts.iter().rfind(|part| part.host <= offset).unwrap();
            assert_eq!(records.clone().guest_at(START + u64::from(offset)), Some(part.guest));
        }
        assert_eq!(records.clone().guest_at(START - 1), None);
        assert_eq!(records.clone().guest_at(START + u64::from(sample.length)), None);
        let ready = |site: &Placed| match site.kind {
            Kind::Miss { ready, .. } | Kind::Group(GroupSite { ready, .. }) => Some(ready),
            _ => None,
        };
        for site in &sample.sites {
            let Some(at) = ready(site) else { continue };
            let first = sample.sites.iter().position(|site| ready(site) == Some(at));
            let (number, found) = records.clone().operand_at(at).unwrap();
            assert_eq!((Some(number), found.kind), (first, sample.sites[number].kind));
        }
        assert_eq!(records.operand_at(START - 1), None);
    }
}

#[test]
fn usual_records_are_short() {
    let part = Part { host: 0, guest: 0x10, length: 3, live: 0, goes_on: true, after: false };
    let parts: Vec<Part> = (0..10)
        .map(|number| Part { host: 3 * number, guest: 0x10 + 3 * number as u16, ..part })
        .collect();
    let (end, stack) = (START + 30, 0);
    let kinds = [
        Kind::Link { patch: end - 9, target: 0x40 },
        Kind::Link { patch: end - 4, target: 0x2e },
        Kind::Indirect { stack },
    ];
    let sites = kinds.map(|kind| Placed { part: 9, offset: 0x2b, kind });
    let noted = Noted { start: START, length: 30, parts: &parts, sites: &sites, views: &[] };
    let mut forms = Forms::default();
    let mut bytes = Vec::new();
    for _ in 0..10 {
        // Lengths are usual once they were there often.
        bytes.clear();
        write(&mut bytes, &mut forms, noted);
    }
    assert_eq!(bytes.len(), 10 + 2 + 1 + 1);
}

#[test]
fn anything_can_be_read() {
    let mut random = Random::new(17);
    let mut forms = Forms::default();
    forms.put(&mut Vec::new(), [u16::MAX; 4]);
    for _ in 0..3000 {
        let bytes: Vec<u8> = (0..random.below(40)).map(|_| random.next() as u8).collect();
        let records = Records::new(&bytes, &forms, START, 0x123);
        assert!(records.clone().count() <= bytes.len());
        assert!(records.site(bytes.len()).is_none());
    }
}
