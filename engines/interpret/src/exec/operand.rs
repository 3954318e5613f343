//! Where an operand comes from.

use crate::cpu::Cpu;
use crate::exit::Exit;
use crate::op::{Handler, Op};
use ambos_hostcode::mem::Cell;
use ambos_vcpu::Platform;

/// A readable operand.
pub trait Source {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// The fault to deliver.
    fn read<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Result<W, Exit>;
}

/// The register in [`Op::src`].
#[derive(Debug)]
pub struct Reg;
/// The immediate.
#[derive(Debug)]
pub struct Imm;
/// The memory operand.
#[derive(Debug)]
pub struct Mem;

impl Source for Reg {
    #[inline(always)]
    fn read<W: Cell>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result<W, Exit> {
        Ok(cpu.reg(op.src))
    }
}

impl Source for Imm {
    #[inline(always)]
    fn read<W: Cell>(_: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result<W, Exit> {
        Ok(W::from_u64(op.imm))
    }
}

impl Source for Mem {
    #[inline(always)]
    fn read<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Result<W, Exit> {
        let linear = op.linear(cpu, W::SIZE, false)?;
        cpu.load(platform, linear)
    }
}

/// The kind of an operand, while decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Register.
    Reg,
    /// Immediate.
    Imm,
    /// Memory.
    Mem,
}

/// Picks the instance of a handler for an operand size in bytes.
macro_rules! by_size {
    ($size:expr, $name:ident $(, $rest:ty)*) => {
        match $size {
            1 => $name::<u8 $(, $rest)*>,
            2 => $name::<u16 $(, $rest)*>,
            4 => $name::<u32 $(, $rest)*>,
            _ => $name::<u64 $(, $rest)*>,
        }
    };
}

/// Picks the instance of a handler for an operand size of two or more bytes.
macro_rules! by_wide_size {
    ($size:expr, $name:ident $(, $rest:ty)*) => {
        match $size {
            2 => $name::<u16 $(, $rest)*>,
            4 => $name::<u32 $(, $rest)*>,
            _ => $name::<u64 $(, $rest)*>,
        }
    };
}

pub(crate) use {by_size, by_wide_size};

/// A function that picks a handler for an operand size.
pub type BySize = fn(u8) -> Handler;
