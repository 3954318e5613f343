//! BT, BTS, BTR, BTC, BSF, BSR.

use super::operand::{Imm, Kind, Mem, Reg, Source, by_wide_size};
use crate::cpu::Cpu;
use crate::exit::Step;
use crate::op::{Handler, Op};
use ambos_hostcode::alu::WideWord;
use ambos_hostcode::mem::Cell;
use ambos_vcpu::Platform;

/// What happens to the tested bit.
trait BitChange {
    const WRITES: bool = true;
    fn apply(value: u64, bit: u64) -> u64;
}
struct Keep;
struct Set;
struct Reset;
struct Complement;
impl BitChange for Keep {
    const WRITES: bool = false;
    fn apply(value: u64, _: u64) -> u64 {
        value
    }
}
impl BitChange for Set {
    fn apply(value: u64, bit: u64) -> u64 {
        value | bit
    }
}
impl BitChange for Reset {
    fn apply(value: u64, bit: u64) -> u64 {
        value & !bit
    }
}
impl BitChange for Complement {
    fn apply(value: u64, bit: u64) -> u64 {
        value ^ bit
    }
}

/// Which of the four bit instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitOp {
    /// BT.
    Test,
    /// BTS.
    Set,
    /// BTR.
    Reset,
    /// BTC.
    Complement,
}

/// Picks the handler of a bit instruction.
pub fn bit(op: BitOp, size: u8, dst: Kind, offset: Kind, lock: bool) -> Handler {
    macro_rules! pick {
        ($change:ty) => {
            match (dst, offset, lock) {
                (Kind::Mem, Kind::Imm, false) => by_wide_size!(size, bit_mem, $change, Imm),
                (Kind::Mem, Kind::Imm, true) => by_wide_size!(size, bit_locked, $change, Imm),
                (Kind::Mem, _, false) => by_wide_size!(size, bit_mem, $change, Reg),
                (Kind::Mem, _, true) => by_wide_size!(size, bit_locked, $change, Reg),
                (_, Kind::Imm, _) => by_wide_size!(size, bit_reg, $change, Imm),
                (_, _, _) => by_wide_size!(size, bit_reg, $change, Reg),
            }
        };
    }
    match op {
        BitOp::Test => pick!(Keep),
        BitOp::Set => pick!(Set),
        BitOp::Reset => pick!(Reset),
        BitOp::Complement => pick!(Complement),
    }
}

fn bit_reg<W: Cell + WideWord, C: BitChange, S: Source>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let offset = S::read::<W>(cpu, platform, op)?.to_u64();
    let value = cpu.reg::<W>(op.dst);
    let flags = value.bt(offset, cpu.native.rflags);
    if C::WRITES {
        let bit = 1 << (offset & u64::from(W::BITS - 1));
        cpu.set_reg(op.dst, W::from_u64(C::apply(value.to_u64(), bit)));
    }
    cpu.set_flags(flags);
    Ok(())
}

/// The linear address of the cell that holds the bit, and the bit's number within it. A register
/// offset reaches beyond the operand, an immediate does not.
fn locate<W: Cell, S: Source>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
    write: bool,
) -> Result<(u64, u64), crate::exit::Exit> {
    let offset = S::read::<W>(cpu, platform, op)?;
    let beyond = if matches!(op.imm, u64::MAX) {
        // `lower` marks register offsets so.
        (offset.to_i64() >> W::BITS.trailing_zeros()).wrapping_mul(W::SIZE as i64)
    } else {
        0
    };
    let address = op.effective_address(cpu).wrapping_add(beyond as u64) & op.address_mask;
    let linear = op.linear_at(cpu, address, W::SIZE, write)?;
    Ok((linear, offset.to_u64() & u64::from(W::BITS - 1)))
}

fn bit_mem<W: Cell + WideWord, C: BitChange, S: Source>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let (linear, bit) = locate::<W, S>(cpu, platform, op, C::WRITES)?;
    if !C::WRITES {
        let flags = cpu.load::<W>(platform, linear)?.bt(bit, cpu.native.rflags);
        cpu.set_flags(flags);
        return Ok(());
    }
    let mut after = 0;
    cpu.modify::<W>(platform, linear, |cpu, old| {
        after = old.bt(bit, cpu.native.rflags);
        Some(W::from_u64(C::apply(old.to_u64(), 1 << bit)))
    })?;
    cpu.set_flags(after);
    Ok(())
}

fn bit_locked<W: Cell + WideWord, C: BitChange, S: Source>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let (linear, bit) = locate::<W, S>(cpu, platform, op, true)?;
    let mut after = 0;
    cpu.modify_locked::<W>(platform, linear, |cpu, old| {
        after = old.bt(bit, cpu.native.rflags);
        Some(W::from_u64(C::apply(old.to_u64(), 1 << bit)))
    })?;
    cpu.set_flags(after);
    Ok(())
}

/// Picks the handler of BSF or, with `reverse`, BSR.
pub fn scan(size: u8, src: Kind, reverse: bool) -> Handler {
    match (src, reverse) {
        (Kind::Mem, false) => by_wide_size!(size, bsf, Mem),
        (Kind::Mem, true) => by_wide_size!(size, bsr, Mem),
        (_, false) => by_wide_size!(size, bsf, Reg),
        (_, true) => by_wide_size!(size, bsr, Reg),
    }
}

fn bsf<W: Cell + WideWord, S: Source>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let source = S::read::<W>(cpu, platform, op)?;
    let (value, flags) = source.bsf(cpu.reg(op.dst), cpu.native.rflags);
    // A zero source leaves the whole register, upper half included.
    if source.to_u64() != 0 {
        cpu.set_reg(op.dst, value);
    }
    cpu.set_flags(flags);
    Ok(())
}

fn bsr<W: Cell + WideWord, S: Source>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let source = S::read::<W>(cpu, platform, op)?;
    let (value, flags) = source.bsr(cpu.reg(op.dst), cpu.native.rflags);
    if source.to_u64() != 0 {
        cpu.set_reg(op.dst, value);
    }
    cpu.set_flags(flags);
    Ok(())
}
