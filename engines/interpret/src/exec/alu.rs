//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT.

use super::operand::{Imm, Kind, Mem, Reg, Source, by_size};
use crate::cpu::Cpu;
use crate::exit::Step;
use crate::op::{Handler, Op};
use ambos_hostcode::Word;
use ambos_hostcode::mem::Cell;
use ambos_vcpu::Platform;

/// An operation of two operands.
pub trait Binary {
    /// Whether the result is written: not for CMP and TEST.
    const WRITES: bool = true;
    /// Result and flags.
    fn apply<W: Word>(a: W, b: W, flags: u64) -> (W, u64);
}

/// An operation of one operand.
pub trait Unary {
    /// Result and flags.
    fn apply<W: Word>(a: W, flags: u64) -> (W, u64);
}

macro_rules! binary_ops {
    ($($name:ident, $method:ident, $writes:literal;)*) => {$(
        #[doc = concat!("The operation ", stringify!($method), ".")]
        #[derive(Debug)]
        pub struct $name;
        impl Binary for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply<W: Word>(a: W, b: W, flags: u64) -> (W, u64) {
                a.$method(b, flags)
            }
        }
    )*};
}

binary_ops! {
    Add, add, true;
    Or, or, true;
    Adc, adc, true;
    Sbb, sbb, true;
    And, and, true;
    Sub, sub, true;
    Xor, xor, true;
    Cmp, sub, false;
    Test, and, false;
}

/// INC.
#[derive(Debug)]
pub struct Inc;
/// DEC.
#[derive(Debug)]
pub struct Dec;
/// NEG.
#[derive(Debug)]
pub struct Neg;
/// NOT.
#[derive(Debug)]
pub struct Not;

impl Unary for Inc {
    #[inline(always)]
    fn apply<W: Word>(a: W, flags: u64) -> (W, u64) {
        a.inc(flags)
    }
}
impl Unary for Dec {
    #[inline(always)]
    fn apply<W: Word>(a: W, flags: u64) -> (W, u64) {
        a.dec(flags)
    }
}
impl Unary for Neg {
    #[inline(always)]
    fn apply<W: Word>(a: W, _: u64) -> (W, u64) {
        a.neg()
    }
}
impl Unary for Not {
    #[inline(always)]
    fn apply<W: Word>(a: W, flags: u64) -> (W, u64) {
        (W::from_u64(!a.to_u64()), flags & ambos_hostcode::alu::ARITHMETIC)
    }
}

/// Picks the handler of a binary operation.
pub fn binary<O: Binary>(size: u8, dst: Kind, src: Kind, lock: bool) -> Handler {
    match (dst, src) {
        (Kind::Reg, Kind::Reg) => by_size!(size, binary_reg, O, Reg),
        (Kind::Reg, Kind::Imm) => by_size!(size, binary_reg, O, Imm),
        (Kind::Reg, Kind::Mem) => by_size!(size, binary_reg, O, Mem),
        (_, Kind::Imm) if lock => by_size!(size, binary_locked, O, Imm),
        (_, _) if lock => by_size!(size, binary_locked, O, Reg),
        (_, Kind::Imm) if O::WRITES => by_size!(size, binary_mem, O, Imm),
        (_, _) if O::WRITES => by_size!(size, binary_mem, O, Reg),
        (_, Kind::Imm) => by_size!(size, compare_mem, O, Imm),
        (_, _) => by_size!(size, compare_mem, O, Reg),
    }
}

/// Picks the handler of a unary operation.
pub fn unary<O: Unary>(size: u8, operand: Kind, lock: bool) -> Handler {
    match operand {
        Kind::Mem if lock => by_size!(size, unary_locked, O),
        Kind::Mem => by_size!(size, unary_mem, O),
        _ => by_size!(size, unary_reg, O),
    }
}

fn binary_reg<W: Cell, O: Binary, S: Source>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let other = S::read::<W>(cpu, platform, op)?;
    let (value, flags) = O::apply(cpu.reg::<W>(op.dst), other, cpu.native.rflags);
    if O::WRITES {
        cpu.set_reg(op.dst, value);
    }
    cpu.set_flags(flags);
    Ok(())
}

fn binary_mem<W: Cell, O: Binary, S: Source>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let other = S::read::<W>(cpu, platform, op)?;
    let linear = op.linear(cpu, W::SIZE, true)?;
    let mut after = 0;
    cpu.modify::<W>(platform, linear, |cpu, old| {
        let (value, flags) = O::apply(old, other, cpu.native.rflags);
        after = flags;
        Some(value)
    })?;
    cpu.set_flags(after);
    Ok(())
}

fn binary_locked<W: Cell, O: Binary, S: Source>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let other = S::read::<W>(cpu, platform, op)?;
    let linear = op.linear(cpu, W::SIZE, true)?;
    let mut after = 0;
    cpu.modify_locked::<W>(platform, linear, |cpu, old| {
        let (value, flags) = O::apply(old, other, cpu.native.rflags);
        after = flags;
        Some(value)
    })?;
    cpu.set_flags(after);
    Ok(())
}

fn compare_mem<W: Cell, O: Binary, S: Source>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let other = S::read::<W>(cpu, platform, op)?;
    let value = Mem::read::<W>(cpu, platform, op)?;
    let (_, flags) = O::apply(value, other, cpu.native.rflags);
    cpu.set_flags(flags);
    Ok(())
}

fn unary_reg<W: Cell, O: Unary>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let (value, flags) = O::apply(cpu.reg::<W>(op.dst), cpu.native.rflags);
    cpu.set_reg(op.dst, value);
    cpu.set_flags(flags);
    Ok(())
}

fn unary_mem<W: Cell, O: Unary>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let linear = op.linear(cpu, W::SIZE, true)?;
    let mut after = 0;
    cpu.modify::<W>(platform, linear, |cpu, old| {
        let (value, flags) = O::apply(old, cpu.native.rflags);
        after = flags;
        Some(value)
    })?;
    cpu.set_flags(after);
    Ok(())
}

fn unary_locked<W: Cell, O: Unary>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let linear = op.linear(cpu, W::SIZE, true)?;
    let mut after = 0;
    cpu.modify_locked::<W>(platform, linear, |cpu, old| {
        let (value, flags) = O::apply(old, cpu.native.rflags);
        after = flags;
        Some(value)
    })?;
    cpu.set_flags(after);
    Ok(())
}
