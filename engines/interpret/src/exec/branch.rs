//! Near jumps, calls and returns; LOOP and JCXZ.

use super::operand::{Kind, Mem, Reg, Source, by_wide_size};
use crate::cpu::{Cpu, RIP};
use crate::exit::{Exit, Fault, Step};
use crate::mmu::is_canonical;
use crate::op::{Handler, Op};
use ambos_hostcode::mem::Cell;
use ambos_vcpu::Platform;
use ambos_x86::gpr::RCX;

impl Cpu {
    /// Checks a near branch target: canonical in 64-bit mode, inside the segment's limit otherwise.
    ///
    /// # Errors
    ///
    /// #GP(0).
    #[inline(always)]
    pub fn check_jump(&self, target: u64) -> Result<(), Fault> {
        let good = if self.is_64bit() {
            is_canonical(target)
        } else {
            target <= u64::from(self.segments[crate::cpu::seg::CS].limit)
        };
        if good { Ok(()) } else { Err(Fault::GP0) }
    }

    #[inline(always)]
    fn jump(&mut self, target: u64) -> Step {
        self.native.gpr[RIP] = target;
        Err(Exit::Jump)
    }
}

/// JMP rel.
pub fn jump(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let target = op.target(cpu) & op.address_mask;
    cpu.check_jump(target)?;
    cpu.jump(target)
}

/// Picks the handler of JMP r/m.
pub fn jump_to(size: u8, operand: Kind) -> Handler {
    match operand {
        Kind::Mem => by_wide_size!(size, jump_indirect, Mem),
        _ => by_wide_size!(size, jump_indirect, Reg),
    }
}

fn jump_indirect<W: Cell, S: Source>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let target = S::read::<W>(cpu, platform, op)?.to_u64();
    cpu.check_jump(target)?;
    cpu.jump(target)
}

/// Picks the handler of CALL rel.
pub fn call(size: u8) -> Handler {
    by_wide_size!(size, call_direct)
}

fn call_direct<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let target = op.target(cpu) & op.address_mask;
    cpu.check_jump(target)?;
    let back = op.next_rip(cpu);
    cpu.push(platform, W::from_u64(back))?;
    cpu.jump(target)
}

/// Picks the handler of CALL r/m.
pub fn call_to(size: u8, operand: Kind) -> Handler {
    match operand {
        Kind::Mem => by_wide_size!(size, call_indirect, Mem),
        _ => by_wide_size!(size, call_indirect, Reg),
    }
}

fn call_indirect<W: Cell, S: Source>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let target = S::read::<W>(cpu, platform, op)?.to_u64();
    cpu.check_jump(target)?;
    let back = op.next_rip(cpu);
    cpu.push(platform, W::from_u64(back))?;
    cpu.jump(target)
}

/// Picks the handler of RET; [`Op::imm`] bytes are released after the return address.
pub fn ret(size: u8) -> Handler {
    by_wide_size!(size, near_return)
}

fn near_return<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let target = cpu.peek::<W>(platform, 0)?.to_u64();
    cpu.check_jump(target)?;
    cpu.release_stack(W::SIZE as u64 + op.imm);
    cpu.jump(target)
}

/// LOOP, LOOPE, LOOPNE, JCXZ: [`Op::src`] is 0 to 3; the counter's size is [`Op::size`].
pub fn count_jump(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let zf = cpu.native.rflags & 1 << 6 != 0;
    let mask = if op.size == 8 { u64::MAX } else { (1 << (op.size * 8)) - 1 };
    let mut count = cpu.native.gpr[RCX] & mask;
    if op.src < 3 {
        count = count.wrapping_sub(1) & mask;
    }
    let taken = match op.src {
        0 => count != 0,
        1 => count != 0 && zf,
        2 => count != 0 && !zf,
        _ => count == 0,
    };
    let target = op.target(cpu) & op.address_mask;
    if taken {
        cpu.check_jump(target)?;
    }
    if op.src < 3 {
        match op.size {
            2 => cpu.set_reg(RCX as u8, count as u16),
            4 => cpu.set_reg(RCX as u8, count as u32),
            _ => cpu.set_reg(RCX as u8, count),
        }
    }
    if taken { cpu.jump(target) } else { Ok(()) }
}
