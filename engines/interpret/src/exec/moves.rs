//! MOV, MOVZX, MOVSX, LEA, MOVBE, BSWAP, XLAT, CBW and CWD families, LAHF, SAHF, flag setting.

use super::operand::{Imm, Kind, Mem, Reg, Source, by_size, by_wide_size};
use crate::cpu::Cpu;
use crate::exit::Step;
use crate::op::{Handler, Op};
use ambos_hostcode::mem::Cell;
use ambos_vcpu::Platform;
use ambos_x86::gpr::{RAX, RDX};

/// Picks the handler of MOV.
pub fn mov(size: u8, dst: Kind, src: Kind) -> Handler {
    match (dst, src) {
        (Kind::Reg, Kind::Reg) => by_size!(size, to_reg, Reg),
        (Kind::Reg, Kind::Imm) => by_size!(size, to_reg, Imm),
        (Kind::Reg, Kind::Mem) => by_size!(size, to_reg, Mem),
        (_, Kind::Imm) => by_size!(size, to_mem, Imm),
        (_, _) => by_size!(size, to_mem, Reg),
    }
}

fn to_reg<W: Cell, S: Source>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let value = S::read::<W>(cpu, platform, op)?;
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn to_mem<W: Cell, S: Source>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let value = S::read::<W>(cpu, platform, op)?;
    let linear = op.linear(cpu, W::SIZE, true)?;
    cpu.store(platform, linear, value)
}

/// Picks the handler of MOVZX, MOVSX or MOVSXD from `from` to `to` bytes.
pub fn extend(to: u8, from: u8, source: Kind, signed: bool) -> Handler {
    macro_rules! pick {
        ($source:ty) => {
            match (from, signed) {
                (1, false) => by_wide_size!(to, zero_extend, u8, $source),
                (2, false) => by_wide_size!(to, zero_extend, u16, $source),
                (1, true) => by_wide_size!(to, sign_extend, u8, $source),
                (2, true) => by_wide_size!(to, sign_extend, u16, $source),
                (_, _) => by_wide_size!(to, sign_extend, u32, $source),
            }
        };
    }
    match source {
        Kind::Mem => pick!(Mem),
        _ => pick!(Reg),
    }
}

fn zero_extend<W: Cell, F: Cell, S: Source>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let value = S::read::<F>(cpu, platform, op)?;
    cpu.set_reg(op.dst, W::from_u64(value.to_u64()));
    Ok(())
}

fn sign_extend<W: Cell, F: Cell, S: Source>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
) -> Step {
    let value = S::read::<F>(cpu, platform, op)?;
    cpu.set_reg(op.dst, W::from_u64(value.to_i64() as u64));
    Ok(())
}

/// Picks the handler of LEA.
pub fn lea(size: u8) -> Handler {
    by_wide_size!(size, load_address)
}

fn load_address<W: Cell>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    cpu.set_reg(op.dst, W::from_u64(op.effective_address(cpu)));
    Ok(())
}

/// Picks the handler of MOVBE.
pub fn movbe(size: u8, dst: Kind) -> Handler {
    match dst {
        Kind::Mem => by_wide_size!(size, swapped_to_mem),
        _ => by_wide_size!(size, swapped_to_reg, Mem),
    }
}

fn swapped<W: Cell>(value: W) -> W {
    W::from_u64(value.to_u64().swap_bytes() >> (64 - W::BITS))
}

fn swapped_to_reg<W: Cell, S: Source>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let value = S::read::<W>(cpu, platform, op)?;
    cpu.set_reg(op.dst, swapped(value));
    Ok(())
}

fn swapped_to_mem<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let linear = op.linear(cpu, W::SIZE, true)?;
    let value = swapped(cpu.reg::<W>(op.src));
    cpu.store(platform, linear, value)
}

/// BSWAP. With a 16-bit operand the result is undefined; processors store zero.
pub fn bswap(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    match op.size {
        8 => cpu.set_reg(op.dst, cpu.reg::<u64>(op.dst).swap_bytes()),
        4 => cpu.set_reg(op.dst, cpu.reg::<u32>(op.dst).swap_bytes()),
        _ => cpu.set_reg(op.dst, 0u16),
    }
    Ok(())
}

/// XLAT: the memory operand's base is RBX; AL is added here.
pub fn xlat(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let offset = op.effective_address(cpu).wrapping_add(cpu.native.gpr[RAX] & 0xff);
    let linear = op.linear_at(cpu, offset & op.address_mask, 1, false)?;
    let value = cpu.load::<u8>(platform, linear)?;
    cpu.set_reg(RAX as u8, value);
    Ok(())
}

/// CBW, CWDE, CDQE: by operand size.
pub fn sign_extend_accumulator(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let rax = cpu.native.gpr[RAX];
    match op.size {
        2 => cpu.set_reg(RAX as u8, rax as i8 as u16),
        4 => cpu.set_reg(RAX as u8, rax as i16 as u32),
        _ => cpu.set_reg(RAX as u8, rax as i32 as u64),
    }
    Ok(())
}

/// CWD, CDQ, CQO: by operand size.
pub fn sign_to_data(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let rax = cpu.native.gpr[RAX];
    match op.size {
        2 => cpu.set_reg(RDX as u8, (rax as i16 >> 15) as u16),
        4 => cpu.set_reg(RDX as u8, (rax as i32 >> 31) as u32),
        _ => cpu.set_reg(RDX as u8, (rax as i64 >> 63) as u64),
    }
    Ok(())
}

/// LAHF.
pub fn lahf(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
    let flags = cpu.native.rflags as u8 & 0xd5 | 2;
    cpu.set_reg(16, flags);
    Ok(())
}

/// SAHF.
pub fn sahf(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
    let flags = u64::from(cpu.reg::<u8>(16)) & 0xd5;
    cpu.native.rflags = cpu.native.rflags & !0xd5 | flags;
    Ok(())
}

/// CLC, STC, CLD, STD and CMC: clears [`Op::imm`]'s bits, sets [`Op::disp`]'s, toggles
/// [`Op::address_mask`]'s.
pub fn change_flags(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    cpu.native.rflags = (cpu.native.rflags & !op.imm | op.disp) ^ op.address_mask;
    Ok(())
}

/// NOP, PAUSE, prefetches, fences, cache-line flushes: nothing to see from inside.
pub fn nothing(_: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
    Ok(())
}

/// Cache-line operations fault like loads of one byte.
pub fn touch(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    Mem::read::<u8>(cpu, platform, op).map(drop)
}

/// LFENCE, SFENCE, MFENCE, SERIALIZE.
pub fn fence(_: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(())
}
