//! Random programs of 32-bit code end in the same state under the translator as under the interpreter.

mod common;

use ambos_random::Random;
use common::{ABSENT, CODE, DATA, DATA_SIZE};
use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Register};
use vm_memory::{Bytes, GuestAddress};

/// Registers that programs change freely, EAX, ECX, EDX and EBP; EBX and ESI point at data, EDI counts.
const FREE: [u32; 4] = [0, 1, 2, 5];

/// A register of 1, 2 or 4 bytes by its number; byte registers include AH to DH.
fn sized(random: &mut Random, number: u32, size: usize) -> Register {
    match size {
        0 => Register::AL + number % 4 + if random.index(3) == 0 { 4 } else { 0 },
        1 => Register::AX + number,
        _ => Register::EAX + number,
    }
}

fn memory(random: &mut Random, faults: bool) -> MemoryOperand {
    let base = random.pick(&[Register::EBX, Register::ESI]);
    let mut displacement = random.index(0x180) as i64 - 0x40;
    if random.index(12) == 0 {
        displacement = 0x1000 - random.index(20) as i64;
    }
    if faults && random.index(40) == 0 {
        displacement = (ABSENT - DATA) as i64 - 0x2000 + 0x30;
    }
    let segments = [Register::None, Register::None, Register::ES, Register::FS, Register::GS];
    let segment = random.pick(&segments);
    match random.index(6) {
        0 => MemoryOperand::with_base_displ(base, displacement),
        1 => MemoryOperand::with_displ(DATA + random.index(0x1800) as u64, 4),
        _ => MemoryOperand::new(base, Register::None, 1, displacement, 4, false, segment),
    }
}

fn instruction(random: &mut Random, faults: bool) -> Vec<u8> {
    let size = random.index(3);
    let (a, b) = (random.pick(&FREE), random.pick(&FREE));
    let (ra, rb) = (sized(random, a, size), sized(random, b, size));
    let (ea, eb) = (Register::EAX + a, Register::EAX + b);
    let (xa, xb) = (Register::XMM0 + a, Register::XMM0 + b);
    let mem = memory(random, faults);
    macro_rules! sizes {
        ($($code:ident)*) => { [$(Code::$code),*][size] };
    }
    let built = match random.index(26) {
        0 => Instruction::with2(sizes!(Add_rm8_r8 Add_rm16_r16 Add_rm32_r32), ra, rb),
        1 => Instruction::with2(sizes!(Adc_rm8_r8 Adc_rm16_r16 Adc_rm32_r32), mem, rb),
        2 => Instruction::with2(sizes!(Sbb_r8_rm8 Sbb_r16_rm16 Sbb_r32_rm32), ra, mem),
        3 => Instruction::with2(sizes!(Cmp_r8_rm8 Cmp_r16_rm16 Cmp_r32_rm32), ra, mem),
        4 | 5 => Instruction::with2(sizes!(Mov_r8_rm8 Mov_r16_rm16 Mov_r32_rm32), ra, mem),
        6 | 7 => Instruction::with2(sizes!(Mov_rm8_r8 Mov_rm16_r16 Mov_rm32_r32), mem, rb),
        8 => Instruction::with1(
            [Code::Inc_r16, Code::Inc_r32][size.min(1)],
            match size {
                0 => Register::AX + a,
                _ => ea,
            },
        ),
        9 => Instruction::with1(
            [Code::Dec_r16, Code::Dec_r32][size.min(1)],
            match size {
                0 => Register::AX + a,
                _ => ea,
            },
        ),
        10 => {
            let at = MemoryOperand::with_displ(DATA + random.index(0x800) as u64, 4);
            match size {
                0 => Instruction::with2(Code::Mov_AL_moffs8, Register::AL, at),
                1 => Instruction::with2(Code::Mov_moffs16_AX, at, Register::AX),
                _ => Instruction::with2(Code::Mov_EAX_moffs32, Register::EAX, at),
            }
        }
        11 => Instruction::with2(sizes!(Shl_rm8_imm8 Shl_rm16_imm8 Shl_rm32_imm8), ra, 3),
        12 => Instruction::with2(sizes!(Sar_rm8_CL Sar_rm16_CL Sar_rm32_CL), mem, Register::CL),
        13 => Instruction::with2(Code::Imul_r32_rm32, ea, mem),
        14 => {
            let at = MemoryOperand::new(ea, eb, 4, 0x1234_5678, 4, false, Register::None);
            Instruction::with2(Code::Lea_r32_m, ea, at)
        }
        15 => Instruction::with2(Code::Cmovb_r32_rm32, ea, mem),
        16 => Instruction::with1(Code::Setle_rm8, mem),
        17 => Instruction::with2(sizes!(Xadd_rm8_r8 Xadd_rm16_r16 Xadd_rm32_r32), mem, rb),
        18 => Instruction::with2(Code::Movdqu_xmm_xmmm128, xb, mem),
        19 => Instruction::with2(Code::Movdqu_xmmm128_xmm, mem, xa),
        20 => Instruction::with2(Code::Movd_rm32_xmm, ea, xb),
        21 => Instruction::with2(Code::Movzx_r32_rm8, ea, mem),
        22 => Instruction::with2(sizes!(Test_rm8_r8 Test_rm16_r16 Test_rm32_r32), mem, rb),
        23 => Instruction::with2(Code::Cmpxchg_rm32_r32, mem, eb),
        24 => Ok(Instruction::with(random.pick(&[
            Code::Cdq,
            Code::Cwde,
            Code::Aaa,
            Code::Daa,
            Code::Cld,
            Code::Cli,
            Code::Lahf,
        ]))),
        _ => {
            let low = MemoryOperand::with_base(Register::EBX);
            let code = [Code::Fild_m32int, Code::Fistp_m32int, Code::Fadd_m32fp][size];
            Instruction::with1(code, low)
        }
    };
    encode(built.unwrap())
}

fn encode(instruction: Instruction) -> Vec<u8> {
    let mut encoder = Encoder::new(32);
    encoder.encode(&instruction, 0).unwrap();
    encoder.take_buffer()
}

/// A program: a loop around random instructions with forward jumps, calls and pushes.
fn program(random: &mut Random, faults: bool) -> Vec<u8> {
    let mut code = Vec::new();
    let mut pushed = 0;
    for _ in 0..3 + random.index(20) {
        match random.index(16) {
            0 => {
                let next = instruction(random, faults);
                code.extend([0x70 | random.index(16) as u8, next.len() as u8]);
                code.extend(next);
            }
            1 => {
                // push of a register, of ESP, of an immediate, of memory
                match random.index(4) {
                    0 => code.push(0x50 | random.pick(&FREE) as u8),
                    1 => code.push(0x54),
                    2 => code.extend([0x6a, random.index(256) as u8]),
                    _ => code.extend([0xff, 0x74, 0x24, 4]),
                }
                pushed += 1;
            }
            2 if pushed > 0 => {
                code.push(0x58 | random.pick(&FREE) as u8);
                pushed -= 1;
            }
            // call over a jump to a function that returns; the second removes a word that was pushed
            3 => code.extend([0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3]),
            4 => code.extend([0x50, 0xe8, 2, 0, 0, 0, 0xeb, 3, 0xc2, 4, 0]),
            5 => {
                // mov eax, after; jmp eax
                let after = CODE as u32 + code.len() as u32 + 7;
                code.push(0xb8);
                code.extend(after.to_le_bytes());
                code.extend([0xff, 0xe0]);
            }
            6 => {
                // push address; jmp [esp]; there: pop eax
                code.push(0x68);
                let after = CODE as u32 + code.len() as u32 + 4 + 3;
                code.extend(after.to_le_bytes());
                code.extend([0xff, 0x24, 0x24, 0x58]);
            }
            // push ebp; mov ebp, esp; push eax; leave
            7 => code.extend([0x55, 0x89, 0xe5, 0x50, 0xc9]),
            // pushad; popad
            8 => code.extend([0x60, 0x61]),
            _ => code.extend(instruction(random, faults)),
        }
    }
    // lea esp, [esp + pushed]
    code.extend([0x8d, 0x64, 0x24, 4 * pushed as u8]);
    // dec edi; jnz start; hlt
    common::close_loop(&mut code, &[0x4f]);
    code
}

fn compare(faults: bool, programs: u64) {
    let (mut reference, reference_ram) = common::interpreter();
    let (mut engine, ram, _) = common::translator();
    for seed in 0..programs {
        let mut random = Random::new(seed);
        let code = program(&mut random, faults);
        let mut start = common::state();
        // Compatibility mode.
        start.segments.cs.attributes = 0xc09b;
        if faults && seed % 3 == 0 {
            start.segments.gs.limit = 0xffff;
        }
        for register in 0..16 {
            if register != 4 {
                start.gpr[register] = random.next();
            }
        }
        for register in [0, 1, 2, 5] {
            start.gpr[register] &= 0xffff_ffff;
        }
        for pointer in [3, 6] {
            start.gpr[pointer] = DATA + 0x2000 - 0x40 * (random.next() % 4);
        }
        start.gpr[7] = 12;
        let data: Vec<u8> = (0..DATA_SIZE).map(|_| random.next() as u8).collect();
        for ram in [&reference_ram, &ram] {
            ram.memory().write_slice(&data, GuestAddress(DATA)).unwrap();
            ram.page_flags().bump_version((CODE >> 12) as usize);
        }
        let (want, want_data) = common::run(&mut reference, &reference_ram, &start, &code);
        let (got, got_data) = common::run(&mut engine, &ram, &start, &code);
        let dump = || format!("seed {seed} faults {faults} code {code:02x?}");
        let mask = if faults { !0x8d5 } else { u64::MAX };
        assert_eq!(got.rip, want.rip, "{}", dump());
        assert_eq!(got.gpr, want.gpr, "{}", dump());
        assert_eq!(got.rflags & mask, want.rflags & mask, "flags {}", dump());
        let [seen, expected] = [&got, &want].map(|state| common::x87::visible(&state.vector.x87));
        assert_eq!(seen, expected, "x87 {}", dump());
        assert_eq!(got.vector.zmm, want.vector.zmm, "vectors {}", dump());
        assert_eq!(got.control, want.control, "{}", dump());
        if !faults {
            let different = got_data.iter().zip(&want_data).position(|(a, b)| a != b);
            assert_eq!(different, None, "data {}", dump());
        }
    }
    let statistics = engine.statistics();
    assert!(statistics.blocks > programs && statistics.links > 0, "{statistics:?}");
    assert_eq!(statistics.host_faults, 0, "{statistics:?}");
}

#[test]
fn programs_without_faults() {
    compare(false, 3000);
}

#[test]
fn programs_with_page_faults() {
    compare(true, 3000);
}

#[test]
fn a_segment_that_becomes_unusable_is_noticed() {
    // mov ecx, 100; again: mov eax, [ebx]; dec ecx; jnz again; xor eax, eax; mov ds, ax; jmp again
    let code =
        [0xb9, 100, 0, 0, 0, 0x8b, 0x03, 0x49, 0x75, 0xfb, 0x31, 0xc0, 0x8e, 0xd8, 0xeb, 0xf5];
    let mut start = common::state();
    start.segments.cs.attributes = 0xc09b;
    start.gpr[3] = DATA;
    let (mut reference, reference_ram) = common::interpreter();
    let (mut engine, ram, _) = common::translator();
    let (want, want_data) = common::run(&mut reference, &reference_ram, &start, &code);
    let (got, got_data) = common::run(&mut engine, &ram, &start, &code);
    assert_eq!((got.rip, got.gpr), (want.rip, want.gpr));
    // The frame on the stack says where the fault was.
    assert!(got_data == want_data);
    assert!(engine.statistics().blocks > 0);
}
