//! Random instructions of 64-bit code.

use super::{ABSENT, DATA};
use ambos_random::Random;
use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Mnemonic, Register};

/// Registers that programs change freely; pointers stay.
pub(crate) const FREE: [usize; 11] = [0, 1, 2, 5, 6, 7, 8, 9, 10, 13, 14];
pub(crate) const POINTERS: [usize; 3] = [3, 12, 11];

fn sized(number: usize, size: usize) -> Register {
    let number = number as u32;
    match size {
        0 => match number {
            4..8 => Register::SPL + (number - 4),
            8.. => Register::R8L + (number - 8),
            _ => Register::AL + number,
        },
        1 => Register::AX + number,
        2 => Register::EAX + number,
        _ => Register::RAX + number,
    }
}

/// A memory operand near a pointer; now and then one that crosses a page, is absent or has a segment.
pub(crate) fn memory(random: &mut Random, faults: bool) -> MemoryOperand {
    let base = random.pick(&POINTERS);
    let mut displacement = (random.next() % 0x180) as i64 - 0x40;
    if random.index(12) == 0 {
        displacement = 0x1000 - (random.next() % 20) as i64;
    }
    if faults && random.index(60) == 0 {
        displacement = (ABSENT - DATA) as i64 - 0x2000 + 0x30;
    }
    let segment = if random.index(10) == 0 { Register::FS } else { Register::None };
    if segment == Register::FS {
        displacement -= 0x1000;
    }
    MemoryOperand::new(
        Register::RAX + base as u32,
        Register::None,
        1,
        displacement,
        1,
        false,
        segment,
    )
}

pub(crate) fn instruction(random: &mut Random, faults: bool) -> Instruction {
    let size = random.index(4);
    let (a, b) = (random.pick(&FREE), random.pick(&FREE));
    let (ra, rb) = (sized(a, size), sized(b, size));
    let mem = memory(random, faults);
    macro_rules! sizes {
        ($($code:ident)*) => { [$(Code::$code),*][size] };
    }
    let built = match random.index(30) {
        0 => Instruction::with2(sizes!(Add_rm8_r8 Add_rm16_r16 Add_rm32_r32 Add_rm64_r64), ra, rb),
        1 => Instruction::with2(sizes!(Adc_rm8_r8 Adc_rm16_r16 Adc_rm32_r32 Adc_rm64_r64), mem, rb),
        2 => Instruction::with2(sizes!(Sbb_r8_rm8 Sbb_r16_rm16 Sbb_r32_rm32 Sbb_r64_rm64), ra, mem),
        3 => Instruction::with2(sizes!(Xor_rm8_r8 Xor_rm16_r16 Xor_rm32_r32 Xor_rm64_r64), mem, rb),
        4 => Instruction::with2(sizes!(Cmp_r8_rm8 Cmp_r16_rm16 Cmp_r32_rm32 Cmp_r64_rm64), ra, mem),
        5 => Instruction::with2(
            sizes!(Sub_rm8_imm8 Sub_rm16_imm8 Sub_rm32_imm8 Sub_rm64_imm8),
            mem,
            5,
        ),
        6 | 7 => {
            Instruction::with2(sizes!(Mov_r8_rm8 Mov_r16_rm16 Mov_r32_rm32 Mov_r64_rm64), ra, mem)
        }
        8 | 9 => {
            Instruction::with2(sizes!(Mov_rm8_r8 Mov_rm16_r16 Mov_rm32_r32 Mov_rm64_r64), mem, rb)
        }
        10 => Instruction::with1(sizes!(Inc_rm8 Inc_rm16 Inc_rm32 Inc_rm64), mem),
        11 => Instruction::with1(sizes!(Dec_rm8 Dec_rm16 Dec_rm32 Dec_rm64), ra),
        12 => Instruction::with2(
            sizes!(Shl_rm8_imm8 Shl_rm16_imm8 Shl_rm32_imm8 Shl_rm64_imm8),
            ra,
            3,
        ),
        13 => Instruction::with2(
            sizes!(Sar_rm8_CL Sar_rm16_CL Sar_rm32_CL Sar_rm64_CL),
            mem,
            Register::CL,
        ),
        14 => Instruction::with2(sizes!(Rcr_rm8_1 Rcr_rm16_1 Rcr_rm32_1 Rcr_rm64_1), ra, 1),
        15 => Instruction::with1(sizes!(Mul_rm8 Mul_rm16 Mul_rm32 Mul_rm64), mem),
        16 => Instruction::with2(Code::Imul_r64_rm64, sized(a, 3), mem),
        17 => Instruction::with2(
            Code::Lea_r64_m,
            sized(a, 3),
            MemoryOperand::new(
                Register::RAX + b as u32,
                Register::RAX + a as u32,
                4,
                0x1234,
                1,
                false,
                Register::None,
            ),
        ),
        18 => Instruction::with2(Code::Cmovb_r64_rm64, sized(a, 3), mem),
        19 => Instruction::with1(Code::Setle_rm8, mem),
        20 => Instruction::with1(Code::Setne_rm8, sized(a, 0)),
        21 => Instruction::with2(
            sizes!(Xadd_rm8_r8 Xadd_rm16_r16 Xadd_rm32_r32 Xadd_rm64_r64),
            mem,
            rb,
        ),
        22 => Instruction::with2(
            sizes!(Cmpxchg_rm8_r8 Cmpxchg_rm16_r16 Cmpxchg_rm32_r32 Cmpxchg_rm64_r64),
            mem,
            rb,
        ),
        23 => Instruction::with2(Code::Movdqu_xmm_xmmm128, Register::XMM0 + b as u32, mem),
        24 => Instruction::with2(
            Code::Paddd_xmm_xmmm128,
            Register::XMM0 + a as u32,
            Register::XMM0 + b as u32,
        ),
        25 => Instruction::with2(Code::Movdqu_xmmm128_xmm, mem, Register::XMM0 + a as u32),
        26 => Instruction::with2(Code::Movq_rm64_xmm, sized(a, 3), Register::XMM0 + b as u32),
        27 => Instruction::with3(
            Code::VEX_Vpaddq_ymm_ymm_ymmm256,
            Register::YMM0 + a as u32,
            Register::YMM0 + b as u32,
            mem,
        ),
        28 => Instruction::with2(
            sizes!(Test_rm8_r8 Test_rm16_r16 Test_rm32_r32 Test_rm64_r64),
            mem,
            rb,
        ),
        _ => Instruction::with2(
            sizes!(Movzx_r16_rm8 Movzx_r32_rm8 Movzx_r64_rm8 Movsx_r64_rm16),
            sized(a, [1, 2, 3, 3][size]),
            mem,
        ),
    };
    built.unwrap()
}

/// System instructions, strings, bits that a register names, and operands that need registers of their
/// own.
pub(crate) fn system(random: &mut Random, faults: bool, user: bool) -> Vec<u8> {
    let mut encoder = Encoder::new(64);
    let mut code = Vec::new();
    let mut emit = |instruction: Result<Instruction, iced_x86::IcedError>| {
        encoder.encode(&instruction.unwrap(), 0).unwrap();
    };
    let size = random.index(4);
    let free = random.pick(&FREE);
    let mem = memory(random, faults);
    // No instruction with a REX prefix can name AH.
    let low = MemoryOperand { base: Register::RBX, ..mem };
    let kind = random.index(if user { 11 } else { 19 });
    macro_rules! sizes {
        ($($code:ident)*) => { [$(Code::$code),*][size] };
    }
    match kind {
        0..=2 => {
            // lea rsi, [pointer + ..]; lea rdi, [pointer + ..]; mov ecx, count; rep? string
            let near = |random: &mut Random| {
                let base = Register::RAX + random.pick(&[3, 12]);
                let reach = if random.index(4) == 0 { 0x1000 } else { 0x200 };
                MemoryOperand::with_base_displ(base, random.index(reach) as i64)
            };
            emit(Instruction::with2(Code::Lea_r64_m, Register::RSI, near(random)));
            emit(Instruction::with2(Code::Lea_r64_m, Register::RDI, near(random)));
            emit(Instruction::with2(Code::Mov_r32_imm32, Register::ECX, random.index(40) as u32));
            code = encoder.take_buffer();
            let (down, repeated) = (random.index(6) == 0, random.index(3) != 0);
            if down {
                code.push(0xfd);
            }
            if repeated {
                code.push(0xf3);
            }
            match size {
                1 => code.push(0x66),
                3 => code.push(0x48),
                _ => {}
            }
            let opcode = if repeated { [0xa4, 0xaa] } else { [0xa4, 0xac] };
            code.push(random.pick(&opcode) | u8::from(size > 0));
            if down {
                code.push(0xfc);
            }
            return code;
        }
        3 | 4 => {
            let size = size.max(1);
            let codes = match random.index(4) {
                0 => [Code::Bt_rm16_r16, Code::Bt_rm32_r32, Code::Bt_rm64_r64],
                1 => [Code::Bts_rm16_r16, Code::Bts_rm32_r32, Code::Bts_rm64_r64],
                2 => [Code::Btr_rm16_r16, Code::Btr_rm32_r32, Code::Btr_rm64_r64],
                _ => [Code::Btc_rm16_r16, Code::Btc_rm32_r32, Code::Btc_rm64_r64],
            };
            let offset = random.index(0x2000) as i32 - 0x1000;
            emit(Instruction::with2(Code::Mov_rm64_imm32, sized(free, 3), offset));
            let mut bit = Instruction::with2(codes[size - 1], mem, sized(free, size)).unwrap();
            let bt = bit.mnemonic() == Mnemonic::Bt;
            bit.set_has_lock_prefix(!bt && random.index(3) == 0);
            emit(Ok(bit));
        }
        5 => {
            let high = random.pick(&[Register::AH, Register::CH, Register::DH]);
            let code = random.pick(&[Code::Mov_r8_rm8, Code::Add_r8_rm8, Code::Xor_r8_rm8]);
            emit(Instruction::with2(code, high, low));
        }
        6 => {
            let high = random.pick(&[Register::AH, Register::CH, Register::DH, Register::BH]);
            let code = random.pick(&[Code::Mov_rm8_r8, Code::Adc_rm8_r8, Code::Cmp_rm8_r8]);
            emit(Instruction::with2(code, low, high));
        }
        7 => emit(if random.index(2) == 0 {
            let code = Code::VEX_Andn_r64_r64_rm64;
            Instruction::with3(code, Register::R10, Register::R11, mem)
        } else {
            Instruction::with3(Code::VEX_Shlx_r64_rm64_r64, Register::R10, mem, Register::R11)
        }),
        8 => {
            let segment = random.pick(&[Register::CS, Register::DS, Register::SS, Register::GS]);
            emit(match size {
                0 => Instruction::with2(Code::Mov_rm16_Sreg, mem, segment),
                1 => Instruction::with2(Code::Mov_rm16_Sreg, sized(free, 1), segment),
                2 => Instruction::with2(Code::Mov_r32m16_Sreg, sized(free, 2), segment),
                _ => Instruction::with2(Code::Mov_r64m16_Sreg, sized(free, 3), segment),
            });
        }
        9 => {
            // mov eax, ..; wrgsbase; rdgsbase
            let base = random.next() as u32 >> random.index(32);
            let to = random.pick(&FREE);
            emit(Instruction::with2(Code::Mov_r32_imm32, sized(free, 2), base));
            let (write, read) = if size > 1 {
                (Code::Wrgsbase_r64, Code::Rdgsbase_r64)
            } else {
                (Code::Wrgsbase_r32, Code::Rdgsbase_r32)
            };
            let width = if size > 1 { 3 } else { 2 };
            emit(Instruction::with1(write, sized(free, width)));
            emit(Instruction::with1(read, sized(to, width)));
        }
        10 => {
            // pushfq; popfq, or with TF, DF and others of no consequence changed
            emit(Ok(Instruction::with(Code::Pushfq)));
            if random.index(2) == 0 {
                let top = MemoryOperand::with_base(Register::RSP);
                let change = random.pick(&[1, 0x40, 0x800, 0x8d5, 0x4000, 0x20_0000]);
                emit(Instruction::with2(Code::Xor_rm32_imm32, top, change));
            }
            emit(Ok(Instruction::with(Code::Popfq)));
        }
        11 => emit(Ok(Instruction::with(Code::Cli))),
        12 => emit(Ok(Instruction::with(Code::Sti))),
        13 => emit(Ok(Instruction::with(random.pick(&[Code::Stac, Code::Clac])))),
        14 => emit(Ok(Instruction::with(Code::Swapgs))),
        15 => {
            let number = random.pick(&[0, 2, 3, 4]);
            emit(Instruction::with2(Code::Mov_r64_cr, sized(free, 3), Register::CR0 + number));
        }
        16 => emit(Ok(Instruction::with(random.pick(&[Code::Cld, Code::Std, Code::Cld])))),
        17 => {
            let high = sizes!(Cmp_r8_rm8 Adc_r8_rm8 Sub_r8_rm8 Or_r8_rm8);
            emit(Instruction::with2(high, Register::AH, low));
        }
        _ => emit(Instruction::with1(Code::Rdpid_r64, sized(free, 3))),
    }
    code.extend(encoder.take_buffer());
    code
}
