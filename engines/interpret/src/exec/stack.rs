//! PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE.

use super::operand::{Imm, Kind, Mem, Reg, Source, by_wide_size};
use crate::cpu::{Cpu, seg};
use crate::exit::{Exit, Fault, Step};
use crate::op::{Handler, Op};
use ambos_hostcode::mem::Cell;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::Platform;
use ambos_x86::RFlags;
use ambos_x86::gpr::{RBP, RSP};

impl Cpu {
    /// The linear address of a stack offset, for an access of `size` bytes.
    #[inline(always)]
    fn stack_linear(&self, offset: u64, size: usize, write: bool) -> Result<u64, Exit> {
        if self.mode.stack_bits == 64 {
            if !crate::mmu::is_canonical(offset) {
                return Err(Fault::SS0.into());
            }
            return Ok(offset);
        }
        Ok(self.segment_linear(seg::SS, offset, size as u64, write)?)
    }

    #[inline(always)]
    fn stack_mask(&self) -> u64 {
        match self.mode.stack_bits {
            64 => u64::MAX,
            32 => 0xffff_ffff,
            _ => 0xffff,
        }
    }

    /// Sets the stack pointer, keeping what is above its size.
    #[inline(always)]
    pub fn set_stack_pointer(&mut self, value: u64) {
        let mask = self.stack_mask();
        let rsp = &mut self.native.gpr[RSP];
        // A 32-bit stack pointer in compatibility mode zero-extends.
        *rsp = if mask == 0xffff { *rsp & !mask | value & mask } else { value & mask };
    }

    /// Pushes a value.
    ///
    /// # Errors
    ///
    /// The fault to deliver; the stack pointer has not moved then.
    #[inline(always)]
    pub fn push<W: Cell>(&mut self, platform: &mut dyn Platform, value: W) -> Result<(), Exit> {
        let top = self.native.gpr[RSP].wrapping_sub(W::SIZE as u64) & self.stack_mask();
        let linear = self.stack_linear(top, W::SIZE, true)?;
        self.store(platform, linear, value)?;
        self.set_stack_pointer(top);
        Ok(())
    }

    /// Reads the value `depth` bytes above the top of the stack.
    ///
    /// # Errors
    ///
    /// The fault to deliver.
    #[inline(always)]
    pub fn peek<W: Cell>(&mut self, platform: &mut dyn Platform, depth: u64) -> Result<W, Exit> {
        let offset = self.native.gpr[RSP].wrapping_add(depth) & self.stack_mask();
        let linear = self.stack_linear(offset, W::SIZE, false)?;
        self.load(platform, linear)
    }

    /// Moves the stack pointer up.
    #[inline(always)]
    pub fn release_stack(&mut self, bytes: u64) {
        self.set_stack_pointer(self.native.gpr[RSP].wrapping_add(bytes));
    }
}

/// Picks the handler of PUSH.
pub fn push(size: u8, operand: Kind) -> Handler {
    match operand {
        Kind::Mem => by_wide_size!(size, push_value, Mem),
        Kind::Imm => by_wide_size!(size, push_value, Imm),
        Kind::Reg => by_wide_size!(size, push_value, Reg),
    }
}

fn push_value<W: Cell, S: Source>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let value = S::read::<W>(cpu, platform, op)?;
    cpu.push(platform, value)
}

/// Picks the handler of POP.
pub fn pop(size: u8, operand: Kind) -> Handler {
    match operand {
        Kind::Mem => by_wide_size!(size, pop_mem),
        _ => by_wide_size!(size, pop_reg),
    }
}

fn pop_reg<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let value = cpu.peek::<W>(platform, 0)?;
    cpu.release_stack(W::SIZE as u64);
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn pop_mem<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let value = cpu.peek::<W>(platform, 0)?;
    // An operand based on the stack pointer is addressed after the pop.
    let before = cpu.native.gpr[RSP];
    cpu.release_stack(W::SIZE as u64);
    let stored =
        op.linear(cpu, W::SIZE, true).and_then(|linear| cpu.store(platform, linear, value));
    if stored.is_err() {
        cpu.native.gpr[RSP] = before;
    }
    stored
}

/// Picks the handler of PUSHA.
pub fn push_all(size: u8) -> Handler {
    by_wide_size!(size, pusha)
}

fn pusha<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    let before = cpu.native.gpr[RSP];
    for register in 0..8 {
        let value = if register == RSP { before } else { cpu.native.gpr[register] };
        if let Err(exit) = cpu.push(platform, W::from_u64(value)) {
            cpu.native.gpr[RSP] = before;
            return Err(exit);
        }
    }
    Ok(())
}

/// Picks the handler of POPA.
pub fn pop_all(size: u8) -> Handler {
    by_wide_size!(size, popa)
}

fn popa<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    let mut values = [W::from_u64(0); 8];
    for (index, value) in values.iter_mut().enumerate() {
        *value = cpu.peek(platform, (index * W::SIZE) as u64)?;
    }
    cpu.release_stack(8 * W::SIZE as u64);
    for (index, value) in values.into_iter().enumerate() {
        let register = 7 - index;
        if register != RSP {
            cpu.set_reg(register as u8, value);
        }
    }
    Ok(())
}

/// Picks the handler of PUSHF.
pub fn push_flags(size: u8) -> Handler {
    by_wide_size!(size, pushf)
}

fn pushf<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    let flags = cpu.native.rflags & !(RFlags::RF | RFlags::VM).bits();
    cpu.push(platform, W::from_u64(flags))
}

/// Picks the handler of POPF.
pub fn pop_flags(size: u8) -> Handler {
    by_wide_size!(size, popf)
}

fn popf<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    let value = cpu.peek::<W>(platform, 0)?.to_u64();
    cpu.release_stack(W::SIZE as u64);
    let interrupts = cpu.rflags().contains(RFlags::IF);
    cpu.write_flags(value, W::SIZE == 2);
    platform.ledger().count(Intercept::Privileged(Privileged::Flags));
    let enabled = !interrupts && cpu.rflags().contains(RFlags::IF);
    // Newly allowed interrupts and single steps must be seen.
    if enabled || cpu.slow { Err(Exit::Next) } else { Ok(()) }
}

impl Cpu {
    /// Writes RFLAGS as POPF does: what may change depends on the privilege level.
    pub fn write_flags(&mut self, value: u64, low_half: bool) {
        let mut mask =
            (RFlags::ARITHMETIC | RFlags::TF | RFlags::DF | RFlags::NT | RFlags::AC | RFlags::ID)
                .bits();
        if u64::from(self.mode.cpl) <= u64::from(self.rflags().iopl()) {
            mask |= RFlags::IF.bits();
        }
        if self.mode.cpl == 0 {
            mask |= RFlags::IOPL.bits();
        }
        if low_half {
            mask &= 0xffff;
        }
        self.native.rflags = self.native.rflags & !mask & !RFlags::RF.bits() | value & mask;
        self.update_mmu_index();
        self.update_slow();
    }
}

/// Picks the handler of LEAVE.
pub fn leave(size: u8) -> Handler {
    by_wide_size!(size, leave_frame)
}

fn leave_frame<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    let before = cpu.native.gpr[RSP];
    cpu.set_stack_pointer(cpu.native.gpr[RBP]);
    match cpu.peek::<W>(platform, 0) {
        Ok(frame) => {
            cpu.release_stack(W::SIZE as u64);
            cpu.set_reg(RBP as u8, frame);
            Ok(())
        }
        Err(exit) => {
            cpu.native.gpr[RSP] = before;
            Err(exit)
        }
    }
}

/// Picks the handler of ENTER: [`Op::imm`] bytes of locals, [`Op::src`] nesting levels.
pub fn enter(size: u8) -> Handler {
    by_wide_size!(size, enter_frame)
}

fn enter_frame<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let (rsp, rbp) = (cpu.native.gpr[RSP], cpu.native.gpr[RBP]);
    let result = enter_inner::<W>(cpu, platform, op, rbp);
    if result.is_err() {
        cpu.native.gpr[RSP] = rsp;
        cpu.native.gpr[RBP] = rbp;
    }
    result
}

fn enter_inner<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op, rbp: u64) -> Step {
    let level = op.src & 31;
    cpu.push(platform, W::from_u64(rbp))?;
    let frame = cpu.native.gpr[RSP];
    let mut display = rbp;
    for _ in 1..level {
        display = display.wrapping_sub(W::SIZE as u64);
        let offset = display & cpu.stack_mask();
        let linear = cpu.stack_linear(offset, W::SIZE, false)?;
        let value = cpu.load::<W>(platform, linear)?;
        cpu.push(platform, value)?;
    }
    if level > 0 {
        cpu.push(platform, W::from_u64(frame))?;
    }
    let top = cpu.native.gpr[RSP].wrapping_sub(op.imm) & cpu.stack_mask();
    // The new top must be writable even though nothing is written there.
    let linear = cpu.stack_linear(top, 1, true)?;
    cpu.probe_write(platform, linear, 1)?;
    cpu.set_stack_pointer(top);
    match cpu.mode.stack_bits {
        16 => cpu.set_reg(RBP as u8, frame as u16),
        32 => cpu.set_reg(RBP as u8, frame as u32),
        _ => cpu.set_reg(RBP as u8, W::from_u64(frame)),
    }
    Ok(())
}
