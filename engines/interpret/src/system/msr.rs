//! RDMSR and WRMSR. Registers of the CPU itself are here, the rest is the platform's.

use crate::cpu::{Cpu, seg};
use crate::exit::{Exit, Fault, Step};
use crate::op::Op;
use crate::system::time;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::Platform;
use ambos_x86::gpr::{RAX, RCX, RDX};
use ambos_x86::{Cr0, Efer, msr};

/// EFER bits that can be set.
const EFER_WRITABLE: u64 = Efer::SCE.bits()
    | Efer::LME.bits()
    | Efer::NXE.bits()
    | Efer::FFXSR.bits()
    | Efer::AUTOIBRS.bits();

/// RDMSR.
pub fn rdmsr(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    cpu.require_supervisor()?;
    let ticket = platform.ledger().start(Intercept::Privileged(Privileged::MsrRead));
    let index = cpu.native.gpr[RCX] as u32;
    let value = cpu.read_msr(platform, index);
    platform.ledger().finish(ticket);
    let value = value?;
    cpu.set_reg(RAX as u8, value as u32);
    cpu.set_reg(RDX as u8, (value >> 32) as u32);
    Ok(())
}

/// WRMSR.
pub fn wrmsr(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    cpu.require_supervisor()?;
    let ticket = platform.ledger().start(Intercept::Privileged(Privileged::MsrWrite));
    let index = cpu.native.gpr[RCX] as u32;
    let value = u64::from(cpu.reg::<u32>(RDX as u8)) << 32 | u64::from(cpu.reg::<u32>(RAX as u8));
    let result = cpu.write_msr(platform, index, value);
    platform.ledger().finish(ticket);
    result?;
    Err(Exit::Next)
}

impl Cpu {
    fn read_msr(&mut self, platform: &mut dyn Platform, index: u32) -> Result<u64, Fault> {
        Ok(match index {
            msr::IA32_EFER => self.control.efer,
            msr::IA32_STAR => self.msrs.star,
            msr::IA32_LSTAR => self.msrs.lstar,
            msr::IA32_CSTAR => self.msrs.cstar,
            msr::IA32_FMASK => self.msrs.fmask,
            msr::IA32_FS_BASE => self.segments[seg::FS].base,
            msr::IA32_GS_BASE => self.segments[seg::GS].base,
            msr::IA32_KERNEL_GS_BASE => self.msrs.kernel_gs_base,
            msr::IA32_TSC_AUX => self.msrs.tsc_aux,
            msr::IA32_SYSENTER_CS => self.msrs.sysenter_cs,
            msr::IA32_SYSENTER_ESP => self.msrs.sysenter_esp,
            msr::IA32_SYSENTER_EIP => self.msrs.sysenter_eip,
            msr::IA32_PAT => self.msrs.pat,
            msr::IA32_TSC => time::guest_tsc(self),
            msr::IA32_XSS => self.msrs.xss,
            _ => platform.msr_read(index).map_err(|_| {
                self.note_unserved(format!("MSR {index:#x} read"));
                Fault::GP0
            })?,
        })
    }

    fn write_msr(
        &mut self,
        platform: &mut dyn Platform,
        index: u32,
        value: u64,
    ) -> Result<(), Fault> {
        match index {
            msr::IA32_EFER => return self.write_efer(value),
            msr::IA32_STAR => self.msrs.star = value,
            msr::IA32_LSTAR => self.msrs.lstar = canonical(value)?,
            msr::IA32_CSTAR => self.msrs.cstar = canonical(value)?,
            msr::IA32_FMASK => self.msrs.fmask = value & 0xffff_ffff,
            msr::IA32_FS_BASE | msr::IA32_GS_BASE => {
                let number = if index == msr::IA32_FS_BASE { seg::FS } else { seg::GS };
                self.segments[number].base = canonical(value)?;
                self.linear_base[number] = value;
            }
            msr::IA32_KERNEL_GS_BASE => self.msrs.kernel_gs_base = canonical(value)?,
            msr::IA32_TSC_AUX => self.msrs.tsc_aux = value & 0xffff_ffff,
            msr::IA32_SYSENTER_CS => self.msrs.sysenter_cs = value,
            msr::IA32_SYSENTER_ESP => self.msrs.sysenter_esp = canonical(value)?,
            msr::IA32_SYSENTER_EIP => self.msrs.sysenter_eip = canonical(value)?,
            msr::IA32_PAT => {
                let legal =
                    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4 | 5 | 6 | 7));
                if !legal {
                    return Err(Fault::GP0);
                }
                self.msrs.pat = value;
            }
            msr::IA32_TSC => {
                self.msrs.tsc_offset = value.wrapping_sub(time::host_tsc());
                // The local APIC compares its deadlines with the counter.
                platform.msr_write(index, value).map_err(|_| Fault::GP0)?;
            }
            // No supervisor state components are offered.
            msr::IA32_XSS if value == 0 => self.msrs.xss = 0,
            msr::IA32_XSS => return Err(Fault::GP0),
            _ => platform.msr_write(index, value).map_err(|_| {
                self.note_unserved(format!("MSR {index:#x} write"));
                Fault::GP0
            })?,
        }
        Ok(())
    }

    fn write_efer(&mut self, value: u64) -> Result<(), Fault> {
        let lma = Efer::LMA.bits();
        let changed = value ^ self.control.efer;
        let lme_while_paging = changed & Efer::LME.bits() != 0 && self.cr0().contains(Cr0::PG);
        if value & !(EFER_WRITABLE | lma) != 0 || lme_while_paging {
            return Err(Fault::GP0);
        }
        self.control.efer = value & !lma | self.control.efer & lma;
        if changed & Efer::NXE.bits() != 0 {
            self.tlb.flush_all();
        }
        Ok(())
    }
}

fn canonical(value: u64) -> Result<u64, Fault> {
    Cpu::check_canonical(value)?;
    Ok(value)
}
