//! A decoded instruction, ready to run.

use crate::cpu::{Cpu, RIP, seg};
use crate::exec::native::Thunk;
use crate::exit::{Exit, Fault, Step};
use ambos_hostcode::Word;
use ambos_vcpu::Platform;
use iced_x86::Instruction;
use std::rc::Rc;

/// Executes one instruction.
pub type Handler = fn(&mut Cpu, &mut dyn Platform, &Op) -> Step;

/// What only some instructions need, kept out of line.
#[derive(Debug)]
pub enum Extra {
    /// Nothing.
    None,
    /// The decoded instruction itself, for handlers of rare ones.
    Instruction(Box<Instruction>),
    /// A thunk that executes the instruction on the host.
    Thunk(Rc<Thunk>),
}

/// A decoded instruction: handler and operands.
#[derive(Debug)]
pub struct Op {
    /// What executes it.
    pub run: Handler,
    /// Immediate; for branches the target relative to the block's first instruction.
    pub imm: u64,
    /// Displacement of the memory operand; relative to the block's first instruction where the base
    /// is [`RIP`].
    pub disp: u64,
    /// Mask of the effective address: the address size.
    pub address_mask: u64,
    /// Base register of the memory operand.
    pub base: u8,
    /// Index register of the memory operand.
    pub index: u8,
    /// Shift of the index.
    pub scale: u8,
    /// Segment of the memory operand.
    pub seg: u8,
    /// First register operand; 16 to 19 are AH, CH, DH, BH in byte instructions.
    pub dst: u8,
    /// Second register operand.
    pub src: u8,
    /// Operand size in bytes.
    pub size: u8,
    /// The segment's limit and type must be checked: not 64-bit mode.
    pub checked: bool,
    /// The memory operand is on the stack segment: violations raise #SS.
    pub stack: bool,
    /// REP or REPNE prefix: see [`crate::exec::string`].
    pub rep: u8,
    /// Offset of the instruction's first byte in its block.
    pub start: u16,
    /// Offset of the byte after the instruction.
    pub end: u16,
    /// Out-of-line part.
    pub extra: Extra,
}

impl Op {
    /// The address of the next instruction.
    #[inline(always)]
    pub fn next_rip(&self, cpu: &Cpu) -> u64 {
        cpu.mask_rip(cpu.native.gpr[RIP].wrapping_add(u64::from(self.end)))
    }

    /// The address of this instruction.
    #[inline(always)]
    pub fn this_rip(&self, cpu: &Cpu) -> u64 {
        cpu.mask_rip(cpu.native.gpr[RIP].wrapping_add(u64::from(self.start)))
    }

    /// The branch target.
    #[inline(always)]
    pub fn target(&self, cpu: &Cpu) -> u64 {
        cpu.native.gpr[RIP].wrapping_add(self.imm)
    }

    /// The decoded instruction.
    ///
    /// # Errors
    ///
    /// #UD if it was not kept, which decoding never does for handlers that ask.
    pub fn instruction(&self) -> Result<&Instruction, Fault> {
        match &self.extra {
            Extra::Instruction(instruction) => Ok(instruction),
            _ => Err(Fault::UD),
        }
    }

    /// The offset part of the memory operand's address.
    #[inline(always)]
    pub fn effective_address(&self, cpu: &Cpu) -> u64 {
        let gpr = &cpu.native.gpr;
        let base = gpr[usize::from(self.base) % 18];
        let index = gpr[usize::from(self.index) % 18] << self.scale;
        base.wrapping_add(index).wrapping_add(self.disp) & self.address_mask
    }

    /// The linear address of the memory operand, for an access of `size` bytes.
    ///
    /// # Errors
    ///
    /// #GP(0) or #SS(0) if the segment forbids the access.
    #[inline(always)]
    pub fn linear(&self, cpu: &Cpu, size: usize, write: bool) -> Result<u64, Exit> {
        self.linear_at(cpu, self.effective_address(cpu), size, write)
    }

    /// The linear address of `offset` in the memory operand's segment.
    ///
    /// # Errors
    ///
    /// As [`Op::linear`].
    #[inline(always)]
    pub fn linear_at(&self, cpu: &Cpu, offset: u64, size: usize, write: bool) -> Result<u64, Exit> {
        let segment = usize::from(self.seg);
        if self.checked {
            return Ok(cpu.segment_linear(segment, offset, size as u64, write)?);
        }
        let linear = offset.wrapping_add(cpu.linear_base[segment % 7]);
        if self.stack && !crate::mmu::is_canonical(linear) {
            return Err(Fault::SS0.into());
        }
        Ok(linear)
    }

    /// Whether the operand's segment is the stack's.
    pub fn on_stack(&self) -> bool {
        usize::from(self.seg) == seg::SS
    }
}

impl Cpu {
    /// Reads a register operand.
    #[inline(always)]
    pub fn reg<W: Word>(&self, register: u8) -> W {
        let register = usize::from(register);
        if W::SIZE == 1 && register >= 16 {
            return W::from_u64(self.native.gpr[(register - 16) & 3] >> 8);
        }
        W::from_u64(self.native.gpr[register & 15])
    }

    /// Writes a register operand: 32-bit values clear the upper half, smaller ones keep the rest.
    #[inline(always)]
    pub fn set_reg<W: Word>(&mut self, register: u8, value: W) {
        let register = usize::from(register);
        if W::SIZE == 1 && register >= 16 {
            let slot = &mut self.native.gpr[(register - 16) & 3];
            *slot = *slot & !0xff00 | value.to_u64() << 8;
            return;
        }
        let slot = &mut self.native.gpr[register & 15];
        *slot = match W::SIZE {
            8 | 4 => value.to_u64(),
            2 => *slot & !0xffff | value.to_u64(),
            _ => *slot & !0xff | value.to_u64(),
        };
    }

    /// Replaces the arithmetic flags.
    #[inline(always)]
    pub fn set_flags(&mut self, flags: u64) {
        self.native.rflags = self.native.rflags & !ambos_hostcode::alu::ARITHMETIC | flags;
    }
}
