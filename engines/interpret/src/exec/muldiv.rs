//! MUL, IMUL, DIV, IDIV.

use super::operand::{Imm, Kind, Mem, Reg, Source, by_size, by_wide_size};
use crate::cpu::Cpu;
use crate::exit::{Fault, Step};
use crate::op::{Handler, Op};
use ambos_hostcode::alu::WideWord;
use ambos_hostcode::mem::Cell;
use ambos_vcpu::Platform;
use ambos_x86::gpr::{RAX, RDX};

/// AH as a byte register operand.
const AH: u8 = 16;

/// Picks the handler of a one-operand multiplication.
pub fn multiply(size: u8, operand: Kind, signed: bool) -> Handler {
    match (operand, signed) {
        (Kind::Mem, false) => by_size!(size, wide_product, Mem, Unsigned),
        (Kind::Mem, true) => by_size!(size, wide_product, Mem, Signed),
        (_, false) => by_size!(size, wide_product, Reg, Unsigned),
        (_, true) => by_size!(size, wide_product, Reg, Signed),
    }
}

/// Picks the handler of a division.
pub fn divide(size: u8, operand: Kind, signed: bool) -> Handler {
    match (operand, signed) {
        (Kind::Mem, false) => by_size!(size, quotient, Mem, Unsigned),
        (Kind::Mem, true) => by_size!(size, quotient, Mem, Signed),
        (_, false) => by_size!(size, quotient, Reg, Unsigned),
        (_, true) => by_size!(size, quotient, Reg, Signed),
    }
}

/// Picks the handler of IMUL with a destination: `reg, r/m` or, with `immediate`, `reg, r/m, imm`.
pub fn multiply_to(size: u8, operand: Kind, immediate: bool) -> Handler {
    match (operand, immediate) {
        (Kind::Mem, false) => by_wide_size!(size, product, Mem),
        (Kind::Mem, true) => by_wide_size!(size, product_imm, Mem),
        (_, false) => by_wide_size!(size, product, Reg),
        (_, true) => by_wide_size!(size, product_imm, Reg),
    }
}

trait Sign {
    fn multiply<W: Cell>(a: W, b: W, flags: u64) -> (W, W, u64);
    fn divide<W: Cell>(low: W, high: W, divisor: W) -> Option<(W, W)>;
}
struct Unsigned;
struct Signed;
impl Sign for Unsigned {
    fn multiply<W: Cell>(a: W, b: W, flags: u64) -> (W, W, u64) {
        a.mul(b, flags)
    }
    fn divide<W: Cell>(low: W, high: W, divisor: W) -> Option<(W, W)> {
        low.div(high, divisor)
    }
}
impl Sign for Signed {
    fn multiply<W: Cell>(a: W, b: W, flags: u64) -> (W, W, u64) {
        a.imul(b, flags)
    }
    fn divide<W: Cell>(low: W, high: W, divisor: W) -> Option<(W, W)> {
        low.idiv(high, divisor)
    }
}

/// The register of the upper half: AH for bytes, otherwise DX, EDX, RDX.
fn upper<W: Cell>() -> u8 {
    if W::SIZE == 1 { AH } else { RDX as u8 }
}

fn wide_product<W: Cell, S: Source, G: Sign>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let other = S::read::<W>(cpu, platform, op)?;
    let (low, high, flags) = G::multiply(cpu.reg::<W>(RAX as u8), other, cpu.native.rflags);
    cpu.set_reg(RAX as u8, low);
    cpu.set_reg(upper::<W>(), high);
    cpu.set_flags(flags);
    Ok(())
}

fn quotient<W: Cell, S: Source, G: Sign>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let divisor = S::read::<W>(cpu, platform, op)?;
    let (low, high) = (cpu.reg::<W>(RAX as u8), cpu.reg::<W>(upper::<W>()));
    // The flags are undefined; they stay.
    let (quotient, remainder) = G::divide(low, high, divisor).ok_or(Fault::DE)?;
    cpu.set_reg(RAX as u8, quotient);
    cpu.set_reg(upper::<W>(), remainder);
    Ok(())
}

fn product<W: Cell + WideWord, S: Source>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let other = S::read::<W>(cpu, platform, op)?;
    let (value, flags) = cpu.reg::<W>(op.dst).imul2(other, cpu.native.rflags);
    cpu.set_reg(op.dst, value);
    cpu.set_flags(flags);
    Ok(())
}

fn product_imm<W: Cell + WideWord, S: Source>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let factor = Imm::read::<W>(cpu, platform, op)?;
    let source = S::read::<W>(cpu, platform, op)?;
    let (value, flags) = source.imul2(factor, cpu.native.rflags);
    cpu.set_reg(op.dst, value);
    cpu.set_flags(flags);
    Ok(())
}
