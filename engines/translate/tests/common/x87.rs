//! x87 and MMX instructions for random programs.

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Register};

const LOADS: [Code; 6] = [
    Code::Fld_m32fp,
    Code::Fld_m64fp,
    Code::Fld_m80fp,
    Code::Fild_m16int,
    Code::Fild_m32int,
    Code::Fild_m64int,
];
const COMPUTATIONS: [Code; 6] = [
    Code::Fadd_m32fp,
    Code::Fmul_m64fp,
    Code::Fsub_m32fp,
    Code::Fdivr_m64fp,
    Code::Fiadd_m16int,
    Code::Fcomp_m32fp,
];
const STORES: [Code; 8] = [
    Code::Fst_m32fp,
    Code::Fstp_m64fp,
    Code::Fstp_m80fp,
    Code::Fistp_m16int,
    Code::Fistp_m64int,
    Code::Fisttp_m32int,
    Code::Fnstcw_m2byte,
    Code::Fnstsw_m2byte,
];
const PLAIN: [Code; 8] = [
    Code::Fld1,
    Code::Fldpi,
    Code::Fchs,
    Code::Fsqrt,
    Code::Fincstp,
    Code::Fninit,
    Code::Emms,
    Code::Wait,
];

/// One instruction, with its memory operand, if any, at `memory`. `below` gives numbers below a limit;
/// `unmask` includes what may unmask exceptions.
pub(crate) fn instruction(
    below: &mut dyn FnMut(usize) -> usize,
    memory: MemoryOperand,
    unmask: bool,
) -> Vec<u8> {
    let stack = Register::ST0 + below(8) as u32;
    let (a, b) = (Register::MM0 + below(8) as u32, Register::MM0 + below(8) as u32);
    let built = match below(if unmask { 12 } else { 11 }) {
        0 | 1 => Instruction::with1(LOADS[below(LOADS.len())], memory),
        2 => Instruction::with1(COMPUTATIONS[below(COMPUTATIONS.len())], memory),
        3 | 4 => Instruction::with1(STORES[below(STORES.len())], memory),
        5 => Ok(Instruction::with(PLAIN[below(PLAIN.len())])),
        6 => {
            let codes = [Code::Fadd_st0_sti, Code::Fcomi_st0_sti, Code::Fcmovb_st0_sti];
            Instruction::with2(codes[below(codes.len())], Register::ST0, stack)
        }
        7 => Instruction::with2(Code::Faddp_sti_st0, stack, Register::ST0),
        8 => Instruction::with1(Code::Fnstsw_AX, Register::AX),
        9 => Instruction::with2(Code::Paddw_mm_mmm64, a, b),
        10 => match below(3) {
            0 => Instruction::with2(Code::Movq_mm_mmm64, a, memory),
            1 => Instruction::with2(Code::Movq_mmm64_mm, memory, a),
            _ => Instruction::with2(Code::Movd_rm32_mm, Register::R10D, b),
        },
        _ => Instruction::with1(Code::Fldcw_m2byte, memory),
    };
    let mut encoder = Encoder::new(64);
    encoder.encode(&built.unwrap(), 0).unwrap();
    encoder.take_buffer()
}

/// What software sees of an image: not the pointers to the last instruction and its operand.
pub(crate) fn visible(image: &[u8; 512]) -> (&[u8], &[u8]) {
    (&image[..5], &image[32..160])
}
