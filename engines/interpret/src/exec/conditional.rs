//! Conditions: Jcc, SETcc, CMOVcc.

use super::operand::{Kind, Mem, Reg, Source, by_wide_size};
use crate::cpu::{Cpu, RIP};
use crate::exit::{Exit, Step};
use crate::op::{Handler, Op};
use ambos_hostcode::mem::Cell;
use ambos_vcpu::Platform;

/// Evaluates condition `code` (0–15, as instructions encode it) on RFLAGS.
#[inline(always)]
pub fn holds(code: u8, rflags: u64) -> bool {
    let (cf, pf, zf, sf, of) = (
        rflags & 1 != 0,
        rflags & 1 << 2 != 0,
        rflags & 1 << 6 != 0,
        rflags & 1 << 7 != 0,
        rflags & 1 << 11 != 0,
    );
    let met = match code >> 1 & 7 {
        0 => of,
        1 => cf,
        2 => zf,
        3 => cf || zf,
        4 => sf,
        5 => pf,
        6 => sf != of,
        _ => zf || sf != of,
    };
    met != (code & 1 != 0)
}

/// Picks the handler of Jcc for condition `code`.
pub fn jump_if(code: u8) -> Handler {
    macro_rules! table {
        ($($code:literal)*) => { [$(jcc::<$code>),*] };
    }
    const TABLE: [Handler; 16] = table!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    TABLE[usize::from(code & 15)]
}

fn jcc<const CODE: u8>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    if holds(CODE, cpu.native.rflags) {
        let target = op.target(cpu) & op.address_mask;
        cpu.check_jump(target)?;
        cpu.native.gpr[RIP] = target;
        return Err(Exit::Jump);
    }
    Ok(())
}

/// Picks the handler of SETcc; the condition is in [`Op::imm`].
pub fn set_if(dst: Kind) -> Handler {
    match dst {
        Kind::Mem => set_mem,
        _ => set_reg,
    }
}

fn set_reg(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let value = u8::from(holds(op.imm as u8, cpu.native.rflags));
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn set_mem(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let linear = op.linear(cpu, 1, true)?;
    let value = u8::from(holds(op.imm as u8, cpu.native.rflags));
    cpu.store(platform, linear, value)
}

/// Picks the handler of CMOVcc; the condition is in [`Op::imm`].
pub fn move_if(size: u8, src: Kind) -> Handler {
    match src {
        Kind::Mem => by_wide_size!(size, cmov, Mem),
        _ => by_wide_size!(size, cmov, Reg),
    }
}

fn cmov<W: Cell, S: Source>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    // The source is read, and a 32-bit destination zero-extended, whatever the condition.
    let value = S::read::<W>(cpu, platform, op)?;
    let met = holds(op.imm as u8, cpu.native.rflags);
    let value = if met { value } else { cpu.reg::<W>(op.dst) };
    cpu.set_reg(op.dst, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::holds;

    #[test]
    fn conditions_are_those_of_the_manual() {
        const CF: u64 = 1;
        const ZF: u64 = 1 << 6;
        const SF: u64 = 1 << 7;
        const OF: u64 = 1 << 11;
        // JBE, JA, JL, JGE, JLE, JG
        assert!(holds(6, CF) && holds(6, ZF) && !holds(6, 0));
        assert!(holds(7, 0) && !holds(7, CF));
        assert!(holds(12, SF) && holds(12, OF) && !holds(12, SF | OF));
        assert!(holds(13, 0));
        assert!(holds(14, ZF) && holds(15, SF | OF));
    }
}
