//! Tests of what is seen.

use super::super::bank::{Cache, ENTRIES};
use super::super::is_upper;
use super::*;
use std::collections::{BTreeMap, HashMap, HashSet};

impl Views {
    /// What a bank sees: linear and host pages, and whether they may be written.
    fn seen(&self, bank: usize) -> impl Iterator<Item = (u64, usize, bool)> {
        let pages = self.banks[bank].pages.iter();
        pages.map(|(&page, seen)| (page as u64, seen.host_page, seen.writable))
    }

    /// The areas that a bank's addresses lead to.
    fn areas(&self, bank: usize) -> Vec<std::ops::Range<u64>> {
        let of = |view: &View, regions: usize| {
            let start = view.start() as u64;
            start..start + regions as u64 * REGION
        };
        let zones = self.banks[bank].zones.iter().map(|zone| of(&zone.view, zone.count));
        zones.chain(self.nowhere.iter().map(|view| of(view, 1))).collect()
    }

    /// Checks that the host has mapped what a bank sees, and nothing else, as `mapped` tells.
    fn agree(
        &self,
        bank: usize,
        ram: &GuestRam,
        mapped: impl Fn(usize, usize) -> BTreeMap<usize, (u64, bool)>,
    ) {
        let bank = &self.banks[bank];
        let mut count = 0;
        for zone in &bank.zones {
            let start = zone.view.start();
            for (host, is) in mapped(start, start + zone.count * REGION as usize) {
                let page = (host as u64).wrapping_sub(zone.distance());
                let seen = bank.pages.get(&(page as usize)).expect("it is known that it is seen");
                assert_eq!(is, (ram.file_offset(seen.host_page).unwrap(), seen.writable));
                count += 1;
            }
        }
        assert_eq!(count, bank.pages.len());
    }
}

/// What the current bank may see: by linear page, host page and whether it may be written.
type Model = HashMap<(u16, u64), HashSet<(usize, bool)>>;

/// Reads what of the host's address space is mapped from files, between two addresses: by page, where in the file it is
/// and whether it may be written.
fn mapped(from: usize, to: usize) -> BTreeMap<usize, (u64, bool)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut pages = BTreeMap::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let [range, rights, offset] = std::array::from_fn(|_| fields.next().unwrap());
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        let (start, end, offset) = (number(start), number(end), number(offset));
        if !rights.starts_with('r') {
            continue;
        }
        for page in (start.max(from)..end.min(to)).step_by(0x1000) {
            pages.insert(page, ((offset + page - start) as u64, rights.contains('w')));
        }
    }
    pages
}

#[test]
fn nothing_is_seen_that_may_not_be_cached() {
    for halves in [false, true] {
        random_changes(halves, if halves { 10_000 } else { 30_000 });
    }
}

fn random_changes(halves: bool, steps: u32) {
    const PCIDS: u16 = 12;
    let ram = GuestRam::new(4 << 20).unwrap();
    let host = |number: usize| ram.host_page(0x1000 * number as u64).unwrap().0;
    // Neighbours, pages that share slots, and more regions than have views.
    let starts = [0x5000, 0x40_0000, 0xc0_0000_0000, 0x5555_5555_4000, 0x7fff_ffff_0000];
    let others = [0x100_0000_0000, 0x200_0000_0000, 0x300_0000_0000, 0xffff_8000_0000_0000];
    let mut random = ambos_random::Random::new(11);
    let mut tlb = Tlb::new().unwrap();
    assert!(tlb.reserve_views());
    if halves {
        tlb.tell_halves_apart();
    }
    let (mut model, mut pcid) = (Model::new(), 0);
    let mut shown = 0;
    for step in 0..steps {
        let places = if random.below(8) == 0 { &others[..] } else { &starts[..] };
        let start = random.pick(places);
        let linear =
            start + 0x1000 * random.below(12) + random.below(2) * (ENTRIES as u64 * 0x1000);
        let page = (pcid, linear);
        let number = 1 + random.index(40);
        match random.below(40) {
            0 => {
                pcid = random.below(PCIDS.into()) as u16;
                tlb.switch(pcid);
                let stack = random.next() >> 17;
                tlb.prepare_view(0x1000 * u64::from(pcid) + 0x1000 * 16 * random.below(2), stack);
            }
            1 => {
                tlb.flush_page(linear);
                model.retain(|&(_, other), _| other != linear);
            }
            2 => {
                let other = random.below(PCIDS.into()) as u16;
                tlb.flush_page_of(other, linear);
                model.remove(&(other, linear));
            }
            3 if random.below(6) == 0 => {
                let other = random.below(PCIDS.into()) as u16;
                tlb.flush_pcid(other);
                model.retain(|&(its, _), _| its != other);
            }
            4 if random.below(20) == 0 => {
                tlb.flush_all();
                model.clear();
            }
            5 if random.below(10) == 0 => {
                tlb.protect_all();
                model.values_mut().for_each(|seen| seen.retain(|&(_, writable)| !writable));
            }
            6 => {
                tlb.protect_host_page(host(number));
                let writable = (host(number), true);
                model.values_mut().for_each(|seen| {
                    seen.remove(&writable);
                });
            }
            7 => {
                let bank = tlb.current_bank();
                tlb.drop_write(bank, Tlb::USER, linear);
                model.entry(page).or_default().retain(|&(_, writable)| !writable);
            }
            8 if random.below(20) == 0 => {
                let other = random.below(PCIDS.into()) as u16;
                tlb.flush_lower_half_of(other);
                model.retain(|&(its, page), _| its != other || is_upper(page));
            }
            9..16 => {
                if tlb.see(&ram, linear) {
                    shown += 1;
                }
            }
            16 => tlb.see_all(&ram),
            17 => {
                tlb.bring_forward(Tlb::USER, random.below(2) == 0, linear);
            }
            kind => {
                // Neighbours in both address spaces more often than not.
                let number = if kind < 34 { 1 + (linear >> 12) as usize % 40 } else { number };
                let write = random.below(2) == 0;
                tlb.insert(Tlb::USER, write, false, linear, host(number));
                model.entry(page).or_default().insert((host(number), write));
                if write && random.below(2) == 0 {
                    tlb.insert(Tlb::USER, false, false, linear, host(number));
                    model.entry(page).or_default().insert((host(number), false));
                }
            }
        }
        for (bank, state) in tlb.banks.iter().enumerate() {
            let Some(pcid) = state.pcid else { continue };
            for (page, host, writable) in tlb.views.seen(bank) {
                let may = model.get(&(pcid, page));
                // What may be written may be read.
                let of_it = |seen: &HashSet<_>| {
                    seen.contains(&(host, true)) || !writable && seen.contains(&(host, false))
                };
                assert!(may.is_some_and(of_it), "step {step}: {page:x} of {pcid}");
            }
        }
        if step % 100 == 0 {
            for bank in 0..BANKS {
                tlb.views.agree(bank, &ram, mapped);
            }
        }
    }
    assert!(shown > steps / 60, "{shown}");
}

#[test]
fn what_is_seen_as_writable_is_found_after_others_took_its_slots() {
    let ram = GuestRam::new(1 << 20).unwrap();
    let (page, host) = (0x7fff_ffff_0000, ram.host_page(0).unwrap().0);
    let mut tlb = Tlb::new().unwrap();
    tlb.prepare_view(0x1000, u64::MAX);
    tlb.insert(Tlb::USER, true, false, page, host);
    assert!(tlb.see(&ram, page));
    let slots = Cache::Write.slots(Tlb::USER, page);
    let others = (1..u64::MAX).map(|number| number << 12);
    let other =
        others.into_iter().find(|&other| Cache::Write.slots(Tlb::USER, other) == slots).unwrap();
    tlb.insert(Tlb::USER, true, false, other, ram.host_page(0x1000).unwrap().0);
    assert_eq!(tlb.lookup_write(Tlb::USER, page), None);
    // As many places as are kept of a page.
    for place in [0x5000, 0x9000] {
        tlb.insert(Tlb::USER, true, false, place, host);
    }
    assert!(tlb.views.is_writable(0, page, host));
    tlb.protect_host_page(host);
    assert!(!tlb.views.is_writable(0, page, host));
    tlb.views.agree(0, &ram, mapped);
}

/// The regions whose guard in the current bank can be accessed.
fn open_guards(tlb: &Tlb) -> HashSet<u64> {
    let guard = tlb.windows.tail(tlb.current_bank()) + GUARD_OFFSET;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut open = HashSet::new();
    for line in maps.lines() {
        let (range, rights) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).unwrap());
        if rights.starts_with('r') {
            let (start, end) = (start.max(guard), end.min(guard + GUARD_SIZE));
            open.extend((start..end).step_by(0x1000).map(|page| (page - guard) as u64 >> 12));
        }
    }
    open
}

#[test]
fn no_address_leads_out_of_what_is_reserved() {
    const GUARD: u64 = 4 << 30;
    let ram = GuestRam::new(1 << 20).unwrap();
    let mut random = ambos_random::Random::new(3);
    let mut tlb = Tlb::new().unwrap();
    assert!(tlb.reserve_views());
    for turn in 0..2 * BANKS as u64 {
        tlb.switch(turn as u16);
        // Without zones at first.
        let prepared = turn % 4 != 0;
        if prepared {
            tlb.prepare_view(0x1000 * turn, 0x7fff_0000_0000 >> ((turn & 4) * 4));
            for linear in [0x5000, 0xc0_0000_0000, 0x7fff_ffff_f000, 0x3333_0000_0000] {
                tlb.insert(Tlb::USER, false, false, linear, ram.host_page(0).unwrap().0);
                assert!(tlb.see(&ram, linear));
            }
        }
        let areas = tlb.views.areas(tlb.current_bank());
        let guard = tlb.windows.tail(tlb.current_bank()) + GUARD_OFFSET;
        let open: HashSet<u64> = mapped(guard, guard + GUARD_SIZE)
            .keys()
            .map(|page| (page - guard) as u64 >> 12)
            .collect();
        assert_eq!(open.is_empty(), !prepared);
        let open = open_guards(&tlb);
        assert_eq!(!open.is_empty(), prepared);
        for _ in 0..100_000 {
            let pointer = match random.below(4) {
                0 => random.next(),
                1 => random.next() >> 17,
                2 => (random.next() >> 16 & VIEW_MASK).wrapping_sub(random.below(GUARD)),
                _ => (random.next() & VIEW_MASK) + random.below(GUARD),
            };
            let displacement = match random.below(3) {
                0 => i64::from(i32::MIN),
                1 => i64::from(i32::MAX) + 64,
                _ => i64::from(random.next() as i32),
            };
            let views = &tlb.bank(tlb.current_bank()).views;
            let region = (pointer & VIEW_MASK) >> VIEW_MASK.trailing_zeros();
            let mut distances = vec![views.distances[region as usize]];
            for (usual, is_usual) in views.usual.iter().zip(&views.is_usual) {
                if u64::from(is_usual[region as usize]) == region {
                    distances.push(*usual);
                }
            }
            // Code there does not ask for what lies around it.
            let unasked = tlb.sees_evenly() && Tlb::is_seen_evenly(pointer);
            if open.contains(&region) || unasked {
                distances.push(views.usual[0]);
            }
            for distance in distances {
                let host = pointer.wrapping_add(distance).wrapping_add(displacement as u64);
                let reserved =
                    areas.iter().any(|area| host >= area.start - GUARD && host < area.end + GUARD);
                // No user memory of the host's has such addresses.
                assert!(reserved || host >> 47 != 0, "{pointer:x} {displacement:x} {host:x}");
            }
        }
    }
}
