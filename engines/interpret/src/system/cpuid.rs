//! CPUID: the platform's model with what depends on this vCPU's registers filled in.

use crate::cpu::Cpu;
use crate::exit::Step;
use crate::op::Op;
use crate::system::xsave;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::Platform;
use ambos_x86::Cr4;
use ambos_x86::cpuid::leaf1_ecx;
use ambos_x86::gpr::{RAX, RBX, RCX, RDX};

/// OSPKE in leaf 7, ECX.
const OSPKE: u32 = 1 << 4;

/// CPUID.
pub fn cpuid(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    platform.ledger().count(Intercept::Privileged(Privileged::Cpuid));
    let leaf = cpu.reg::<u32>(RAX as u8);
    let subleaf = cpu.reg::<u32>(RCX as u8);
    let [eax, ebx, ecx, edx] = cpu.cpuid_values(platform, leaf, subleaf);
    cpu.set_reg(RAX as u8, eax);
    cpu.set_reg(RBX as u8, ebx);
    cpu.set_reg(RCX as u8, ecx);
    cpu.set_reg(RDX as u8, edx);
    Ok(())
}

impl Cpu {
    /// What CPUID returns: EAX, EBX, ECX, EDX.
    pub fn cpuid_values(
        &mut self,
        platform: &mut dyn Platform,
        leaf: u32,
        subleaf: u32,
    ) -> [u32; 4] {
        let mut values = platform.cpuid(leaf, subleaf);
        let set = |word: &mut u32, bit: u32, on: bool| {
            *word = *word & !bit | if on { bit } else { 0 };
        };
        match (leaf, subleaf) {
            (1, _) => {
                set(&mut values[2], leaf1_ecx::OSXSAVE, self.cr4().contains(Cr4::OSXSAVE));
            }
            (7, 0) => set(&mut values[2], OSPKE, self.cr4().contains(Cr4::PKE)),
            (0xd, 0) => values[1] = xsave::standard_size(self.control.xcr0),
            (0xd, 1) => {
                values[1] = xsave::compacted_size(self.control.xcr0 | self.msrs.xss);
            }
            _ => {}
        }
        values
    }
}
