//! VMCALL and VMMCALL: hypercalls, which the platform serves.

use crate::cpu::Cpu;
use crate::exit::{Exit, Fault, Step};
use crate::op::Op;
use ambos_intercept::Intercept;
use ambos_vcpu::Platform;
use ambos_x86::gpr::{RAX, RBX, RCX, RDX, RSI};

/// VMCALL, VMMCALL.
pub fn hypercall(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    let number = cpu.native.gpr[RAX];
    let arguments = [RBX, RCX, RDX, RSI].map(|register| cpu.native.gpr[register]);
    let ticket = platform.ledger().start(Intercept::Hypercall(number.min(63) as u8));
    let (long, supervisor) = (cpu.is_64bit(), cpu.mode.cpl == 0);
    let result = platform.hypercall(number, arguments, long, supervisor);
    platform.ledger().finish(ticket);
    let Some(result) = result else { return Err(Fault::UD.into()) };
    if long {
        cpu.set_reg(RAX as u8, result);
    } else {
        cpu.set_reg(RAX as u8, result as u32);
    }
    Err(Exit::Next)
}
