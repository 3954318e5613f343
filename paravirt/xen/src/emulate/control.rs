//! Control and debug registers.

use super::{Emulated, is_register, register};
use crate::domain::Shootdown;
use crate::pages::Use;
use crate::vcpu::XenVcpu;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::GuestCpu;
use ambos_x86::gpr::{RAX, RCX, RDX};
use ambos_x86::{Cr0, Cr4, xstate};
use ambos_xen_abi::Errno;
use iced_x86::Instruction;

/// Bits of CR4 that are the guest's.
const CR4_GUEST: Cr4 = Cr4::TSD.union(Cr4::DE).union(Cr4::FSGSBASE).union(Cr4::OSXSAVE);

impl XenVcpu {
    /// CR4 after the guest wrote `value`.
    pub(crate) fn guest_cr4(value: u64, old: u64) -> u64 {
        old & !CR4_GUEST.bits() | value & CR4_GUEST.bits()
    }

    /// Sets or clears CR0.TS.
    pub(crate) fn set_task_switched(cpu: &mut dyn GuestCpu, set: bool) {
        let mut control = cpu.control();
        control.cr0 = control.cr0 & !Cr0::TS.bits() | if set { Cr0::TS.bits() } else { 0 };
        cpu.set_control(control);
    }

    /// MOV to and from control and debug registers.
    pub(super) fn mov_special(
        &mut self,
        cpu: &mut dyn GuestCpu,
        instruction: &Instruction,
    ) -> Emulated {
        if !is_register(instruction, 0) || !is_register(instruction, 1) {
            return Emulated::Refused;
        }
        let (to, from) = (instruction.op_register(0), instruction.op_register(1));
        let count = |class| self.ledger().count(Intercept::Privileged(class));
        let value = cpu.gpr()[register(instruction, 1)];
        let done = if to.is_cr() {
            let number = to.number();
            count(match number {
                3 => Privileged::AddressSpaceSwitch,
                _ => Privileged::ControlRegisterWrite,
            });
            self.write_control(cpu, number, value)
        } else if from.is_cr() {
            count(Privileged::ControlRegisterRead);
            let read = self.read_control(cpu, from.number());
            read.map(|value| cpu.gpr_mut()[register(instruction, 0)] = value).is_some()
        } else if to.is_dr() {
            count(Privileged::DebugRegister);
            self.set_debug_register(cpu, to.number() as u64, value).is_ok()
        } else if from.is_dr() {
            count(Privileged::DebugRegister);
            let read = Self::debug_register(cpu, from.number() as u64);
            read.map(|value| cpu.gpr_mut()[register(instruction, 0)] = value).is_ok()
        } else {
            false
        };
        if done { Emulated::Done } else { Emulated::Refused }
    }

    fn read_control(&self, cpu: &dyn GuestCpu, number: usize) -> Option<u64> {
        let control = cpu.control();
        Some(match number {
            0 => control.cr0,
            2 => control.cr2,
            3 => self.kernel_root << 12,
            4 => control.cr4,
            _ => return None,
        })
    }

    fn write_control(&mut self, cpu: &mut dyn GuestCpu, number: usize, value: u64) -> bool {
        let mut control = cpu.control();
        match number {
            0 if (value ^ control.cr0) & !Cr0::TS.bits() != 0 => return false,
            0 => control.cr0 = value,
            2 => control.cr2 = value,
            3 => return self.new_kernel_root(cpu, value >> 12).is_ok(),
            4 => control.cr4 = Self::guest_cr4(value, control.cr4),
            _ => return false,
        }
        cpu.set_control(control);
        true
    }

    /// Makes `root` the top-level table of the kernel.
    pub(crate) fn new_kernel_root(
        &mut self,
        cpu: &mut dyn GuestCpu,
        root: u64,
    ) -> Result<(), Errno> {
        let domain = &self.domain;
        let mut pages = domain.pages(cpu);
        if root != self.kernel_root {
            let mut forget = Shootdown { domain, own: self.id, cpu: &mut *cpu };
            pages.take(root, Use::Table(4), &mut forget)?;
            let old = std::mem::replace(&mut self.kernel_root, root);
            pages.give(old);
        }
        if self.kernel_mode {
            self.spaces.enter(cpu, root, &pages);
        } else {
            self.spaces.renew(cpu, root, &pages);
        }
        drop(pages);
        self.drop_local(cpu);
        Ok(())
    }

    /// XSETBV.
    pub(super) fn xsetbv(&mut self, cpu: &mut dyn GuestCpu) -> Emulated {
        let gpr = cpu.gpr();
        let value = gpr[RDX] << 32 | gpr[RAX] & 0xffff_ffff;
        let index = gpr[RCX] as u32;
        let [low, _, _, high] = self.processor.cpuid(0xd, 0);
        let supported = u64::from(high) << 32 | u64::from(low);
        let mut control = cpu.control();
        let avx512 = value & xstate::AVX512;
        let legal = index == 0
            && control.cr4 & Cr4::OSXSAVE.bits() != 0
            && value & !supported == 0
            && value & xstate::X87 != 0
            && (value & xstate::AVX == 0 || value & xstate::SSE != 0)
            && (avx512 == 0 || avx512 == xstate::AVX512 && value & xstate::AVX != 0);
        if !legal {
            return Emulated::Refused;
        }
        control.xcr0 = value;
        cpu.set_control(control);
        Emulated::Done
    }

    /// Sets a debug register.
    pub(crate) fn set_debug_register(
        &mut self,
        cpu: &mut dyn GuestCpu,
        number: u64,
        value: u64,
    ) -> Result<(), Errno> {
        let mut debug = cpu.debug();
        match number {
            0..=3 if !is_breakpoint_address(value) => return Err(Errno::EPERM),
            0..=3 => debug.address[number as usize] = value,
            4 | 6 if value >> 32 != 0 => return Err(Errno::EPERM),
            4 | 6 => debug.dr6 = value & 0xe00f | 0xffff_0ff0,
            5 | 7 => {
                if value >> 32 != 0 {
                    return Err(Errno::EPERM);
                }
                // Breakpoints on ports exist with an extension only; general detect would trap Xen itself.
                let kinds = (0..4).map(|index| (value >> (16 + index * 4)) & 3);
                let enabled = |index: u64| (value >> (index * 2)) & 3 != 0;
                let extended = cpu.control().cr4 & Cr4::DE.bits() != 0;
                if !extended && (0..4).zip(kinds).any(|(index, kind)| enabled(index) && kind == 2) {
                    return Err(Errno::EPERM);
                }
                debug.dr7 = value & 0xffff_03ff | 0x400;
            }
            _ => return Err(Errno::EINVAL),
        }
        cpu.set_debug(debug);
        Ok(())
    }

    /// Reads a debug register.
    pub(crate) fn debug_register(cpu: &dyn GuestCpu, number: u64) -> Result<u64, Errno> {
        let debug = cpu.debug();
        match number {
            0..=3 => Ok(debug.address[number as usize]),
            4 | 6 => Ok(debug.dr6),
            5 | 7 => Ok(debug.dr7),
            _ => Err(Errno::EINVAL),
        }
    }
}

fn is_breakpoint_address(address: u64) -> bool {
    crate::bytes::is_guest_range(address, 0) && (address as i64) << 16 >> 16 == address as i64
}
