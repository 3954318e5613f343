//! Loops, as blocks unroll them, and sequences that move the stack pointer: exact for any number of turns, wherever they
//! fault.

mod common;

use ambos_translate::Views;
use ambos_vcpu::CpuState;
use common::place::Place;
use common::{ABSENT, CODE, DATA, services};
use vm_memory::{Bytes, GuestAddress};

/// Runs under both engines, several times, and compares what is left; `exact` says whether the flags count.
fn agree(places: &[Place], starts: &[CpuState], exact: bool, what: &str) {
    agree_with(Views::Never, places, starts, exact, what);
    let users = starts.iter().filter(|start| start.segments.cs.selector & 3 == 3).cloned();
    agree_with(Views::Always, places, &users.collect::<Vec<_>>(), exact, what);
}

fn agree_with(views: Views, places: &[Place], starts: &[CpuState], exact: bool, what: &str) {
    let what = &format!("{what}, views {views:?}");
    let (mut reference, reference_ram) = common::interpreter();
    let (mut engine, ram, _) = common::translator_with(views);
    for ram in [&reference_ram, &ram] {
        services::install(ram, CODE + 0x5000, CODE + 0x6000);
        places.iter().for_each(|place| place.store(ram));
    }
    let original: Vec<u8> = (0..0x1_8000u32).map(|at| ((at * 7) >> 3) as u8).collect();
    for (number, start) in starts.iter().enumerate() {
        for ram in [&reference_ram, &ram] {
            ram.memory().write_slice(&original, GuestAddress(DATA)).unwrap();
            for place in places {
                let code = ram.memory();
                let mut now = vec![0; place.bytes.len()];
                code.read_slice(&mut now, GuestAddress(place.start)).unwrap();
                if now != place.bytes {
                    place.store(ram);
                }
            }
        }
        let (want, want_data) = common::place::run(&mut reference, &reference_ram, start);
        let (got, got_data) = common::place::run(&mut engine, &ram, start);
        let what = format!("{what}, {number}");
        assert_eq!(got.rip, want.rip, "{what}");
        assert_eq!(got.gpr, want.gpr, "{what}\n{:x?}\n{:x?}", got.gpr, want.gpr);
        assert_eq!(got.control, want.control, "{what}");
        let mask = if exact { u64::MAX } else { !0x8d5 };
        assert_eq!(got.rflags & mask, want.rflags & mask, "{what}");
        let different = (0..got_data.len()).find(|&at| {
            // Flags that a frame of an exception holds.
            let flags = !exact && at as u64 & 7 < 2 && DATA + at as u64 >= want.gpr[4];
            got_data[at] != want_data[at] && !flags
        });
        assert_eq!(different, None, "{what}");
    }
    assert!(engine.statistics().blocks > 0, "{what}");
}

/// Both kinds of state, so often that code is translated when the last ones are run.
fn states(change: impl Fn(&mut CpuState)) -> Vec<CpuState> {
    let mut states = Vec::new();
    for user in [false, true] {
        for _ in 0..5 {
            let mut state = common::state();
            if user {
                services::to_user(&mut state);
            }
            change(&mut state);
            states.push(state);
        }
    }
    states
}

/// Code at the start, then HLT.
fn code(bytes: &[u8]) -> Place {
    let mut place = Place::of(CODE, bytes);
    place.raw(&[0xf4]);
    place
}

/// Loops whose count is in RCX, RBX pointing at data.
fn loops() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        // again: add rax, [rbx]; lea rbx, [rbx+8]; dec rcx; jnz again
        ("sum", vec![0x48, 3, 3, 0x48, 0x8d, 0x5b, 8, 0x48, 0xff, 0xc9, 0x75, 0xf4]),
        // clc; again: mov rax, [rbx]; adc [rbx+0x100], rax; lea rbx, [rbx+8]; dec rcx; jnz again
        (
            "carries",
            vec![
                0xf8, 0x48, 0x8b, 0x03, 0x48, 0x11, 0x83, 0, 1, 0, 0, 0x48, 0x8d, 0x5b, 8, 0x48,
                0xff, 0xc9, 0x75, 0xed,
            ],
        ),
        // again: cmp byte [rbx], 0x30; je out; inc rbx; test rax, rax; js out; add edx, 3; dec rcx; jne again; out:
        (
            "exits",
            vec![
                0x80, 0x3b, 0x30, 0x74, 0x10, 0x48, 0xff, 0xc3, 0x48, 0x85, 0xc0, 0x78, 0x08, 0x83,
                0xc2, 0x03, 0x48, 0xff, 0xc9, 0x75, 0xeb,
            ],
        ),
        // again: dec rcx; jz out; push rcx; push rax; pop rdx; pop rsi; jmp again; out:
        ("stack", vec![0x48, 0xff, 0xc9, 0x74, 6, 0x51, 0x50, 0x5a, 0x5e, 0xeb, 0xf5]),
        // again: push rcx; dec rcx; jnz again; mov rdi, rsp
        ("pushes", vec![0x51, 0x48, 0xff, 0xc9, 0x75, 0xfa, 0x48, 0x89, 0xe7]),
        // again: lea rcx, [rcx-1]; xadd [rbx+r10], r11; inc r10; jrcxz out; jmp again; out:
        (
            "scratch",
            vec![
                0x48, 0x8d, 0x49, 0xff, 0x4e, 0x0f, 0xc1, 0x1c, 0x13, 0x49, 0xff, 0xc2, 0xe3, 2,
                0xeb, 0xf0,
            ],
        ),
        // again: loop again
        ("loop", vec![0xe2, 0xfe]),
        // again: sub rcx, 1; jbe out; jmp over; int3; over: xor rax, rcx; jmp again; out:
        ("over", vec![0x48, 0x83, 0xe9, 1, 0x76, 8, 0xeb, 1, 0xcc, 0x48, 0x31, 0xc8, 0xeb, 0xf2]),
    ]
}

#[test]
fn loops_of_any_number_of_turns() {
    for (what, bytes) in loops() {
        let mut starts = Vec::new();
        for turns in (1..=40).rev().chain(1..=40) {
            starts.extend(states(|state| {
                (state.gpr[1], state.gpr[3], state.gpr[10]) = (turns, DATA + 0x10, 0);
            }));
        }
        agree(&[code(&bytes)], &starts, true, what);
    }
}

#[test]
fn loops_that_walk_into_an_absent_page() {
    // again: mov [rbx], rcx; add rax, [rbx-8]; add rbx, 8; dec rcx; jnz again
    let up = [
        0x48, 0x89, 0x0b, 0x48, 0x03, 0x43, 0xf8, 0x48, 0x83, 0xc3, 8, 0x48, 0xff, 0xc9, 0x75, 0xf0,
    ];
    // again: mov rdx, [rbx]; mov [rsi], rdx; lea rbx, [rbx+4]; lea rsi, [rsi-4]; dec rcx; jnz again
    let both = [
        0x48, 0x8b, 0x13, 0x48, 0x89, 0x16, 0x48, 0x8d, 0x5b, 4, 0x48, 0x8d, 0x76, 0xfc, 0x48,
        0xff, 0xc9, 0x75, 0xed,
    ];
    for (what, bytes) in [("up", &up[..]), ("both", &both)] {
        for left in 0..24 {
            let starts = states(|state| {
                (state.gpr[1], state.gpr[3]) = (100, ABSENT - 4 * left);
                state.gpr[6] = ABSENT + 0x1000 + 4 * (left ^ 5);
            });
            agree(&[code(bytes)], &starts, false, what);
        }
    }
}

#[test]
fn loops_that_change_their_own_code() {
    // again: add eax, imm32 (at rbx); inc byte [rbx]; dec rcx; jnz again
    let own = [0x05, 1, 0, 0, 0, 0xfe, 0x03, 0x48, 0xff, 0xc9, 0x75, 0xf4];
    // again: inc byte [rbx]; jmp +0; add eax, imm32 (at rbx); dec rcx; jnz again
    let next = [0xfe, 0x03, 0xeb, 0, 0x05, 1, 0, 0, 0, 0x48, 0xff, 0xc9, 0x75, 0xf2];
    for (bytes, at) in [(&own[..], 1), (&next, 5)] {
        for turns in 1..12 {
            let starts = states(|state| (state.gpr[1], state.gpr[3]) = (turns, CODE + at));
            agree(&[code(bytes)], &starts, true, "own code");
        }
    }
}

/// Sequences around the stack pointer.
fn sequences() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        // push rbp; mov rbp, rsp; push rbx; push r12; push r10; sub rsp, 0x20; mov [rsp+8], rax; pop; ..; leave
        (
            "frame",
            vec![
                0x55, 0x48, 0x89, 0xe5, 0x53, 0x41, 0x54, 0x41, 0x52, 0x48, 0x83, 0xec, 0x20, 0x48,
                0x89, 0x44, 0x24, 8, 0x48, 0x83, 0xc4, 0x20, 0x41, 0x5a, 0x41, 0x5c, 0x5b, 0xc9,
            ],
        ),
        // push rax; push rsp; push rsp; pop rdx; pop rcx; pop rax
        ("push rsp", vec![0x50, 0x54, 0x54, 0x5a, 0x59, 0x58]),
        // mov rax, rsp; push rcx; push rax; pop rsp
        ("pop rsp", vec![0x48, 0x89, 0xe0, 0x51, 0x50, 0x5c]),
        // push rcx; push rdx; push [rsp+8]; push [rsp]; pop rax; pop rsi; pop rdi; pop rbp
        (
            "push memory",
            vec![0x51, 0x52, 0xff, 0x74, 0x24, 8, 0xff, 0x34, 0x24, 0x58, 0x5e, 0x5f, 0x5d],
        ),
        // push rcx; push rdx; pop [rsp]; pop [rbx]
        ("pop memory", vec![0x51, 0x52, 0x8f, 0x04, 0x24, 0x8f, 0x03]),
        // push rdx; push 5; pop [rsp+8]; push rcx; enter 16, 0; push rax; leave; pop rsi; pop rdi
        (
            "enter",
            vec![
                0x52, 0x6a, 5, 0x8f, 0x44, 0x24, 8, 0x51, 0xc8, 16, 0, 0, 0x50, 0xc9, 0x5e, 0x5f,
                0x90,
            ],
        ),
        // push rcx; push rax; mov rdx, [rsp]; xchg rsi, [rsp+8]; add rsp, 8; push r11; pop r10; lea rdi, [rsp+4]; pop r9
        (
            "mixed",
            vec![
                0x51, 0x50, 0x48, 0x8b, 0x14, 0x24, 0x48, 0x87, 0x74, 0x24, 8, 0x48, 0x83, 0xc4, 8,
                0x41, 0x53, 0x41, 0x5a, 0x48, 0x8d, 0x7c, 0x24, 4, 0x41, 0x59,
            ],
        ),
        // push rcx; call +1; int3; pop rax; push rax; mov [rsp-16], rdx; ret 8 is left out: jmp over it
        ("call", vec![0x51, 0xe8, 1, 0, 0, 0, 0xcc, 0x58, 0x50, 0x48, 0x89, 0x54, 0x24, 0xf0]),
        // test rax, rax; push rcx; jz +1; push rdx; pop rsi; pop rdi; pushfq; pop rbp
        ("branch", vec![0x48, 0x85, 0xc0, 0x51, 0x74, 1, 0x52, 0x5e, 0x57, 0x5f, 0x9c, 0x5d]),
        // stc; push rax; push rcx; pop rdx; adc rdx, 0; push rdx; idiv r12 (divides by zero)
        (
            "divide",
            vec![0xf9, 0x50, 0x51, 0x5a, 0x48, 0x83, 0xd2, 0, 0x52, 0x51, 0x49, 0xf7, 0xfc, 0x58],
        ),
    ]
}

#[test]
fn pushes_and_pops_wherever_the_stack_is() {
    let read_only = common::DATA + 0x6000;
    for (what, bytes) in sequences() {
        for border in [ABSENT, ABSENT + 0x1000, read_only, read_only + 0x1000, DATA + 0x2000] {
            let mut starts = Vec::new();
            for words in 0..12u64 {
                for off in [0, 4] {
                    starts.extend(states(|state| {
                        state.gpr[4] = border.wrapping_add(off) - 24 + 8 * words;
                        (state.gpr[0], state.gpr[1], state.gpr[2]) = (words & 1, 22, 33);
                        (state.gpr[3], state.gpr[10], state.gpr[11]) = (DATA + 8, 44, 55);
                        // A supervisor's exceptions must not need this stack: an interrupt stack.
                        services::with_interrupt_stack(state);
                    }));
                }
            }
            let mut places = vec![code(&bytes)];
            let entry = services::entry_of(read_only);
            places.push(Place::of(entry, &(read_only | 5).to_le_bytes()));
            for vector in 0..32u64 {
                // All exceptions use the first interrupt stack.
                places.push(Place::of(0x8000 + vector * 16 + 4, &[1]));
            }
            let starts: Vec<_> = starts
                .into_iter()
                .map(|mut state| {
                    // With CR0.WP the page is read-only for the supervisor too.
                    state.control.cr0 |= 1 << 16;
                    state
                })
                .collect();
            agree(&places, &starts, false, what);
        }
    }
}

#[test]
fn single_steps_between_pushes() {
    for (what, bytes) in sequences() {
        let starts = states(|state| {
            state.gpr[4] = DATA + 0x2010;
            (state.gpr[1], state.gpr[2], state.gpr[3]) = (22, 33, DATA + 8);
            services::with_interrupt_stack(state);
        });
        let mut places = vec![];
        // pushfq; or dword [rsp], 0x100; popfq; the sequence: the handler of #DB counts and goes on
        let mut place = Place::of(CODE, &[0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d]);
        place.raw(&bytes);
        place.raw(&[0xf4]);
        places.push(place);
        // inc qword [DATA+0x3000]; mov [DATA+0x3008], rsp's value: push rax; mov rax, [rsp+32]; add [..], rax; pop; iretq
        let mut handler = vec![0x48, 0xff, 0x04, 0x25];
        handler.extend((DATA as u32 + 0x3000).to_le_bytes());
        handler.extend([0x50, 0x48, 0x8b, 0x44, 0x24, 32, 0x48, 0x01, 0x04, 0x25]);
        handler.extend((DATA as u32 + 0x3008).to_le_bytes());
        handler.extend([0x58, 0x48, 0xcf]);
        places.push(Place::of(0x9400, &handler));
        let gate: u64 = 0x9400 | 8 << 16 | 0x8e01 << 32;
        places.push(Place::of(0x8010, &gate.to_le_bytes()));
        agree(&places, &starts, false, what);
    }
}
