//! Model-specific registers.

use super::Emulated;
use crate::vcpu::XenVcpu;
use ambos_vcpu::{GuestCpu, SegmentName};
use ambos_x86::gpr::{RAX, RCX, RDX};
use ambos_x86::{Efer, msr};

/// The local APIC, of which there is none: enabled, at its usual place.
const APIC_BASE: u64 = 0xfee0_0000 | 1 << 11;
/// APIC_BASE of the first processor.
const APIC_BASE_FIRST: u64 = 1 << 8;
/// IA32_DEBUGCTL: no branch records or steps are offered.
const DEBUG_CONTROL: u32 = 0x1d9;
/// Page attributes as Xen sets them up.
const PAT: u64 = 0x0000_0501_0007_0406;

impl XenVcpu {
    /// RDMSR.
    pub(super) fn rdmsr(&mut self, cpu: &mut dyn GuestCpu) -> Emulated {
        let index = cpu.gpr()[RCX] as u32;
        let value = match self.read_register(cpu, index) {
            Some(value) => value,
            None => {
                self.domain.unserved.record(format!("MSR {index:#x} read"), cpu.rip(), &[]);
                // Before the kernel can take the exception it reads zero.
                if self.traps[13].address != 0 {
                    return Emulated::Refused;
                }
                0
            }
        };
        let gpr = cpu.gpr_mut();
        (gpr[RAX], gpr[RDX]) = (value & 0xffff_ffff, value >> 32);
        Emulated::Done
    }

    /// WRMSR.
    pub(super) fn wrmsr(&mut self, cpu: &mut dyn GuestCpu) -> Emulated {
        let gpr = cpu.gpr();
        let index = gpr[RCX] as u32;
        let value = gpr[RDX] << 32 | gpr[RAX] & 0xffff_ffff;
        if self.write_register(cpu, index, value) {
            return Emulated::Done;
        }
        self.domain.unserved.record(format!("MSR {index:#x} write"), cpu.rip(), &[]);
        Emulated::Refused
    }

    fn read_register(&self, cpu: &dyn GuestCpu, index: u32) -> Option<u64> {
        Some(match index {
            msr::IA32_FS_BASE => cpu.segment(SegmentName::Fs).base,
            msr::IA32_GS_BASE => cpu.segment(SegmentName::Gs).base,
            msr::IA32_KERNEL_GS_BASE => self.other_gs_base,
            msr::IA32_TSC => cpu.tsc(),
            msr::IA32_EFER => cpu.control().efer,
            msr::IA32_PAT => PAT,
            DEBUG_CONTROL => 0,
            msr::IA32_APIC_BASE => APIC_BASE | if self.id == 0 { APIC_BASE_FIRST } else { 0 },
            _ => return self.processor.read_msr(index),
        })
    }

    fn write_register(&mut self, cpu: &mut dyn GuestCpu, index: u32, value: u64) -> bool {
        let canonical = (value as i64) << 16 >> 16 == value as i64;
        match index {
            msr::IA32_FS_BASE | msr::IA32_GS_BASE | msr::IA32_KERNEL_GS_BASE if !canonical => {
                return false;
            }
            msr::IA32_FS_BASE => cpu.set_base(SegmentName::Fs, value),
            msr::IA32_GS_BASE => cpu.set_base(SegmentName::Gs, value),
            msr::IA32_KERNEL_GS_BASE => self.other_gs_base = value,
            // Writing back what is there is allowed, and asking for what Xen has on in any case.
            msr::IA32_EFER => {
                let mut control = cpu.control();
                if (value ^ control.efer) & !Efer::AUTOIBRS.bits() != 0 {
                    return false;
                }
                control.efer = value;
                cpu.set_control(control);
            }
            msr::IA32_PAT => return value == PAT,
            DEBUG_CONTROL => return value == 0,
            _ => return self.processor.write_msr(index, value),
        }
        true
    }
}
