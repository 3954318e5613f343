//! Tests of the TLB.

use super::*;

#[test]
fn address_spaces_do_not_see_each_other() {
    let mut tlb = Tlb::new().unwrap();
    tlb.switch(1);
    tlb.insert(Tlb::USER, false, false, 0x1234, 0x8_0000);
    assert_eq!(tlb.lookup_read(Tlb::USER, 0x1238), Some(0x8_0238));
    assert_eq!(tlb.lookup_write(Tlb::USER, 0x1238), None);
    tlb.switch(2);
    assert_eq!(tlb.lookup_read(Tlb::USER, 0x1238), None);
    tlb.switch(1);
    assert!(tlb.lookup_read(Tlb::USER, 0x1238).is_some());
    tlb.flush_pcid(1);
    assert_eq!(tlb.lookup_read(Tlb::USER, 0x1238), None);
}

#[test]
fn more_address_spaces_than_banks_share_nothing() {
    let mut tlb = Tlb::new().unwrap();
    for pcid in 0..100 {
        tlb.switch(pcid);
        assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x5000), None);
        tlb.insert(Tlb::SUPERVISOR, true, false, 0x5000, 0x1000 * usize::from(pcid));
    }
    tlb.switch(99);
    assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x5000), Some(0x6_3000));
    tlb.flush_all();
    tlb.switch(98);
    assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x5000), None);
}

#[test]
fn empty_entries_match_nothing() {
    let mut tlb = Tlb::new().unwrap();
    for page in 0..2 * SECOND_ENTRIES as u64 {
        assert_eq!(tlb.lookup_read(Tlb::USER, page << 12), None);
    }
    tlb.insert(Tlb::USER, true, false, 0, 0x1000);
    tlb.flush_page(0);
    assert_eq!(tlb.lookup_write(Tlb::USER, 0), None);
    assert_eq!(tlb.lookup_write(Tlb::USER_ALIGNED, 0), None);
}

#[test]
fn protecting_a_page_leaves_reads() {
    let mut tlb = Tlb::new().unwrap();
    tlb.insert(Tlb::SUPERVISOR, true, false, 0x5000, 0x1000);
    tlb.insert(Tlb::SUPERVISOR, false, false, 0x5000, 0x1000);
    tlb.protect_host_page(0x1000);
    assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x5000), None);
    assert!(tlb.lookup_read(Tlb::SUPERVISOR, 0x5000).is_some());
}

#[test]
fn a_page_is_protected_wherever_it_was_entered() {
    let mut tlb = Tlb::new().unwrap();
    let (shared, other) = (0x1000, 0x2000);
    // More places than are kept of a page, in all banks and sets.
    for count in 1..6 {
        for pcid in 1..=BANKS as u16 {
            tlb.switch(pcid);
            for set in 0..SETS {
                for place in 0..count {
                    tlb.insert(set, true, true, 0x7000_0000 + (place << 12), shared);
                    // In the same slots of the first level.
                    tlb.insert(set, true, true, place * (ENTRIES as u64 * 0x1000), shared);
                }
                tlb.insert(set, true, true, 0x9000_0000, other);
            }
        }
        tlb.protect_host_page(shared);
        for pcid in 1..=BANKS as u16 {
            tlb.switch(pcid);
            for set in 0..SETS {
                for place in 0..count {
                    for page in [0x7_0000 + place, place * ENTRIES as u64] {
                        assert_eq!(tlb.lookup_write(set, page << 12), None);
                    }
                }
                assert_eq!(tlb.lookup_write(set, 0x9000_0000), Some(other));
            }
        }
    }
}

#[test]
fn no_more_pages_are_kept_as_writable_than_can_be_found() {
    let mut tlb = Tlb::new().unwrap();
    tlb.insert(Tlb::USER, true, false, 0x5000, 0x1000);
    for page in 2..0x2_0000 {
        tlb.insert(Tlb::USER, true, false, 0x8000_0000 + (page << 12), page as usize * 0x1000);
    }
    assert_eq!(tlb.lookup_write(Tlb::USER, 0x5000), None);
    let last = 0x1_ffff;
    assert!(tlb.lookup_write(Tlb::USER, 0x8000_0000 + (last << 12)).is_some());
    tlb.protect_host_page(last as usize * 0x1000);
    assert_eq!(tlb.lookup_write(Tlb::USER, 0x8000_0000 + (last << 12)), None);
}

#[test]
fn protected_pages_are_not_writable_whatever_happened_before() {
    let mut random = ambos_random::Random::new(7);
    let mut tlb = Tlb::new().unwrap();
    for _ in 0..20_000 {
        let linear = random.below(64) * (ENTRIES as u64 * 0x400);
        let host = 0x1000 * (1 + random.index(6));
        match random.below(12) {
            0 => tlb.switch(random.below(12) as u16),
            1 => tlb.flush_pcid(random.below(12) as u16),
            2 => tlb.flush_page(linear),
            3 if random.below(20) == 0 => tlb.flush_all(),
            4 if random.below(20) == 0 => tlb.protect_all(),
            5 => {
                tlb.bring_forward(random.index(SETS), true, linear);
            }
            6 => {
                tlb.protect_host_page(host);
                for bank in (0..BANKS).map(|bank| tlb.bank(bank)) {
                    for level in bank.sets.iter().flat_map(|set| set.levels(Cache::Write)) {
                        assert!(level.iter().all(|entry| entry.value != host));
                    }
                }
            }
            _ => tlb.insert(random.index(SETS), true, false, linear, host),
        }
    }
}

#[test]
fn the_upper_half_outlives_a_flush_of_the_lower() {
    const UPPER: u64 = 0xffff_8800_0000_5000;
    for lower_pages in [3, 1000] {
        let mut tlb = Tlb::new().unwrap();
        tlb.tell_halves_apart();
        tlb.switch(1);
        tlb.insert(Tlb::USER, false, false, UPPER, 0x10_0000);
        tlb.insert(Tlb::USER, true, false, UPPER, 0x10_0000);
        tlb.insert_fetch(true, false, UPPER + 0x1000, 0, 0, 0);
        tlb.set_jump(Tlb::USER, UPPER + 0x1010, false, 99, None);
        // They may take slots from those of the upper half, but not all of them.
        for page in (0..lower_pages).map(|page| 0x7000_0000 + (page << 12)) {
            tlb.insert(Tlb::USER, true, false, page, 0x20_0000);
            tlb.insert_fetch(true, false, page, 0, 0, 0);
            tlb.set_jump(Tlb::USER, page + 16, false, 98, None);
        }
        tlb.switch(2);
        tlb.insert(Tlb::USER, true, false, 0x7000_0000, 0x20_0000);
        tlb.flush_lower_half_of(1);
        assert!(tlb.lookup_write(Tlb::USER, 0x7000_0000).is_some());
        tlb.switch(1);
        assert!(tlb.lookup_read(Tlb::USER, UPPER).is_some());
        assert!(tlb.lookup_write(Tlb::USER, UPPER).is_some());
        assert!(tlb.lookup_fetch(true, UPPER + 0x1000).is_some());
        assert_eq!(jump(&tlb, Tlb::USER, UPPER + 0x1010), Some(99));
        for page in (0..lower_pages).map(|page| 0x7000_0000 + (page << 12)) {
            assert_eq!(tlb.lookup_write(Tlb::USER, page), None);
            assert!(tlb.lookup_fetch(true, page).is_none());
            assert_eq!(jump(&tlb, Tlb::USER, page + 16), None);
        }
        // What was dropped can be entered and dropped again.
        tlb.insert(Tlb::USER, true, false, 0x7000_0000, 0x20_0000);
        tlb.flush_lower_half_of(1);
        assert_eq!(tlb.lookup_write(Tlb::USER, 0x7000_0000), None);
        tlb.flush_pcid(1);
        assert_eq!(tlb.lookup_write(Tlb::USER, UPPER), None);
        assert_eq!(jump(&tlb, Tlb::USER, UPPER + 0x1010), None);
    }
}

#[test]
fn what_only_the_first_level_has_is_dropped() {
    let mut tlb = Tlb::new().unwrap();
    tlb.tell_halves_apart();
    let upper = 0xffff_8880_0000_0000_u64;
    let place = Cache::Read.slots(Tlb::USER, upper);
    let takes_second = |page: &u64| {
        let slots = Cache::Read.slots(Tlb::USER, *page);
        slots[0] != place[0] && slots[1] == place[1]
    };
    let lower = (1..1 << 20).map(|page| page << 12).find(takes_second).unwrap();
    tlb.insert(Tlb::USER, false, false, upper, 0x1000);
    tlb.insert(Tlb::USER, false, false, lower, 0x2000);
    for page in 0..LocalPages::MANY as u64 {
        tlb.insert(Tlb::USER, true, false, 0x7000_0000 + (page << 12), 0x3000);
    }
    tlb.flush_lower_half_of(0);
    assert_eq!(tlb.lookup_read(Tlb::USER, lower), None);
    assert_eq!(tlb.lookup_read(Tlb::USER, upper), Some(0x1000));
    tlb.flush_page_of(0, upper);
    assert_eq!(tlb.lookup_read(Tlb::USER, upper), None);
}

#[test]
fn where_halves_are_told_apart_another_address_space_finds_nothing() {
    let mut tlb = Tlb::new().unwrap();
    tlb.tell_halves_apart();
    for pcid in 1..100 {
        tlb.switch(pcid);
        assert_eq!(tlb.lookup_write(Tlb::USER, !0xfff), None);
        tlb.insert(Tlb::USER, true, false, !0xfff, 0x1000);
        if pcid % 3 == 0 {
            tlb.flush_pcid(pcid - 1);
        }
    }
}

/// The code that the jump cache has for `linear`.
fn jump(tlb: &Tlb, set: usize, linear: u64) -> Option<usize> {
    let levels = tlb.bank(tlb.current).sets[set].levels(Cache::Jumps);
    let slots = Cache::Jumps.slots(set, linear);
    let mut entries = levels.into_iter().zip(slots).map(|(level, slot)| level[slot]);
    entries.find(|entry| entry.key == linear).map(|entry| entry.value)
}

#[test]
fn jumps_go_with_the_fetch_translation_of_their_pages() {
    let mut tlb = Tlb::new().unwrap();
    tlb.set_jump(Tlb::USER, 0x7010, false, 99, None);
    assert_eq!(jump(&tlb, Tlb::USER, 0x7010), None);
    tlb.insert_fetch(true, false, 0x7000, 0, 0, 0);
    tlb.set_jump(Tlb::USER, 0x7010, false, 99, None);
    tlb.set_jump(Tlb::USER, 0x7ffa, true, 98, None);
    assert_eq!(jump(&tlb, Tlb::USER, 0x7010), Some(99));
    assert_eq!(jump(&tlb, Tlb::USER, 0x7ffa), None);
    tlb.insert_fetch(true, false, 0x8000, 0, 0, 0);
    tlb.set_jump(Tlb::USER, 0x7ffa, true, 98, None);
    assert_eq!(jump(&tlb, Tlb::USER, 0x7ffa), Some(98));
    tlb.flush_page(0x9000);
    tlb.flush_page(0x8000);
    assert_eq!(jump(&tlb, Tlb::USER, 0x7ffa), None);
    assert_eq!(jump(&tlb, Tlb::USER, 0x7010), Some(99));
    tlb.flush_page(0x7000);
    assert_eq!(jump(&tlb, Tlb::USER, 0x7010), None);
}

#[test]
fn what_shares_a_slot_stays_in_the_second_level() {
    let mut tlb = Tlb::new().unwrap();
    let far = 0x1000 * ENTRIES as u64;
    for round in 0..3 {
        tlb.insert(Tlb::USER, false, false, 0x5000, 0x10_0000);
        tlb.insert(Tlb::USER, false, false, 0x5000 + far, 0x20_0000);
        assert_eq!(tlb.lookup_read(Tlb::USER, 0x5008), Some(0x10_0008), "round {round}");
        assert_eq!(tlb.lookup_read(Tlb::USER, 0x5008 + far), Some(0x20_0008));
    }
    tlb.flush_page(0x5000);
    assert_eq!(tlb.lookup_read(Tlb::USER, 0x5008), None);
    assert_eq!(tlb.lookup_read(Tlb::USER, 0x5008 + far), Some(0x20_0008));
    tlb.flush_all();
    assert_eq!(tlb.lookup_read(Tlb::USER, 0x5008 + far), None);
}

#[test]
fn global_pages_of_the_supervisor_outlive_their_address_space() {
    let mut tlb = Tlb::new().unwrap();
    tlb.switch(1);
    tlb.insert(Tlb::SUPERVISOR, false, true, 0x5000, 0x10_0000);
    tlb.insert(Tlb::USER, false, false, 0x6000, 0x20_0000);
    tlb.insert_fetch(false, true, 0x7000, 0, 0, 0);
    tlb.set_jump(Tlb::SUPERVISOR, 0x7010, false, 99, None);
    tlb.flush_pcid(1);
    assert!(tlb.lookup_read(Tlb::SUPERVISOR, 0x5000).is_some());
    assert_eq!(tlb.lookup_read(Tlb::USER, 0x6000), None);
    assert_eq!(jump(&tlb, Tlb::SUPERVISOR, 0x7010), Some(99));
    // In a bank that no address space has they are found and dropped as well.
    tlb.switch(2);
    tlb.flush_pcid(1);
    tlb.flush_page(0x5000);
    tlb.flush_page(0x7000);
    for pcid in 3..3 + BANKS as u16 {
        tlb.switch(pcid);
        assert_eq!(tlb.lookup_read(Tlb::SUPERVISOR, 0x5000), None);
        assert_eq!(jump(&tlb, Tlb::SUPERVISOR, 0x7010), None);
    }
}

#[test]
fn flushing_everything_takes_global_pages_along() {
    let mut tlb = Tlb::new().unwrap();
    tlb.switch(1);
    tlb.insert(Tlb::SUPERVISOR, false, true, 0x5000, 0x10_0000);
    tlb.switch(2);
    tlb.flush_pcid(1);
    tlb.flush_all();
    for pcid in 3..3 + BANKS as u16 {
        tlb.switch(pcid);
        assert_eq!(tlb.lookup_read(Tlb::SUPERVISOR, 0x5000), None);
    }
}

#[test]
fn a_page_goes_from_one_address_space_only() {
    let mut tlb = Tlb::new().unwrap();
    for (space, page) in [(1, 0x5000), (1, 0x6000), (2, 0x5000)] {
        tlb.switch(space);
        tlb.insert(Tlb::USER, false, false, page, 0x10_0000);
    }
    tlb.flush_page_of(1, 0x5123);
    tlb.flush_page_of(7, 0x5000);
    assert!(tlb.lookup_read(Tlb::USER, 0x5000).is_some());
    tlb.switch(1);
    assert_eq!(tlb.lookup_read(Tlb::USER, 0x5000), None);
    assert!(tlb.lookup_read(Tlb::USER, 0x6000).is_some());
}

#[test]
fn global_pages_stay_when_a_few_others_go() {
    let mut tlb = Tlb::new().unwrap();
    tlb.switch(1);
    tlb.insert(Tlb::SUPERVISOR, false, true, 0x5000, 0x10_0000);
    tlb.insert(Tlb::SUPERVISOR, true, false, 0x6000, 0x20_0000);
    tlb.insert_fetch(false, false, 0x7000, 0, 0, 0);
    tlb.set_jump(Tlb::SUPERVISOR, 0x7010, false, 99, None);
    tlb.flush_pcid(1);
    assert!(tlb.lookup_read(Tlb::SUPERVISOR, 0x5000).is_some());
    assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x6000), None);
    assert!(tlb.lookup_fetch(false, 0x7000).is_none());
    assert_eq!(jump(&tlb, Tlb::SUPERVISOR, 0x7010), None);
    for page in 0..1000 {
        tlb.insert(Tlb::SUPERVISOR, false, false, page << 12, 0x1000);
    }
    tlb.flush_pcid(1);
    assert!((0..1000).all(|page| tlb.lookup_read(Tlb::SUPERVISOR, page << 12).is_none()));
}

#[test]
fn pages_of_one_address_space_go_with_it() {
    let mut tlb = Tlb::new().unwrap();
    tlb.switch(1);
    tlb.insert(Tlb::SUPERVISOR, false, true, 0x5000, 0x10_0000);
    tlb.insert(Tlb::SUPERVISOR, true, false, 0x6000, 0x20_0000);
    tlb.flush_pcid(1);
    assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x6000), None);
}

#[test]
fn the_set_of_user_accesses_may_lie_first() {
    let mut tlb = Tlb::new().unwrap();
    tlb.insert(Tlb::USER, true, false, 0x5000, 0x6_1000);
    tlb.put_user_first();
    assert_eq!(tlb.lookup_write(Tlb::USER, 0x5000), None);
    tlb.insert(Tlb::USER, true, false, 0x5000, 0x6_2000);
    tlb.insert(Tlb::SUPERVISOR, true, false, 0x5000, 0x6_3000);
    let bank = tlb.bank(tlb.current_bank());
    let first = |set: usize| bank.sets[set].pages[bank::write_slot(set, 0x5000)].value;
    assert_eq!([first(tlb.place(Tlb::USER)), first(0)], [0x6_2000; 2]);
    assert_eq!(first(1), 0x6_3000);
    assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x5000), Some(0x6_3000));
    tlb.flush_page(0x5000);
    assert!(
        [Tlb::USER, Tlb::SUPERVISOR].iter().all(|&set| tlb.lookup_write(set, 0x5000).is_none())
    );
}

#[test]
fn jumps_are_found_until_they_are_forgotten() {
    let mut tlb = Tlb::new().unwrap();
    tlb.bar_jumps(77);
    for linear in [0x7010, BARRED_JUMP] {
        tlb.insert_fetch(true, false, linear & !0xfff, 0, 0, 0);
        tlb.set_jump(Tlb::USER, linear, false, 99, None);
    }
    assert_eq!(tlb.lookup_jump(Tlb::USER, 0x7010), Some(99));
    assert_eq!(tlb.lookup_jump(Tlb::SUPERVISOR, 0x7010), None);
    // What bars the jump cache leads nowhere, and stays.
    assert_eq!(tlb.lookup_jump(Tlb::USER, BARRED_JUMP), None);
    tlb.forget_jump(Tlb::USER, BARRED_JUMP);
    assert_eq!(tlb.bank(0).sets[Tlb::USER].jumps[0].value, 77);
    tlb.forget_jump(Tlb::USER, 0x7010);
    assert_eq!(tlb.lookup_jump(Tlb::USER, 0x7010), None);
    tlb.set_jump(Tlb::USER, 0x7010, false, 98, None);
    tlb.flush_page(0x7000);
    assert_eq!(tlb.lookup_jump(Tlb::USER, 0x7010), None);
    assert_eq!(tlb.lookup_jump(Tlb::USER_ALIGNED, 0x7010), None);
}
