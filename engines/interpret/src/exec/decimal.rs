//! Instructions that 64-bit mode does not have: decimal adjustment, BOUND, INTO, ARPL, SALC.
//!
//! The host cannot execute these natively, so they follow the manual's pseudo-code (SDM vol. 2).

use crate::cpu::Cpu;
use crate::exit::{Fault, Step};
use crate::op::Op;
use ambos_hostcode::Word;
use ambos_vcpu::Platform;
use ambos_x86::Vector;
use ambos_x86::gpr::RAX;

const CF: u64 = 1;
const AF: u64 = 1 << 4;
const AH: u8 = 16;

/// SF, ZF and PF of a byte.
fn result_flags(value: u8) -> u64 {
    value.and(value, 0).1
}

/// DAA.
pub fn daa(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
    adjust_packed(cpu, u8::wrapping_add);
    Ok(())
}

/// DAS.
pub fn das(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
    adjust_packed(cpu, u8::wrapping_sub);
    Ok(())
}

fn adjust_packed(cpu: &mut Cpu, adjust: fn(u8, u8) -> u8) {
    let before = cpu.reg::<u8>(RAX as u8);
    let (carry, auxiliary) = (cpu.native.rflags & CF != 0, cpu.native.rflags & AF != 0);
    let mut value = before;
    let mut flags = 0;
    if before & 0xf > 9 || auxiliary {
        value = adjust(value, 6);
        flags |= AF;
    }
    if before > 0x99 || carry {
        value = adjust(value, 0x60);
        flags |= CF;
    }
    cpu.set_reg(RAX as u8, value);
    cpu.set_flags(result_flags(value) | flags);
}

/// AAA.
pub fn aaa(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
    adjust_unpacked(cpu, |ax| ax.wrapping_add(0x106));
    Ok(())
}

/// AAS.
pub fn aas(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
    adjust_unpacked(cpu, |ax| ax.wrapping_sub(0x106));
    Ok(())
}

fn adjust_unpacked(cpu: &mut Cpu, adjust: fn(u16) -> u16) {
    let ax = cpu.reg::<u16>(RAX as u8);
    let adjusted = ax & 0xf > 9 || cpu.native.rflags & AF != 0;
    let value = if adjusted { adjust(ax) } else { ax } & 0xff0f;
    cpu.set_reg(RAX as u8, value);
    cpu.set_flags(result_flags(value as u8) | if adjusted { AF | CF } else { 0 });
}

/// AAM.
pub fn aam(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let (value, base) = (cpu.reg::<u8>(RAX as u8), op.imm as u8);
    let (high, low) =
        (value.checked_div(base).ok_or(Fault::DE)?, value.checked_rem(base).ok_or(Fault::DE)?);
    cpu.set_reg(RAX as u8, low);
    cpu.set_reg(AH, high);
    cpu.set_flags(result_flags(low));
    Ok(())
}

/// AAD.
pub fn aad(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let ax = cpu.reg::<u16>(RAX as u8);
    let value = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(op.imm as u8));
    cpu.set_reg(RAX as u8, u16::from(value));
    cpu.set_flags(result_flags(value));
    Ok(())
}

/// SALC: AL becomes all-ones if CF is set, zero otherwise.
pub fn salc(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
    let value = if cpu.native.rflags & CF != 0 { 0xffu8 } else { 0 };
    cpu.set_reg(RAX as u8, value);
    Ok(())
}

/// BOUND.
pub fn bound(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let linear = op.linear(cpu, usize::from(op.size) * 2, false)?;
    let outside = if op.size == 2 {
        let index = cpu.reg::<u16>(op.dst) as i16;
        let low = cpu.load::<u16>(platform, linear)? as i16;
        let high = cpu.load::<u16>(platform, linear.wrapping_add(2))? as i16;
        index < low || index > high
    } else {
        let index = cpu.reg::<u32>(op.dst) as i32;
        let low = cpu.load::<u32>(platform, linear)? as i32;
        let high = cpu.load::<u32>(platform, linear.wrapping_add(4))? as i32;
        index < low || index > high
    };
    if outside {
        return Err(Fault { vector: Vector::BoundRange, error: 0 }.into());
    }
    Ok(())
}

/// ARPL with a register destination, or memory where [`Op::rep`] is one.
pub fn arpl(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    const ZF: u64 = 1 << 6;
    let rpl = cpu.reg::<u16>(op.src) & 3;
    let raise = |selector: u16| (selector & 3 < rpl).then_some(selector & !3 | rpl);
    let raised = if op.rep == 1 {
        let linear = op.linear(cpu, 2, true)?;
        let mut raised = false;
        cpu.modify::<u16>(platform, linear, |_, old| {
            let new = raise(old);
            raised = new.is_some();
            new
        })?;
        raised
    } else {
        let new = raise(cpu.reg(op.dst));
        if let Some(new) = new {
            cpu.set_reg(op.dst, new);
        }
        new.is_some()
    };
    cpu.native.rflags = cpu.native.rflags & !ZF | if raised { ZF } else { 0 };
    Ok(())
}
