//! RDTSC, RDTSCP, RDPID, RDPMC.

use crate::cpu::Cpu;
use crate::exit::{Fault, Step};
use crate::op::Op;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::Platform;
use ambos_x86::Cr4;
use ambos_x86::gpr::{RAX, RCX, RDX};

/// The host's time-stamp counter.
pub fn host_tsc() -> u64 {
    #[expect(unsafe_code, reason = "an intrinsic without preconditions on x86-64")]
    // SAFETY: RDTSC exists on every x86-64 CPU and has no effect on memory.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
}

/// The guest's time-stamp counter.
pub fn guest_tsc(cpu: &Cpu) -> u64 {
    host_tsc().wrapping_add(cpu.msrs.tsc_offset)
}

/// RDTSC, or RDTSCP where the immediate is one.
pub fn rdtsc(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    if cpu.cr4().contains(Cr4::TSD) && cpu.mode.cpl > 0 {
        return Err(Fault::GP0.into());
    }
    platform.ledger().count(Intercept::Privileged(Privileged::TimeStampCounter));
    let value = guest_tsc(cpu);
    cpu.set_reg(RAX as u8, value as u32);
    cpu.set_reg(RDX as u8, (value >> 32) as u32);
    if op.imm == 1 {
        cpu.set_reg(RCX as u8, cpu.msrs.tsc_aux as u32);
    }
    Ok(())
}

/// RDPID.
pub fn rdpid(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let value = cpu.msrs.tsc_aux;
    if op.size == 8 {
        cpu.set_reg(op.dst, value);
    } else {
        cpu.set_reg(op.dst, value as u32);
    }
    Ok(())
}

/// RDPMC: no performance counters are offered.
pub fn rdpmc(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
    cpu.note_unserved("RDPMC");
    Err(Fault::GP0.into())
}
