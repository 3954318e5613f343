//! The `iret` hypercall: how a guest's kernel returns.

use super::bounce::IOPL;
use super::{Entry, Flow, XenVcpu};
use crate::bytes::u64_at;
use ambos_vcpu::GuestCpu;
use ambos_x86::RFlags;
use ambos_x86::gpr::{R11, RAX, RCX, RSP};
use ambos_xen_abi::callback::ASSIST_ARCHITECTURAL_IOPL;
use ambos_xen_abi::vcpu::context::IN_SYSCALL;

/// Flags that a return can set.
const SETTABLE: u64 = 0x0025_7fd5;

impl XenVcpu {
    /// Serves the hypercall.
    pub(crate) fn iret(&mut self, cpu: &mut dyn GuestCpu) -> Flow {
        let mut frame = [0; 72];
        if cpu.read(cpu.gpr()[RSP], &mut frame).is_err() {
            return Flow::Crash("the frame of an iret hypercall cannot be read".to_owned());
        }
        let word = |index: usize| u64_at(&frame, index * 8);
        let (flags, rip, code, rflags) = (word(3), word(4), word(5) as u16, word(6));
        let (rsp, stack) = (word(7), word(8) as u16);
        if code & 3 == 3 {
            if self.user_root == 0 {
                let reason = "a return to user mode without page tables of user mode";
                return Flow::Crash(reason.to_owned());
            }
            self.toggle_mode(cpu);
        }
        if self.domain.assists(ASSIST_ARCHITECTURAL_IOPL) {
            self.iopl = rflags & IOPL;
        }
        cpu.set_rip(rip);
        let gpr = cpu.gpr_mut();
        gpr[RSP] = rsp;
        gpr[RAX] = word(0);
        if flags & IN_SYSCALL == 0 {
            gpr[R11] = word(1);
            gpr[RCX] = word(2);
        }
        cpu.set_rflags(rflags & SETTABLE & !IOPL | RFlags::IF.bits() | 2);
        self.mask_events(rflags & RFlags::IF.bits() == 0);
        self.end_nmi();
        let (code, stack) = (code | 3, stack | 3);
        let loaded = self.code_segment(cpu, code).zip(self.stack_segment(cpu, stack));
        match loaded {
            Some((code, stack)) => {
                cpu.set_code_and_stack(code, stack);
                Flow::Guest
            }
            None => self.failed_return(cpu),
        }
    }

    /// The return would have faulted: the guest's kernel is told by its failsafe callback.
    fn failed_return(&mut self, cpu: &mut dyn GuestCpu) -> Flow {
        let callback = self.callbacks.failsafe;
        if callback.address == 0 {
            return Flow::Crash("a return failed and there is no failsafe callback".to_owned());
        }
        let entry = Entry { address: callback.address, mask: callback.masks_events, error: None };
        match self.enter_kernel(cpu, entry) {
            Flow::Guest => self.push_selectors(cpu),
            other => other,
        }
    }

    /// The frame of the failsafe callback has the data segments between the saved registers and the rest.
    fn push_selectors(&mut self, cpu: &mut dyn GuestCpu) -> Flow {
        use ambos_vcpu::SegmentName::{Ds, Es, Fs, Gs};
        let at = cpu.gpr()[RSP];
        let mut saved = [0; 16];
        if cpu.read(at, &mut saved).is_err() {
            return Flow::Crash("the frame of a failsafe callback cannot be read".to_owned());
        }
        let mut bytes = saved.to_vec();
        for name in [Ds, Es, Fs, Gs] {
            bytes.extend(u64::from(cpu.segment(name).selector).to_le_bytes());
        }
        let at = at.wrapping_sub(32);
        if cpu.write(at, &bytes).is_err() {
            return Flow::Crash("the frame of a failsafe callback cannot be written".to_owned());
        }
        cpu.gpr_mut()[RSP] = at;
        Flow::Guest
    }
}
