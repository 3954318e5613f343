//! Instructions that Xen carries out for a guest that may not execute them itself.

mod control;
mod msr;
mod port;
mod table_write;
#[cfg(test)]
mod tests;

pub(crate) use table_write::Substitution;

use crate::vcpu::{Flow, XenVcpu};
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::{GuestCpu, SegmentName};
use ambos_x86::cpuid::leaf1_ecx;
use ambos_x86::gpr::{RAX, RBX, RCX, RDX};
use ambos_x86::{Cr4, RFlags, Vector};
use ambos_xen_abi::cpuid::FORCED_EMULATION_PREFIX;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

/// How an emulation ends.
pub(crate) enum Emulated {
    /// The instruction is complete.
    Done,
    /// The instruction is not emulated, or may not be executed: the fault stands.
    Refused,
}

/// Number of a general-purpose register.
fn register(instruction: &Instruction, operand: u32) -> usize {
    instruction.op_register(operand).number() & 15
}

impl XenVcpu {
    /// Reads the guest's code from the instruction pointer on, as far as it is there; returns how many bytes that are.
    fn code_bytes(cpu: &mut dyn GuestCpu, data: &mut [u8]) -> usize {
        let base = if cpu.is_64bit() { 0 } else { cpu.segment(SegmentName::Cs).base };
        let linear = base.wrapping_add(cpu.rip());
        // The instruction was fetched, so its page can be read; and that it can is what a TLB knows.
        let first = data.len().min(0x1000 - (linear & 0xfff) as usize);
        if cpu.read(linear, &mut data[..first]).is_err() {
            return cpu.fetch(linear, data);
        }
        first + cpu.fetch(linear.wrapping_add(first as u64), &mut data[first..])
    }

    fn decode(cpu: &mut dyn GuestCpu, skip: usize) -> Option<Instruction> {
        let mut bytes = [0; 15 + FORCED_EMULATION_PREFIX.len()];
        let length = Self::code_bytes(cpu, &mut bytes[..15 + skip]);
        let long = cpu.is_64bit();
        let rip = cpu.rip().wrapping_add(skip as u64);
        let bits = if long { 64 } else { 32 };
        let mut decoder =
            Decoder::with_ip(bits, bytes[..length].get(skip..)?, rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// Emulates the instruction that raised #GP(0); `None` if the exception stands.
    pub(crate) fn emulate_privileged(&mut self, cpu: &mut dyn GuestCpu) -> Option<Flow> {
        let instruction = Self::decode(cpu, 0)?;
        let kernel = self.kernel_mode;
        let count = |class| self.ledger().count(Intercept::Privileged(class));
        let emulated = match instruction.mnemonic() {
            Mnemonic::In | Mnemonic::Out => self.port_access(cpu, &instruction),
            Mnemonic::Cli | Mnemonic::Sti if self.has_port_privilege() => {
                count(Privileged::InterruptFlag);
                Emulated::Done
            }
            Mnemonic::Rdmsr if kernel => {
                count(Privileged::MsrRead);
                self.rdmsr(cpu)
            }
            Mnemonic::Wrmsr if kernel => {
                count(Privileged::MsrWrite);
                self.wrmsr(cpu)
            }
            Mnemonic::Mov if kernel => self.mov_special(cpu, &instruction),
            Mnemonic::Clts if kernel => {
                count(Privileged::ControlRegisterWrite);
                Self::set_task_switched(cpu, false);
                Emulated::Done
            }
            Mnemonic::Wbinvd | Mnemonic::Wbnoinvd if kernel => {
                count(Privileged::CacheControl);
                Emulated::Done
            }
            Mnemonic::Xsetbv if kernel => {
                count(Privileged::ExtendedControl);
                self.xsetbv(cpu)
            }
            Mnemonic::Rdtsc | Mnemonic::Rdtscp
                if kernel || cpu.control().cr4 & Cr4::TSD.bits() == 0 =>
            {
                count(Privileged::TimeStampCounter);
                let tsc = cpu.tsc();
                let gpr = cpu.gpr_mut();
                (gpr[RAX], gpr[RDX]) = (tsc & 0xffff_ffff, tsc >> 32);
                if instruction.mnemonic() == Mnemonic::Rdtscp {
                    gpr[RCX] = 0;
                }
                Emulated::Done
            }
            _ => Emulated::Refused,
        };
        match emulated {
            Emulated::Done => Some(self.complete(cpu, instruction.len() as u64)),
            Emulated::Refused => None,
        }
    }

    /// Goes on after an emulated instruction of so many bytes.
    fn complete(&mut self, cpu: &mut dyn GuestCpu, length: u64) -> Flow {
        cpu.set_rip(cpu.rip().wrapping_add(length));
        let flags = cpu.rflags();
        if flags & RFlags::RF.bits() != 0 {
            cpu.set_rflags(flags & !RFlags::RF.bits());
        }
        if flags & RFlags::TF.bits() != 0 {
            let mut debug = cpu.debug();
            debug.dr6 |= 1 << 14;
            cpu.set_debug(debug);
            return self.raise(cpu, Vector::Debug, None);
        }
        Flow::Guest
    }

    /// Emulates CPUID behind the prefix that asks Xen for it; `None` if the instruction is another one.
    pub(crate) fn emulate_forced(&mut self, cpu: &mut dyn GuestCpu) -> Option<Flow> {
        let mut prefix = [0; FORCED_EMULATION_PREFIX.len()];
        let length = Self::code_bytes(cpu, &mut prefix);
        if prefix[..length] != FORCED_EMULATION_PREFIX {
            return None;
        }
        let instruction = Self::decode(cpu, prefix.len())?;
        if instruction.mnemonic() != Mnemonic::Cpuid {
            return None;
        }
        self.ledger().count(Intercept::Privileged(Privileged::Cpuid));
        let gpr = cpu.gpr();
        let (leaf, subleaf) = (gpr[RAX] as u32, gpr[RCX] as u32);
        let mut values = self.processor.cpuid(leaf, subleaf);
        let control = cpu.control();
        // Kernels learn here whether Xen uses extended states itself, which it does, before they turn them on.
        let enabled = self.kernel_mode || control.cr4 & Cr4::OSXSAVE.bits() != 0;
        if leaf == 1 && values[2] & leaf1_ecx::XSAVE != 0 && enabled {
            values[2] |= leaf1_ecx::OSXSAVE;
        }
        if leaf == 0xd && subleaf <= 1 {
            values[1] = self.processor.save_area(control.xcr0, subleaf == 1);
        }
        let gpr = cpu.gpr_mut();
        for (register, value) in [RAX, RBX, RCX, RDX].into_iter().zip(values) {
            gpr[register] = value.into();
        }
        Some(self.complete(cpu, 5 + instruction.len() as u64))
    }
}

/// Whether the instruction's operand is a register of 64 bits or a special one.
fn is_register(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Register
}
