//! Random programs end in the same state under the translator as under the interpreter.

mod common;

use ambos_random::Random;
use ambos_translate::Views;
use common::instructions::{FREE, POINTERS, instruction, memory, system};
use common::{CODE, DATA, DATA_SIZE};
use iced_x86::{Encoder, Mnemonic};
use vm_memory::{Bytes, GuestAddress};

/// A program: a loop around random instructions with forward jumps, calls and pushes.
fn program(random: &mut Random, faults: bool, user: bool) -> Vec<u8> {
    let mut encoder = Encoder::new(64);
    let mut code = Vec::new();
    let length = 3 + random.index(20);
    let mut pushed = 0;
    for _ in 0..length {
        match random.index(18) {
            0 => {
                // A jump over the next instruction.
                let mut next = instruction(random, faults);
                while matches!(next.mnemonic(), Mnemonic::Mul | Mnemonic::Imul) {
                    next = instruction(random, faults);
                }
                let size = encoder.encode(&next, 0).unwrap();
                let bytes = encoder.take_buffer();
                code.extend([0x70 | random.index(16) as u8, size as u8]);
                code.extend(bytes);
            }
            1 => {
                let register = random.pick(&FREE);
                if register >= 8 {
                    code.push(0x41);
                }
                code.push(0x50 | register as u8 & 7);
                pushed += 1;
            }
            2 if pushed > 0 => {
                let register = random.pick(&FREE);
                if register >= 8 {
                    code.push(0x41);
                }
                code.push(0x58 | register as u8 & 7);
                pushed -= 1;
            }
            3 => {
                // call over a jump to a function that returns: call +2; jmp +1; ret
                code.extend([0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3]);
            }
            4 => {
                // lea rax, [rip+5]; jmp rax; three bytes never run
                code.extend([0x48, 0x8d, 0x05, 5, 0, 0, 0, 0xff, 0xe0, 0xcc, 0xcc, 0xcc]);
            }
            // cld; serialize
            5 => code.extend(random.pick(&[&[0xfc][..], &[0x0f, 0x01, 0xe8]])),
            6 => code.extend(system(random, faults, user)),
            7 | 8 => {
                let memory = memory(random, faults);
                let mut below = |limit| random.index(limit);
                code.extend(common::x87::instruction(&mut below, memory, faults));
            }
            _ => {
                let next = instruction(random, faults);
                encoder.encode(&next, 0).unwrap();
                code.extend(encoder.take_buffer());
                if matches!(next.mnemonic(), Mnemonic::Mul | Mnemonic::Imul) {
                    // cmp al, 5: what they leave undefined must not count.
                    code.extend([0x3c, 5]);
                }
            }
        }
    }
    for _ in 0..pushed {
        // lea rsp, [rsp+8]
        code.extend([0x48, 0x8d, 0x64, 0x24, 8]);
    }
    // dec r15; jnz start; hlt
    common::close_loop(&mut code, &[0x49, 0xff, 0xcf]);
    code
}

fn compare(faults: bool, views: Views, seeds: std::ops::Range<u64>) {
    let (mut reference, reference_ram) = common::interpreter();
    let (mut engine, ram, _) = common::translator_with(views);
    let programs = seeds.end - seeds.start;
    for seed in seeds {
        let mut random = Random::new(seed);
        let code = program(&mut random, faults, seed % 2 == 1);
        let mut start = common::state();
        for register in 0..16 {
            if register != 4 {
                start.gpr[register] = random.next();
            }
        }
        for pointer in POINTERS {
            start.gpr[pointer] = DATA + 0x2000 - 0x40 * (random.next() % 4);
        }
        start.gpr[15] = 12;
        if seed % 2 == 1 {
            // User mode runs the same code independent of its position.
            start.segments.cs.attributes |= 0x60;
            start.segments.ss.attributes |= 0x60;
            start.segments.cs.selector |= 3;
            start.segments.ss.selector |= 3;
        }
        let data: Vec<u8> = (0..DATA_SIZE).map(|_| random.next() as u8).collect();
        // A different place each time, so that pages and offsets vary.
        for ram in [&reference_ram, &ram] {
            ram.memory().write_slice(&data, GuestAddress(DATA)).unwrap();
        }
        let code = if seed % 2 == 1 {
            // HLT is privileged: an undefined instruction ends the run in the handler instead.
            let mut code = code;
            let last = code.len() - 1;
            code[last] = 0x0f;
            code.push(0x0b);
            code
        } else {
            code
        };
        let setup = |state: &mut ambos_vcpu::CpuState| {
            if seed % 2 == 1 {
                state.segments.tr.base = 0xb000;
                state.segments.tr.limit = 0x67;
                state.segments.tr.attributes = 0x8b;
            }
        };
        setup(&mut start);
        for ram in [&reference_ram, &ram] {
            ram.memory().write_obj(0x3_8000_u64, GuestAddress(0xb004)).unwrap();
            // The interpreter may have cached the program before.
            ram.page_flags().bump_version((CODE >> 12) as usize);
        }
        let (want, want_data) = common::run(&mut reference, &reference_ram, &start, &code);
        let (got, got_data) = common::run(&mut engine, &ram, &start, &code);
        let dump = || format!("seed {seed} faults {faults} code {code:02x?}");
        let mask = if faults { !0x8d5 } else { u64::MAX };
        assert_eq!(got.rip, want.rip, "{}", dump());
        for register in 0..16 {
            assert_eq!(got.gpr[register], want.gpr[register], "register {register} {}", dump());
        }
        assert_eq!(got.rflags & mask, want.rflags & mask, "flags {}", dump());
        let [seen, expected] = [&got, &want].map(|state| common::x87::visible(&state.vector.x87));
        assert_eq!(seen, expected, "x87 {}", dump());
        assert_eq!(got.vector.mxcsr, want.vector.mxcsr, "{}", dump());
        assert_eq!(got.vector.zmm, want.vector.zmm, "vectors {}", dump());
        assert_eq!(got.control, want.control, "{}", dump());
        let different = got_data.iter().zip(&want_data).position(|(a, b)| a != b);
        if seed % 2 == 0 || different.is_some_and(|at| at < DATA_SIZE) {
            assert_eq!(different.filter(|_| !faults), None, "data {}", dump());
        }
    }
    let statistics = engine.statistics();
    assert!(statistics.blocks > programs && statistics.links > 0, "{statistics:?}");
    // Only x87 exceptions that a program unmasks are faults of the host, and pages that are not seen.
    let host_faults = statistics.host_faults - statistics.view_faults;
    assert!(faults || host_faults == 0, "{statistics:?}");
    assert_eq!(views == Views::Always, statistics.view_faults > 0, "{statistics:?}");
}

#[test]
fn programs_without_faults() {
    compare(false, Views::Never, 0..3000);
}

#[test]
fn programs_with_page_faults() {
    compare(true, Views::Never, 0..3000);
}

#[test]
fn programs_with_views_without_faults() {
    compare(false, Views::Always, 3000..4000);
}

#[test]
fn programs_with_views_and_page_faults() {
    compare(true, Views::Always, 3000..4000);
}
