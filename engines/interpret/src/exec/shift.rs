//! ROL, ROR, RCL, RCR, SHL, SHR, SAR, SHLD, SHRD.
//!
//! The count is the immediate, or CL where [`Op::imm`] is [`COUNT_IN_CL`].

use super::operand::{Kind, by_size, by_wide_size};
use crate::cpu::Cpu;
use crate::exit::Step;
use crate::op::{Handler, Op};
use ambos_hostcode::Word;
use ambos_hostcode::alu::WideWord;
use ambos_hostcode::mem::Cell;
use ambos_vcpu::Platform;
use ambos_x86::gpr;

/// An immediate that no shift has: the count is in CL.
pub const COUNT_IN_CL: u64 = 0x100;

/// A shift or rotation.
pub trait Shift {
    /// Result and flags.
    fn apply<W: Word>(a: W, count: u8, flags: u64) -> (W, u64);
}

macro_rules! shifts {
    ($($name:ident, $method:ident;)*) => {$(
        #[doc = concat!("The operation ", stringify!($method), ".")]
        #[derive(Debug)]
        pub struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn apply<W: Word>(a: W, count: u8, flags: u64) -> (W, u64) {
                a.$method(count, flags)
            }
        }
    )*};
}

shifts! {
    Rol, rol;
    Ror, ror;
    Rcl, rcl;
    Rcr, rcr;
    Shl, shl;
    Shr, shr;
    Sar, sar;
}

#[inline(always)]
fn count(cpu: &Cpu, op: &Op) -> u8 {
    if op.imm == COUNT_IN_CL { cpu.native.gpr[gpr::RCX] as u8 } else { op.imm as u8 }
}

/// Picks the handler of a shift.
pub fn shift<O: Shift>(size: u8, operand: Kind) -> Handler {
    match operand {
        Kind::Mem => by_size!(size, shift_mem, O),
        _ => by_size!(size, shift_reg, O),
    }
}

fn shift_reg<W: Cell, O: Shift>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let (value, flags) = O::apply(cpu.reg::<W>(op.dst), count(cpu, op), cpu.native.rflags);
    cpu.set_reg(op.dst, value);
    cpu.set_flags(flags);
    Ok(())
}

fn shift_mem<W: Cell, O: Shift>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let linear = op.linear(cpu, W::SIZE, true)?;
    let count = count(cpu, op);
    let mut after = 0;
    cpu.modify::<W>(platform, linear, |cpu, old| {
        let (value, flags) = O::apply(old, count, cpu.native.rflags);
        after = flags;
        Some(value)
    })?;
    cpu.set_flags(after);
    Ok(())
}

/// Picks the handler of SHLD (`left`) or SHRD.
pub fn double_shift(size: u8, operand: Kind, left: bool) -> Handler {
    match (operand, left) {
        (Kind::Mem, true) => by_wide_size!(size, double_mem, Left),
        (Kind::Mem, false) => by_wide_size!(size, double_mem, Right),
        (_, true) => by_wide_size!(size, double_reg, Left),
        (_, false) => by_wide_size!(size, double_reg, Right),
    }
}

/// A double-precision shift.
trait DoubleShift {
    fn apply<W: WideWord>(a: W, fill: W, count: u8, flags: u64) -> (W, u64);
}
struct Left;
struct Right;
impl DoubleShift for Left {
    fn apply<W: WideWord>(a: W, fill: W, count: u8, flags: u64) -> (W, u64) {
        a.shld(fill, count, flags)
    }
}
impl DoubleShift for Right {
    fn apply<W: WideWord>(a: W, fill: W, count: u8, flags: u64) -> (W, u64) {
        a.shrd(fill, count, flags)
    }
}

fn double_reg<W: Cell + WideWord, O: DoubleShift>(
    cpu: &mut Cpu,
    _: &mut dyn Platform,
    op: &Op,
) -> Step {
    let (a, fill) = (cpu.reg::<W>(op.dst), cpu.reg::<W>(op.src));
    let (value, flags) = O::apply(a, fill, count(cpu, op), cpu.native.rflags);
    cpu.set_reg(op.dst, value);
    cpu.set_flags(flags);
    Ok(())
}

fn double_mem<W: Cell + WideWord, O: DoubleShift>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let linear = op.linear(cpu, W::SIZE, true)?;
    let (fill, count) = (cpu.reg::<W>(op.src), count(cpu, op));
    let mut after = 0;
    cpu.modify::<W>(platform, linear, |cpu, old| {
        let (value, flags) = O::apply(old, fill, count, cpu.native.rflags);
        after = flags;
        Some(value)
    })?;
    cpu.set_flags(after);
    Ok(())
}
