use crate::domain::Domain;
use crate::testing::{Guest, TABLES, WINDOW};
use ambos_x86::paging::{PRESENT, WRITE};
use ambos_xen_abi::grant::{flag, map, op, status};
use ambos_xen_abi::mmu::{ext, va};
use ambos_xen_abi::{DomainId, Errno, Hypercall as H};

fn error(error: Errno) -> i64 {
    error.result() as i64
}

/// A guest that grants its page 0x70 to itself, by entry 8, and does not map it.
fn granting() -> (Guest, u64) {
    let mut guest = Guest::new();
    let frame = guest.frame(0x70);
    assert_eq!(guest.call(H::UpdateVaMapping, &[WINDOW + 0x70_000, 0, va::LOCAL]), 0);
    grant(&guest, frame, flag::PERMIT_ACCESS);
    (guest, frame)
}

fn grant(guest: &Guest, frame: u64, flags: u16) {
    let at = (guest.domain.layout.grants << 12) + 8 * 8;
    let domain = u64::from(Domain::ID.0);
    guest.domain.ram().store_word(at, frame << 32 | domain << 16 | u64::from(flags));
}

fn busy(guest: &Guest) -> u16 {
    let at = (guest.domain.layout.grants << 12) + 8 * 8;
    guest.domain.ram().load_word(at) as u16 & (flag::READING | flag::WRITING)
}

/// Maps entry 8; the status and the handle.
fn map_at(guest: &mut Guest, address: u64, flags: u32, from: DomainId) -> (i16, u32) {
    let at = guest.put(&[address, u64::from(flags) | 8 << 32, from.0.into(), 0]);
    assert_eq!(guest.call(H::GrantTableOp, &[op::MAP_GRANT_REF, at, 1]), 0);
    let answer = guest.word(2);
    ((answer >> 16) as i16, (answer >> 32) as u32)
}

fn unmap(guest: &mut Guest, operation: u64, address: u64, second: u64, handle: u32) -> i16 {
    let at = guest.put(&[address, second, handle.into()]);
    assert_eq!(guest.call(H::GrantTableOp, &[operation, at, 1]), 0);
    (guest.word(2) >> 32) as i16
}

fn entry_at(guest: &Guest, page: u64) -> u64 {
    guest.domain.ram().load_word((guest.frame(TABLES[3]) << 12) + page * 8)
}

/// Whether the frame can become a page table, which it cannot while it is mapped writable.
fn can_be_table(guest: &mut Guest, frame: u64) -> bool {
    let pin = |guest: &mut Guest, command: u32| {
        let at = guest.put(&[command.into(), frame, 0]);
        guest.call(H::MmuextOp, &[at, 1, 0, DomainId::SELF.0.into()])
    };
    let pinned = pin(guest, ext::PIN_L1_TABLE) == 0;
    if pinned {
        assert_eq!(pin(guest, ext::UNPIN_TABLE), 0);
    }
    pinned
}

#[test]
fn a_guest_maps_what_it_grants_to_itself() {
    let (mut guest, frame) = granting();
    let address = WINDOW + 0x71_000;
    let (code, handle) = map_at(&mut guest, address, map::HOST, Domain::ID);
    assert_eq!(code, status::OKAY);
    assert_eq!(entry_at(&guest, 0x71) >> 12 & 0xff_ffff, frame);
    assert_eq!(busy(&guest), flag::READING | flag::WRITING);
    assert!(!can_be_table(&mut guest, frame));
    // Another entry than the one that was made; another handle.
    assert_eq!(unmap(&mut guest, op::UNMAP_GRANT_REF, WINDOW, 0, handle), status::GENERAL_ERROR);
    assert_eq!(unmap(&mut guest, op::UNMAP_GRANT_REF, address, 0, 77), status::BAD_HANDLE);
    assert_eq!(unmap(&mut guest, op::UNMAP_GRANT_REF, address, 0, handle), status::OKAY);
    assert_eq!((entry_at(&guest, 0x71), busy(&guest)), (0, 0));
    assert!(can_be_table(&mut guest, frame));
    assert_eq!(unmap(&mut guest, op::UNMAP_GRANT_REF, address, 0, handle), status::BAD_HANDLE);
}

#[test]
fn each_half_of_a_mapping_keeps_the_grant_in_use() {
    let (mut guest, frame) = granting();
    let address = WINDOW + 0x71_000;
    let (code, handle) = map_at(&mut guest, address, map::HOST | map::DEVICE, Domain::ID);
    assert_eq!(code, status::OKAY);
    assert_eq!(unmap(&mut guest, op::UNMAP_GRANT_REF, address, 0, handle), status::OKAY);
    assert!(!can_be_table(&mut guest, frame));
    let wrong = (frame + 1) << 12;
    assert_eq!(unmap(&mut guest, op::UNMAP_GRANT_REF, 0, wrong, handle), status::GENERAL_ERROR);
    assert_eq!(unmap(&mut guest, op::UNMAP_GRANT_REF, 0, frame << 12, handle), status::OKAY);
    assert!(can_be_table(&mut guest, frame));
}

#[test]
fn an_entry_that_was_changed_since_is_not_unmapped_and_the_grant_stays_in_use() {
    let (mut guest, frame) = granting();
    let address = WINDOW + 0x71_000;
    let (_, handle) = map_at(&mut guest, address, map::HOST, Domain::ID);
    let readable = frame << 12 | PRESENT;
    assert_eq!(guest.call(H::UpdateVaMapping, &[address, readable, va::LOCAL]), 0);
    assert_eq!(unmap(&mut guest, op::UNMAP_GRANT_REF, address, 0, handle), status::GENERAL_ERROR);
    assert!(!can_be_table(&mut guest, frame));
}

#[test]
fn a_mapping_can_be_replaced_by_another() {
    let (mut guest, frame) = granting();
    let (address, other) = (WINDOW + 0x71_000, WINDOW + 0x72_000);
    let moved = entry_at(&guest, 0x72);
    let flags = map::HOST | map::READONLY;
    let (_, handle) = map_at(&mut guest, address, flags, Domain::ID);
    assert_eq!(entry_at(&guest, 0x71) & WRITE, 0);
    assert_eq!(busy(&guest), flag::READING);
    let replaced = unmap(&mut guest, op::UNMAP_AND_REPLACE, address, other, handle);
    assert_eq!((replaced, busy(&guest)), (status::OKAY, 0));
    assert_eq!((entry_at(&guest, 0x71) ^ moved) >> 12, 0);
    assert_eq!(entry_at(&guest, 0x72), 0);
    assert!(can_be_table(&mut guest, frame));
}

#[test]
fn a_mapping_names_an_entry_by_its_own_address_too() {
    let (mut guest, frame) = granting();
    let at = (guest.frame(TABLES[3]) << 12) + 0x71 * 8;
    let flags = map::HOST | map::CONTAINS_PTE;
    for wrong in [at + 4, guest.frame(0x73) << 12, !7] {
        let (code, _) = map_at(&mut guest, wrong, flags, Domain::ID);
        assert_eq!(code, status::GENERAL_ERROR, "{wrong:#x}");
    }
    assert_eq!(busy(&guest), 0);
    let (code, handle) = map_at(&mut guest, at, flags, Domain::ID);
    assert_eq!((code, entry_at(&guest, 0x71) >> 12 & 0xff_ffff), (status::OKAY, frame));
    assert_eq!(unmap(&mut guest, op::UNMAP_GRANT_REF, at, 0, handle), status::OKAY);
}

#[test]
fn mappings_that_nobody_permits_are_refused() {
    let (mut guest, frame) = granting();
    let address = WINDOW + 0x71_000;
    for (flags, from, expected) in [
        (0, Domain::ID, status::BAD_GNTREF),
        (map::HOST, DomainId::CONTROL, status::GENERAL_ERROR),
        (map::HOST, DomainId(7), status::BAD_DOMAIN),
    ] {
        assert_eq!(map_at(&mut guest, address, flags, from).0, expected);
    }
    grant(&guest, frame, flag::PERMIT_ACCESS | flag::READONLY);
    assert_eq!(map_at(&mut guest, address, map::HOST, Domain::ID).0, status::GENERAL_ERROR);
    let table = guest.frame(TABLES[3]);
    grant(&guest, table, flag::PERMIT_ACCESS);
    assert_eq!(map_at(&mut guest, address, map::HOST, Domain::ID).0, status::BAD_PAGE);
    assert_eq!(busy(&guest), 0);
}

#[test]
fn copies_take_grants_and_frames() {
    let (mut guest, frame) = granting();
    let text = WINDOW + 0x72_000;
    ambos_vcpu::GuestCpu::write(&mut guest.cpu, text, b"text").unwrap();
    let source = guest.frame(0x72);
    let own = u64::from(Domain::ID.0);
    let this = u64::from(DomainId::SELF.0);
    let mut copy = |from: [u64; 2], to: [u64; 2], flags: u64| {
        let at = guest.put(&[from[0], from[1], to[0], to[1], 4 | flags << 16]);
        assert_eq!(guest.call(H::GrantTableOp, &[op::COPY, at, 1]), 0);
        (guest.word(4) >> 32) as i16
    };
    assert_eq!(copy([source, this], [8, own | 16 << 16], 2), status::OKAY);
    assert_eq!(copy([source, own], [8, own], 2), status::PERMISSION_DENIED);
    assert_eq!(copy([source, this], [8, 0], 2), status::GENERAL_ERROR);
    assert_eq!(copy([source, this], [1 << 20, own], 2), status::BAD_GNTREF);
    assert_eq!(copy([source, this | 4093 << 16], [8, own], 2), status::BAD_COPY_ARG);
    let ram = guest.domain.ram();
    assert_eq!(ram.load_word((frame << 12) + 16).to_le_bytes(), *b"text\0\0\0\0");
    assert_eq!(busy(&guest), 0);
}

#[test]
fn the_second_layout_shows_uses_in_a_table_of_its_own() {
    let mut guest = Guest::new();
    let page = guest.frame(0x70);
    let at = guest.put(&[2]);
    assert_eq!(guest.call(H::GrantTableOp, &[op::SET_VERSION, at, 1]), 0);
    // What the domain builder grants is still there.
    let console = guest.frame(0x20);
    assert_eq!(guest.domain.begin_grant(0, true), Ok(console << 12));
    guest.domain.end_grant(0, true);

    let at = guest.put(&[1 | 0x7ff0 << 32, WINDOW + 0x1040]);
    assert_eq!(guest.call(H::GrantTableOp, &[op::GET_STATUS_FRAMES, at, 1]), 0);
    let (answer, states) = (guest.word(0) >> 48, guest.word(8));
    assert_eq!((answer, states), (0, guest.domain.layout.grant_status));
    let at = guest.put(&[9 | 0x7ff0 << 32, WINDOW + 0x1040]);
    assert_eq!(guest.call(H::GrantTableOp, &[op::GET_STATUS_FRAMES, at, 1]), 0);
    assert_eq!((guest.word(0) >> 48) as i16, status::GENERAL_ERROR);

    let entry = (guest.domain.layout.grants << 12) + 9 * 16;
    let ram = guest.domain.ram();
    ram.store_word(entry, flag::PERMIT_ACCESS.into());
    ram.store_word(entry + 8, page);
    let state = || (ram.load_word((states << 12) + 16) >> 16) as u16;
    assert_eq!(guest.domain.begin_grant(9, true), Ok(page << 12));
    assert_eq!(state(), flag::READING | flag::WRITING);
    let at = guest.put(&[1]);
    assert_eq!(guest.call(H::GrantTableOp, &[op::SET_VERSION, at, 1]), error(Errno::EBUSY));
    assert_eq!(guest.word(0), 2);
    guest.domain.end_grant(9, true);
    let ram = guest.domain.ram();
    let state = || (ram.load_word((states << 12) + 16) >> 16) as u16;
    assert_eq!(state(), 0);
    // A part of a page cannot be mapped.
    ram.store_word(entry, u64::from(flag::PERMIT_ACCESS | flag::SUB_PAGE) | 16 << 48);
    assert_eq!(guest.domain.begin_grant(9, true), Err(crate::GrantRefusal::NotGranted));
    ram.store_word(entry, 0);
    assert_eq!(guest.domain.begin_grant(9, true), Err(crate::GrantRefusal::NotGranted));
    assert_eq!(state(), 0);

    // The table of states stays while the guest maps it.
    let mapping = [WINDOW + 0x71_000, states << 12 | PRESENT | WRITE, va::LOCAL];
    assert_eq!(guest.call(H::UpdateVaMapping, &mapping), 0);
    let at = guest.put(&[1]);
    assert_eq!(guest.call(H::GrantTableOp, &[op::SET_VERSION, at, 1]), error(Errno::EBUSY));
    assert_eq!(guest.call(H::UpdateVaMapping, &[mapping[0], 0, va::LOCAL]), 0);
    for (asked, result, now) in [(1, 0, 1), (3, error(Errno::EINVAL), 1)] {
        let at = guest.put(&[asked]);
        assert_eq!(guest.call(H::GrantTableOp, &[op::SET_VERSION, at, 1]), result);
        assert_eq!(guest.word(0), now);
    }
    assert_eq!(guest.domain.begin_grant(0, true), Ok(console << 12));
}

#[test]
fn grants_permit_what_they_say() {
    let mut guest = Guest::new();
    let size = guest.put(&[0x7ff0, 0]);
    assert_eq!(guest.call(H::GrantTableOp, &[6, size, 1]), 0);
    assert_eq!(guest.word(0) >> 32, 1);
    assert_eq!(guest.call(H::GrantTableOp, &[6, size, 2]), error(Errno::EINVAL));
    let ram = guest.domain.ram();
    let entry = |reference: u64| (guest.domain.layout.grants << 12) + reference * 8;
    let page = guest.frame(0x70);
    ram.store_word(entry(9), page << 32 | 1);
    assert_eq!(guest.domain.begin_grant(9, true), Ok(page << 12));
    assert_eq!(ram.load_word(entry(9)) as u16, 1 | 8 | 16);
    guest.domain.end_grant(9, true);
    assert_eq!(ram.load_word(entry(9)) as u16, 1);
    // Read-only; not for us; a page table; no memory.
    ram.store_word(entry(9), page << 32 | 5);
    assert_eq!(guest.domain.begin_grant(9, true), Err(crate::GrantRefusal::Denied));
    ram.store_word(entry(9), page << 32 | 7 << 16 | 1);
    assert_eq!(guest.domain.begin_grant(9, false), Err(crate::GrantRefusal::NotGranted));
    let table = guest.frame(TABLES[3]);
    ram.store_word(entry(9), table << 32 | 1);
    assert_eq!(guest.domain.begin_grant(9, true), Err(crate::GrantRefusal::BadPage));
    ram.store_word(entry(9), 1 << 62 | 1);
    assert_eq!(guest.domain.begin_grant(9, false), Err(crate::GrantRefusal::BadPage));
    assert_eq!(guest.domain.begin_grant(u32::MAX, false), Err(crate::GrantRefusal::BadReference));
}
