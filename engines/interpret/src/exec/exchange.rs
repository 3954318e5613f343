//! XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B.

use super::operand::{Kind, by_size};
use crate::cpu::Cpu;
use crate::exit::{Fault, Step};
use crate::op::{Handler, Op};
use ambos_hostcode::mem::{self, Cell};
use ambos_vcpu::Platform;
use ambos_x86::gpr::{RAX, RBX, RCX, RDX};

const ZF: u64 = 1 << 6;

/// Picks the handler of XCHG; with memory it is always locked.
pub fn exchange(size: u8, operand: Kind) -> Handler {
    match operand {
        Kind::Mem => by_size!(size, exchange_mem),
        _ => by_size!(size, exchange_reg),
    }
}

fn exchange_reg<W: Cell>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let (a, b) = (cpu.reg::<W>(op.dst), cpu.reg::<W>(op.src));
    cpu.set_reg(op.dst, b);
    cpu.set_reg(op.src, a);
    Ok(())
}

fn exchange_mem<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let linear = op.linear(cpu, W::SIZE, true)?;
    let new = cpu.reg::<W>(op.src);
    let mut held = new;
    cpu.modify_locked::<W>(platform, linear, |_, old| {
        held = old;
        Some(new)
    })?;
    cpu.set_reg(op.src, held);
    Ok(())
}

/// Picks the handler of XADD.
pub fn exchange_add(size: u8, operand: Kind) -> Handler {
    match operand {
        Kind::Mem => by_size!(size, xadd_mem),
        _ => by_size!(size, xadd_reg),
    }
}

fn xadd_reg<W: Cell>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let (a, b) = (cpu.reg::<W>(op.dst), cpu.reg::<W>(op.src));
    let (sum, flags) = a.add(b, 0);
    cpu.set_reg(op.src, a);
    cpu.set_reg(op.dst, sum);
    cpu.set_flags(flags);
    Ok(())
}

fn xadd_mem<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let linear = op.linear(cpu, W::SIZE, true)?;
    let addend = cpu.reg::<W>(op.src);
    let (mut held, mut after) = (addend, 0);
    cpu.modify_locked::<W>(platform, linear, |_, old| {
        let (sum, flags) = old.add(addend, 0);
        (held, after) = (old, flags);
        Some(sum)
    })?;
    cpu.set_reg(op.src, held);
    cpu.set_flags(after);
    Ok(())
}

/// Picks the handler of CMPXCHG.
pub fn compare_exchange(size: u8, operand: Kind) -> Handler {
    match operand {
        Kind::Mem => by_size!(size, cmpxchg_mem),
        _ => by_size!(size, cmpxchg_reg),
    }
}

fn cmpxchg_reg<W: Cell>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let (held, expected) = (cpu.reg::<W>(op.dst), cpu.reg::<W>(RAX as u8));
    let (_, flags) = expected.sub(held, 0);
    if held == expected {
        let new = cpu.reg::<W>(op.src);
        cpu.set_reg(op.dst, new);
    } else {
        cpu.set_reg(RAX as u8, held);
    }
    cpu.set_flags(flags);
    Ok(())
}

fn cmpxchg_mem<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let linear = op.linear(cpu, W::SIZE, true)?;
    let (expected, new) = (cpu.reg::<W>(RAX as u8), cpu.reg::<W>(op.src));
    let mut held = expected;
    // The destination is written in either case, so that a write fault is certain.
    cpu.modify_locked::<W>(platform, linear, |_, old| {
        held = old;
        Some(if old == expected { new } else { old })
    })?;
    let (_, flags) = expected.sub(held, 0);
    if held != expected {
        cpu.set_reg(RAX as u8, held);
    }
    cpu.set_flags(flags);
    Ok(())
}

/// CMPXCHG8B.
pub fn compare_exchange_8(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let pair = |cpu: &Cpu, high, low| {
        u64::from(cpu.reg::<u32>(high)) << 32 | u64::from(cpu.reg::<u32>(low))
    };
    let expected = pair(cpu, RDX as u8, RAX as u8);
    let new = pair(cpu, RCX as u8, RBX as u8);
    let linear = op.linear(cpu, 8, true)?;
    let mut held = expected;
    cpu.modify_locked::<u64>(platform, linear, |_, old| {
        held = old;
        Some(if old == expected { new } else { old })
    })?;
    if held == expected {
        cpu.native.rflags |= ZF;
    } else {
        cpu.native.rflags &= !ZF;
        cpu.set_reg(RAX as u8, held as u32);
        cpu.set_reg(RDX as u8, (held >> 32) as u32);
    }
    Ok(())
}

/// CMPXCHG16B; the operand must be aligned.
pub fn compare_exchange_16(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let gpr = &cpu.native.gpr;
    let (expected, new) = ((gpr[RAX], gpr[RDX]), (gpr[RBX], gpr[RCX]));
    let base = cpu.linear_base[usize::from(op.seg) % 7];
    if !op.effective_address(cpu).wrapping_add(base).is_multiple_of(16) {
        return Err(Fault::GP0.into());
    }
    let linear = op.linear(cpu, 16, true)?;
    let held = match cpu.writable_in_place(platform, linear, 16)? {
        #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
        // SAFETY: `writable_in_place` returns mapped, writable RAM for 16 bytes, as aligned in its
        // page as the linear address is.
        Some(host) => unsafe { mem::compare_exchange_16(host, expected, new) },
        None => {
            let low = cpu.load::<u64>(platform, linear)?;
            let high = cpu.load::<u64>(platform, linear + 8)?;
            let value = if (low, high) == expected { new } else { (low, high) };
            cpu.store(platform, linear, value.0)?;
            cpu.store(platform, linear + 8, value.1)?;
            (low, high)
        }
    };
    if held == expected {
        cpu.native.rflags |= ZF;
    } else {
        cpu.native.rflags &= !ZF;
        (cpu.native.gpr[RAX], cpu.native.gpr[RDX]) = held;
    }
    Ok(())
}
