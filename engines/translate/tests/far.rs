//! Jumps and calls to other pages lead to what is mapped there now.

mod common;

use ambos_vcpu::CpuState;
use common::place::Place;
use common::services::{self, RELOAD, REMAP, SWAP, entry_of};
use common::{ABSENT, CODE};
use vm_memory::{Bytes, GuestAddress};

const NEAR: u64 = CODE + 0x1000;
const OTHER: u64 = CODE + 0x2000;
const HLT: u8 = 0xf4;

/// Runs under both engines, in supervisor and in user mode; returns the translator's states.
fn agree(code: &[Place], change: impl Fn(&mut CpuState)) -> Vec<CpuState> {
    let mut states = Vec::new();
    for (user, views) in common::MODES {
        let (mut reference, reference_ram) = common::interpreter();
        let (mut engine, ram, _) = common::translator_with(views);
        let mut start = services::start(user);
        change(&mut start);
        for ram in [&reference_ram, &ram] {
            services::install(ram, NEAR, OTHER);
            services::second_tables(ram, NEAR, OTHER);
            code.iter().for_each(|place| place.store(ram));
        }
        let (want, want_data) = common::place::run(&mut reference, &reference_ram, &start);
        let (got, got_data) = common::place::run(&mut engine, &ram, &start);
        assert_eq!(got.gpr, want.gpr, "user {user}\n{:x?}\n{:x?}", got.gpr, want.gpr);
        assert_eq!(got.rip, want.rip, "user {user}");
        assert_eq!(got.control, want.control, "user {user}");
        let different = (0..got_data.len()).find(|&at| {
            // Flags in frames of exceptions.
            got_data[at] != want_data[at] && at & 7 >= 2
        });
        assert_eq!(different, None, "user {user}");
        assert!(engine.statistics().links > 0, "{:?}", engine.statistics());
        states.push(got);
    }
    states
}

/// Functions of the two pages that take turns: they add 1 and 0x10000 to RBX.
fn functions() -> Vec<Place> {
    let one = [0x48, 0x83, 0xc3, 1, 0xc3];
    let other = [0x48, 0x81, 0xc3, 0, 0, 1, 0, 0xc3];
    vec![Place::of(NEAR, &one), Place::of(OTHER, &other)]
}

/// A loop that calls the function often, and `between` each time; R12 counts.
fn calls(between: &[u8]) -> Place {
    let mut place = Place::at(CODE);
    for _ in 0..2 {
        place.call(NEAR);
        place.call(NEAR);
        place.raw(between);
    }
    // dec r12; jnz start; hlt
    place.raw(&[0x49, 0xff, 0xcc]);
    place.jump_if(5, CODE);
    place.raw(&[HLT]);
    place
}

fn counting(state: &mut CpuState) {
    (state.gpr[12], state.gpr[3]) = (100, 0);
}

#[test]
fn a_page_that_is_remapped_has_its_new_code() {
    let mut code = functions();
    code.push(calls(&[0xcd, SWAP]));
    for state in agree(&code, counting) {
        assert_eq!(state.gpr[3], 200 * 0x1_0001);
    }
}

#[test]
fn code_that_is_rewritten_is_come_to_without_faults_of_the_host() {
    let (mut reference, reference_ram) = common::interpreter();
    let (mut engine, ram, _) = common::translator();
    let mut start = services::start(false);
    counting(&mut start);
    // The number that the function adds.
    (start.gpr[7], start.gpr[0]) = (NEAR + 3, NEAR);
    let mut place = Place::at(CODE);
    // inc byte ptr [rdi]; call rax, and directly
    place.raw(&[0xfe, 0x07, 0xff, 0xd0]);
    place.raw(&[0xfe, 0x07]);
    place.call(NEAR);
    // dec r12; jnz start; hlt
    place.raw(&[0x49, 0xff, 0xcc]);
    place.jump_if(5, CODE);
    place.raw(&[HLT]);
    for ram in [&reference_ram, &ram] {
        services::install(ram, NEAR, OTHER);
        functions().iter().chain([&place]).for_each(|place| place.store(ram));
    }
    let (want, _) = common::place::run(&mut reference, &reference_ram, &start);
    let (got, _) = common::place::run(&mut engine, &ram, &start);
    assert_eq!((got.rip, got.gpr), (want.rip, want.gpr));
    let statistics = engine.statistics();
    assert!(statistics.invalidated > 50, "{statistics:?}");
    assert_eq!(statistics.host_faults, 0, "{statistics:?}");
}

#[test]
fn address_spaces_have_code_of_their_own() {
    // xor rsi, r13; int: CR3 changes
    let between = [0x4c, 0x31, 0xee, 0xcd, RELOAD];
    let mut code = functions();
    code.push(calls(&between));
    for (first, second, pcids) in [
        (0x1000, services::ROOTS[1], false),
        (0x1001, services::ROOTS[1] | 2, true),
        (0x1001 | 1 << 63, services::ROOTS[1] | 2 | 1 << 63, true),
        // The same identifier with other tables, flushed.
        (0x1003, services::ROOTS[1] | 3, true),
    ] {
        let states = agree(&code, |state| {
            counting(state);
            state.control.cr3 = first & !(1 << 63);
            if pcids {
                state.control.cr4 |= 1 << 17;
            }
            (state.gpr[6], state.gpr[13]) = (first, first ^ second);
        });
        for state in states {
            assert_eq!(state.gpr[3], 200 * 0x1_0001);
        }
    }
}

#[test]
fn one_page_of_code_at_two_addresses() {
    // The same page at OTHER as well, calling its next page, which differs.
    let shared = CODE + 0x8000;
    let mut function = Place::at(shared + 0x10);
    function.raw(&[0x48, 0x83, 0xc3, 1]);
    function.call(shared + 0x1000);
    function.raw(&[0xc3]);
    let again = CODE + 0xa000;
    let mut code = vec![function];
    code.push(Place::of(entry_of(again), &(shared | 7).to_le_bytes()));
    code.push(Place::of(shared + 0x1000, &[0x48, 0x81, 0xc3, 0, 1, 0, 0, 0xc3]));
    code.push(Place::of(again + 0x1000, &[0x48, 0x81, 0xc3, 0, 0, 1, 0, 0xc3]));
    let mut place = Place::at(CODE);
    for address in [shared, again, again, shared, shared, again] {
        place.call(address + 0x10);
    }
    place.raw(&[0x49, 0xff, 0xcc]);
    place.jump_if(5, CODE);
    place.raw(&[HLT]);
    code.push(place);
    for state in agree(&code, counting) {
        assert_eq!(state.gpr[3], 100 * (6 + 0x300 + 0x3_0000));
    }
}

#[test]
fn a_page_that_goes_faults() {
    // On the last turn the page becomes absent, not executable, or the supervisor's.
    for entry in [0, NEAR | 7 | 1 << 63, NEAR | 3] {
        for jump in [false, true] {
            let mut code = functions();
            let mut place = Place::at(CODE);
            let again = CODE + 0x20;
            if jump {
                // The function returns here.
                place.address_in_rax(again);
                place.raw(&[0x50]);
                place.jump(NEAR);
            } else {
                place.call(NEAR);
            }
            let left = (again - place.here()) as usize;
            place.raw(&vec![0x90; left]);
            // dec r12; jnz start
            place.raw(&[0x49, 0xff, 0xcc]);
            place.jump_if(5, CODE);
            // mov r12d, 1000; int: remaps; jmp start
            place.raw(&[0x41, 0xbc, 0xe8, 3, 0, 0, 0xcd, REMAP]);
            // dec r13; jnz start; hlt
            place.raw(&[0x49, 0xff, 0xcd]);
            place.jump_if(5, CODE);
            place.raw(&[HLT]);
            code.push(place);
            agree(&code, |state| {
                counting(state);
                state.gpr[13] = 2;
                (state.gpr[6], state.gpr[7], state.gpr[2]) = (entry, entry_of(NEAR), NEAR);
            });
        }
    }
}

#[test]
fn code_of_another_page_that_is_written_runs_as_written() {
    // inc byte [rdi]: the immediate operand of the function's ADD
    let mut code = functions();
    code.push(calls(&[0xfe, 0x07]));
    for state in agree(&code, |state| (counting(state), state.gpr[7] = NEAR + 3).0) {
        assert!(state.gpr[3] != 400);
    }
}

#[test]
fn numbers_of_pages_come_back() {
    // The function changes more often than there are numbers for its page.
    let mut code = functions();
    let mut first = calls(&[0xfe, 0x07]);
    first.bytes.pop();
    let behind = CODE + 0x800;
    first.jump(behind);
    code.push(first);
    let mut second = Place::at(behind);
    let again = second.here();
    second.call(NEAR);
    second.raw(&[0xcd, SWAP]);
    // dec r13; jnz again; hlt
    second.raw(&[0x49, 0xff, 0xcd]);
    second.jump_if(5, again);
    second.raw(&[HLT]);
    code.push(second);
    agree(&code, |state| {
        counting(state);
        (state.gpr[12], state.gpr[13], state.gpr[7]) = (6000, 300, NEAR + 3);
    });
}

#[test]
fn targets_that_straddle_pages() {
    // add rbx, imm32 across the border of NEAR and the next page, which takes turns with another one.
    let tail = NEAR + 0x1000;
    let stored = CODE + 0x9000;
    for split in 1..7 {
        let start = tail - split;
        let bytes = [0x48, 0x81, 0xc3, 0, 1, 0, 0, 0xc3];
        let (head, rest) = bytes.split_at(split as usize);
        let mut changed = rest.to_vec();
        let ret = changed.len() - 1;
        changed[ret.saturating_sub(1)] = if ret > 0 { 1 } else { 0xc3 };
        let mut place = Place::at(CODE);
        for _ in 0..2 {
            place.call(start);
            // xor rsi, r13; int: remaps
            place.raw(&[0x4c, 0x31, 0xee, 0xcd, REMAP]);
        }
        place.raw(&[0x49, 0xff, 0xcc]);
        place.jump_if(5, CODE);
        place.raw(&[HLT]);
        let code =
            [place, Place::of(start, head), Place::of(tail, rest), Place::of(stored, &changed)];
        agree(&code, |state| {
            counting(state);
            (state.gpr[6], state.gpr[13]) = (tail | 7, stored ^ tail);
            (state.gpr[7], state.gpr[2]) = (entry_of(tail), tail);
        });
    }
}

#[test]
fn code_that_goes_on_into_a_page_that_is_remapped() {
    // The function's page begins behind what goes on into it.
    let mut code = functions();
    let mut place = calls(&[0xcd, SWAP]);
    place.bytes.pop();
    // push the place to return to, with which the next page ends; then on to it
    place.address_in_rax(CODE + 0x800);
    place.raw(&[0x50]);
    let target = NEAR - 4;
    place.jump(target);
    code.push(place);
    code.push(Place::of(target, &[0x90, 0x48, 0xff, 0xc3]));
    let mut back = Place::of(CODE + 0x800, &[0x41, 0xbc, 50, 0, 0, 0, 0xcd, SWAP]);
    // dec r13; jnz start; hlt
    back.raw(&[0x49, 0xff, 0xcd]);
    back.jump_if(5, CODE);
    back.raw(&[HLT]);
    code.push(back);
    agree(&code, |state| (counting(state), state.gpr[13] = 20).0);
}

#[test]
fn a_call_to_an_absent_page_from_the_start() {
    let mut place = Place::at(CODE);
    place.raw(&[0x49, 0xff, 0xcc]);
    place.jump_if(5, CODE);
    place.call(ABSENT + 0x10);
    agree(&[place], counting);
}

#[test]
fn jumps_of_another_privilege_of_access_go_to_its_code() {
    // With SMAP a jump whose target straddles is followed through the jump cache of its own set, whatever the block
    // does to RFLAGS.AC behind it.
    let straddler = CODE + 0x1000 - 3;
    let mut place = Place::at(CODE);
    // stac: the straddling code is known in the other set; xor r15, r15
    let after = CODE + 0x100;
    place.raw(&[0x0f, 0x01, 0xcb, 0x4d, 0x31, 0xff]);
    place.jump(straddler);
    // Then: inc r15d; clac; test r12, r12; jz straddler; stac; dec r12; jmp straddler
    let mut back = Place::at(after);
    back.raw(&[0x41, 0xff, 0xc7, 0x0f, 0x01, 0xca, 0x4d, 0x85, 0xe4]);
    back.jump_if(4, straddler);
    back.raw(&[0x0f, 0x01, 0xcb, 0x49, 0xff, 0xcc]);
    back.jump(straddler);
    // mov rax, [rdi], the user's; jmp back
    let mut target = Place::of(straddler, &[0x48, 0x8b, 0x47, 0x08]);
    target.jump(after);
    let (mut reference, reference_ram) = common::interpreter();
    let (mut engine, ram, _) = common::translator();
    let mut start = common::state();
    counting(&mut start);
    start.control.cr4 |= 1 << 21;
    start.gpr[7] = common::DATA;
    for ram in [&reference_ram, &ram] {
        services::install(ram, NEAR, OTHER);
        for page in 0..512u64 {
            if page != common::DATA >> 12 && page != ABSENT >> 12 {
                ram.memory().write_obj(page << 12 | 3, GuestAddress(entry_of(page << 12))).unwrap();
            }
        }
        [&place, &back, &target].into_iter().for_each(|place| place.store(ram));
    }
    let (want, _) = common::place::run(&mut reference, &reference_ram, &start);
    let watchdog = common::watch();
    let (got, _) = common::place::run(&mut engine, &ram, &start);
    drop(watchdog);
    assert_eq!((got.rip, got.gpr), (want.rip, want.gpr));
    assert_eq!(got.control, want.control);
}

#[test]
fn code_that_runs_out_of_canonical_addresses_runs_once() {
    // The last page of the lower half.
    let last = 0x7fff_ffff_f000_u64;
    for (user, views) in common::MODES {
        let (mut reference, reference_ram) = common::interpreter();
        let (mut engine, ram, _) = common::translator_with(views);
        let mut start = services::start(user);
        start.gpr[3] = 0;
        // add rbx, 1 ends it
        start.rip = last + 0xffc - 0x40;
        for ram in [&reference_ram, &ram] {
            services::install(ram, NEAR, OTHER);
            let memory = ram.memory();
            for (at, entry) in [
                (0x1000 + 255 * 8, 0x10_1007_u64),
                (0x10_1000 + 511 * 8, 0x10_2007),
                (0x10_2000 + 511 * 8, 0x10_3007),
                (0x10_3000 + 511 * 8, NEAR | 7),
            ] {
                memory.write_obj(entry, GuestAddress(at)).unwrap();
            }
            let mut code = vec![0x90; 0x40];
            code.extend([0x48, 0x83, 0xc3, 1]);
            Place::of(NEAR + 0xffc - 0x40, &code).store(ram);
        }
        for _ in 0..6 {
            let (want, _) = common::place::run(&mut reference, &reference_ram, &start);
            let (got, _) = common::place::run(&mut engine, &ram, &start);
            assert_eq!(want.gpr[3], 1);
            assert_eq!((got.rip, got.gpr), (want.rip, want.gpr), "user {user}");
            let frame = |ram: &ambos_memory::GuestRam| {
                ram.memory().read_obj::<u64>(GuestAddress(want.gpr[4] + 8)).unwrap()
            };
            assert_eq!(frame(&ram), frame(&reference_ram), "user {user}");
        }
    }
}
