//! Whatever goes on for ever looks up when asked to, where its state is exact.

mod common;

use ambos_vcpu::{CpuState, Engine, Request, Stop};
use common::place::Place;
use common::{CODE, services};
use std::sync::Arc;
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};

/// Where the code of the barred slot would be found.
const BARRED: u64 = 0x1000;
/// What it has there.
const BEHIND_BARRED: u64 = CODE + 0x7000;
/// An address whose jumps belong into the barred slot.
const IN_BARRED_SLOT: u64 = CODE;

/// Has another thread ask for something while the engine runs; returns why it stopped.
fn asked(
    engine: &mut ambos_translate::Translator,
    attention: &Arc<ambos_vcpu::Attention>,
    request: Request,
    after: Duration,
) -> Stop {
    let _watchdog = common::watch();
    let other = Arc::clone(attention);
    let asker = std::thread::spawn(move || {
        std::thread::sleep(after);
        other.raise(request);
    });
    let mut platform = common::Nothing::default();
    platform.interrupts.push(0x40);
    let stop = engine.run(&mut platform, None);
    asker.join().unwrap();
    stop
}

/// Runs endless code; `valid` are the addresses of its instructions.
fn ends(what: &str, code: &[Place], valid: &[u64], change: impl Fn(&mut CpuState)) {
    for (user, views) in common::MODES {
        let (mut engine, ram, attention) = common::translator_with(views);
        services::install(&ram, CODE + 0x5000, CODE + 0x6000);
        services::map(&ram, BARRED, BEHIND_BARRED);
        code.iter().for_each(|place| place.store(&ram));
        let mut start = common::state();
        change(&mut start);
        let wide = start.segments.cs.attributes & 0x2000 != 0;
        if user && !wide {
            continue;
        }
        if user {
            services::to_user(&mut start);
        }
        let place = format!("{what}, user {user}, views {views:?}");
        engine.set_state(&start);
        for turn in 0..12 {
            let after = Duration::from_micros(200 + 500 * turn);
            assert_eq!(
                asked(&mut engine, &attention, Request::STOP, after),
                Stop::Asked,
                "{place}"
            );
            let state = engine.state();
            assert!(valid.contains(&state.rip), "{place}: {:x}", state.rip);
        }
        for turn in 0..6 {
            let mut start = start.clone();
            start.rflags |= 0x200;
            engine.set_state(&start);
            let after = Duration::from_micros(300 + 500 * turn);
            let stop = asked(&mut engine, &attention, Request::INTERRUPT, after);
            assert_eq!(stop, Stop::Halted, "{place}");
            attention.lower(Request::INTERRUPT);
            let frame = engine.state().gpr[4];
            let rip: u64 = ram.memory().read_obj(GuestAddress(frame)).unwrap();
            assert!(valid.contains(&rip), "{place}: {rip:x}");
        }
        // With an interrupt that is not let in it goes on nevertheless, and can be stopped.
        engine.set_state(&start);
        attention.raise(Request::INTERRUPT);
        let after = Duration::from_millis(2);
        assert_eq!(asked(&mut engine, &attention, Request::STOP, after), Stop::Asked, "{place}");
        let rip = engine.state().rip;
        assert!(valid.contains(&rip), "{place}: {rip:x}");
        assert!(engine.statistics().blocks > 0, "{place}");
    }
}

/// Places where each instruction begins, given the lengths of each.
fn starts(start: u64, lengths: &[u64]) -> Vec<u64> {
    let mut at = start;
    let next = lengths.iter().map(|length| {
        at += length;
        at - length
    });
    next.collect()
}

#[test]
fn jumps_over_pages_and_back() {
    let pages = [CODE, CODE + 0x1000, CODE + 0x3ff0];
    for count in [2, 3] {
        let mut code = Vec::new();
        for page in 0..count {
            let mut place = Place::at(pages[page]);
            place.jump(pages[(page + 1) % count]);
            code.push(place);
        }
        ends("jumps", &code, &pages[..count], |_| {});
        // The same with flags that are alive: adc rax, 0
        let (mut code, mut valid) = (Vec::new(), Vec::new());
        for page in 0..count {
            let mut place = Place::of(pages[page], &[0x48, 0x83, 0xd0, 0]);
            place.jump_if(3, pages[(page + 1) % count]);
            place.jump(pages[(page + 1) % count]);
            valid.extend(starts(pages[page], &[4, 6, 5]));
            code.push(place);
        }
        ends("jumps with flags", &code, &valid, |_| {});
    }
}

#[test]
fn chains_of_returns() {
    // mov rsp, rbx; ret, to two places in turn: there mov rsp, rcx; ret
    let other = CODE + 0x2340;
    let code =
        [Place::of(CODE, &[0x48, 0x89, 0xdc, 0xc3]), Place::of(other, &[0x48, 0x89, 0xcc, 0xc3])];
    let mut code: Vec<_> = code.into();
    let (first, second) = (common::DATA, common::DATA + 0x800);
    code.push(Place::of(first, &other.to_le_bytes()));
    code.push(Place::of(second, &CODE.to_le_bytes()));
    let valid = [CODE, CODE + 3, other, other + 3];
    ends("returns", &code, &valid, |state| (state.gpr[3], state.gpr[1]) = (first, second));
}

#[test]
fn indirect_jumps_to_themselves() {
    for at in [CODE + 0x10, IN_BARRED_SLOT, CODE + 0x1000, BARRED] {
        let stored = if at == BARRED { BEHIND_BARRED } else { at };
        let code = Place { stored: Some(stored), ..Place::of(at, &[0xff, 0xe0]) };
        ends("jmp rax", &[code], &[at], |state| (state.gpr[0], state.rip) = (at, at));
    }
}

#[test]
fn jumps_to_the_barred_slots_address() {
    for wide in [true, false] {
        for other in [CODE + 0x2000, IN_BARRED_SLOT, CODE + 0x4000] {
            // mov eax, [rbx]: no scratch register has the address by chance
            let mut there = Place::of(other, &[0x8b, 0x03]);
            there.jump(BARRED);
            let mut back = Place::at(BARRED);
            back.jump(other);
            back.stored = Some(BEHIND_BARRED);
            ends("barred", &[there, back], &[BARRED, other, other + 2], |state| {
                (state.rip, state.gpr[3]) = (other, common::DATA + 0x18);
                if !wide {
                    state.segments.cs.attributes = 0xc09b;
                }
            });
        }
    }
}

#[test]
fn near_loops() {
    // inc rax; jmp: flags are dead. adc rax, 0; jmp: alive. jmp to itself.
    for (bytes, lengths) in [
        (&[0x48, 0xff, 0xc0, 0xeb, 0xfb][..], &[3, 2][..]),
        (&[0x48, 0x83, 0xd0, 0, 0xeb, 0xfa], &[4, 2]),
        (&[0xeb, 0xfe], &[2]),
        // mov [rbx], rax; cmp rax, rcx; jne -8; jmp -10
        (&[0x48, 0x89, 0x03, 0x48, 0x39, 0xc8, 0x75, 0xf8, 0xeb, 0xf6], &[3, 3, 2, 2]),
        // jmp +2; int3; int3; lea rax, [rax+1]; jmp back
        (&[0xeb, 2, 0xcc, 0xcc, 0x48, 0x8d, 0x40, 1, 0xeb, 0xf6], &[4, 4, 2]),
        // push rax; pop rcx; jmp
        (&[0x50, 0x59, 0xeb, 0xfc], &[1, 1, 2]),
        // sti or not: pushfq; popfq; jmp
        (&[0x9c, 0x9d, 0xeb, 0xfc], &[1, 1, 2]),
    ] {
        let mut valid = starts(CODE, lengths);
        valid.push(CODE);
        ends("near", &[Place::of(CODE, bytes)], &valid, |state| state.gpr[3] = common::DATA);
    }
}

#[test]
fn calls_without_returns() {
    for to in [CODE + 0x40, CODE + 0x1040, CODE + 0x3000] {
        // call to; there: mov rsp, rbx; push rcx; pop rdx; call back: mov rsp, rbx; jmp
        let (mut call, mut there) = (Place::at(CODE), Place::at(to));
        call.raw(&[0x48, 0x89, 0xdc]);
        call.call(to);
        there.raw(&[0x48, 0x89, 0xdc, 0x51, 0x5a]);
        there.call(CODE);
        let valid = [CODE, CODE + 3, to, to + 3, to + 4, to + 5];
        ends("calls", &[call, there], &valid, |state| state.gpr[3] = common::DATA + 0x800);
    }
}
