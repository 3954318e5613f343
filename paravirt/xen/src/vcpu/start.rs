//! What a vCPU begins with: the state of the domain builder for the first one, the guest's for the others.

use super::bounce::{FLAT_CODE, FLAT_DATA, IOPL};
use super::{Callback, Flow, TrapInfo, XenVcpu};
use crate::bytes::{u16_at, u64_at};
use crate::domain::{Shootdown, lock};
use crate::pages::Use;
use ambos_vcpu::{GuestCpu, SegmentName};
use ambos_x86::RFlags;
use ambos_x86::gpr::{
    R8, R9, R10, R11, R12, R13, R14, R15, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP,
};
use ambos_xen_abi::Errno;
use ambos_xen_abi::vcpu::context;

/// Registers in the order of `cpu_user_regs`.
const ORDER: [usize; 15] =
    [R15, R14, R13, R12, RBP, RBX, R11, R10, R9, R8, RAX, RCX, RDX, RSI, RDI];

/// Offsets in `cpu_user_regs`, after those.
const RIP: usize = 128;
const CS: usize = 136;
const RFLAGS: usize = 144;
const RSP_AT: usize = 152;
const SS: usize = 160;

impl XenVcpu {
    /// Begins what was asked for, if this is the first event since.
    pub(super) fn begin(&mut self, cpu: &mut dyn GuestCpu) -> Flow {
        if let Some(start) = self.start.take() {
            return self.begin_first(cpu, start.root, start.stack);
        }
        let context = lock(&self.shared().context).take();
        match context {
            Some(context) => match self.load_context(cpu, &context) {
                Ok(()) => Flow::Guest,
                Err(error) => Flow::Crash(format!("a vCPU's initial state is refused ({error:?})")),
            },
            None => Flow::Guest,
        }
    }

    fn begin_first(&mut self, cpu: &mut dyn GuestCpu, root: u64, stack: u64) -> Flow {
        let domain = std::sync::Arc::clone(&self.domain);
        let mut pages = domain.pages(cpu);
        let mut forget = Shootdown { domain: &domain, own: self.id, cpu: &mut *cpu };
        // The builder pins the tables; the processor uses them as well.
        let taken = pages
            .pin(root, 4, &mut forget)
            .and_then(|()| pages.take(root, Use::Table(4), &mut forget));
        if taken.is_err() {
            return Flow::Crash("the initial page tables break the rules".to_owned());
        }
        self.spaces.enter(cpu, root, &pages);
        drop(pages);
        self.kernel_root = root;
        self.kernel_stack = (FLAT_DATA.selector, stack);
        self.load_tables(cpu);
        self.enter_run_state(cpu, ambos_xen_abi::vcpu::runstate::RUNNING);
        Flow::Guest
    }

    /// Loads a `vcpu_guest_context`.
    fn load_context(&mut self, cpu: &mut dyn GuestCpu, bytes: &[u8]) -> Result<(), Errno> {
        let word = |offset: usize| u64_at(bytes, offset);
        let flags = word(context::FLAGS);
        let root = word(context::CONTROL + 3 * 8) >> 12;
        let user_root = word(context::CONTROL + 8) >> 12;
        {
            let domain = std::sync::Arc::clone(&self.domain);
            let mut pages = domain.pages(cpu);
            let mut forget = Shootdown { domain: &domain, own: self.id, cpu: &mut *cpu };
            pages.take(root, Use::Table(4), &mut forget)?;
            if user_root != 0
                && let Err(error) = pages.take(user_root, Use::Table(4), &mut forget)
            {
                pages.give(root);
                return Err(error);
            }
        }
        (self.kernel_root, self.user_root) = (root, user_root);
        for (trap, chunk) in self.traps.iter_mut().zip(bytes[context::TRAPS..].chunks_exact(16)) {
            *trap = TrapInfo {
                flags: chunk[1],
                selector: u16_at(chunk, 2) | 3,
                address: u64_at(chunk, 8),
            };
        }
        let frames = (word(context::GDT_ENTRIES)).div_ceil(512).min(16) as usize;
        let frames: Vec<u64> =
            (0..frames).map(|index| word(context::GDT_FRAMES + index * 8)).collect();
        self.set_gdt(cpu, &frames, word(context::GDT_ENTRIES))?;
        self.drop_local(cpu);
        self.ldt = (word(context::LDT_BASE), word(context::LDT_ENTRIES).min(8192) as u32);
        self.kernel_stack =
            (word(context::KERNEL_STACK) as u16 | 3, word(context::KERNEL_STACK + 8));
        self.callbacks.event = word(context::CALLBACKS);
        self.callbacks.failsafe = Callback {
            address: word(context::CALLBACKS + 8),
            masks_events: flags & context::FAILSAFE_DISABLES_EVENTS != 0,
        };
        self.callbacks.syscall = Callback {
            address: word(context::CALLBACKS + 16),
            masks_events: flags & context::SYSCALL_DISABLES_EVENTS != 0,
        };
        self.kernel_mode = flags & context::IN_KERNEL != 0;
        let [kernel_gs, user_gs] = [8, 16].map(|offset| word(context::BASES + offset));
        let (gs, other) =
            if self.kernel_mode { (kernel_gs, user_gs) } else { (user_gs, kernel_gs) };
        self.other_gs_base = other;
        cpu.set_base(SegmentName::Fs, word(context::BASES));
        cpu.set_base(SegmentName::Gs, gs);
        let registers = context::REGISTERS;
        for (index, register) in ORDER.into_iter().enumerate() {
            cpu.gpr_mut()[register] = word(registers + index * 8);
        }
        cpu.gpr_mut()[RSP] = word(registers + RSP_AT);
        cpu.set_rip(word(registers + RIP));
        self.iopl = word(registers + RFLAGS) & IOPL;
        let allowed = (RFlags::ARITHMETIC | RFlags::DF | RFlags::AC | RFlags::TF).bits();
        cpu.set_rflags(word(registers + RFLAGS) & allowed | RFlags::IF.bits() | 2);
        self.load_tables(cpu);
        let (code, stack) = (u16_at(bytes, registers + CS) | 3, u16_at(bytes, registers + SS) | 3);
        let code = self.code_segment(cpu, code).unwrap_or(FLAT_CODE);
        let stack = self.stack_segment(cpu, stack).unwrap_or(FLAT_DATA);
        cpu.set_code_and_stack(code, stack);
        let mut control = cpu.control();
        control.cr4 = Self::guest_cr4(word(context::CONTROL + 4 * 8), control.cr4);
        cpu.set_control(control);
        let root = if self.kernel_mode { self.kernel_root } else { self.user_root };
        let domain = std::sync::Arc::clone(&self.domain);
        let pages = domain.pages(cpu);
        self.spaces.enter(cpu, root, &pages);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Guest, TABLES, WINDOW};
    use ambos_x86::paging::PRESENT;
    use ambos_xen_abi::Hypercall;

    #[test]
    fn a_new_state_holds_no_frames_of_the_local_table_before() {
        let mut guest = Guest::new();
        let table = WINDOW + 0x5000;
        let read_only = guest.frame(5) << 12 | PRESENT;
        assert_eq!(guest.call(Hypercall::UpdateVaMapping, &[table, read_only, 0]), 0);
        guest.vcpu.set_ldt(&mut guest.cpu, table, 8);
        assert_eq!(guest.vcpu.descriptor(&mut guest.cpu, 0xc), Some(0));
        let uses = |guest: &mut Guest| {
            let frame = guest.frame(5);
            guest.domain.pages(&mut guest.cpu).frame(frame).unwrap().uses
        };
        assert_eq!(uses(&mut guest), 1);
        let mut context = vec![0; context::SIZE];
        let root = guest.frame(TABLES[0]) << 12;
        context[context::CONTROL + 3 * 8..][..8].copy_from_slice(&root.to_le_bytes());
        guest.vcpu.load_context(&mut guest.cpu, &context).unwrap();
        assert_eq!((guest.vcpu.ldt, uses(&mut guest)), ((0, 0), 0));
        // With no local table nothing is looked for.
        assert_eq!(guest.vcpu.descriptor(&mut guest.cpu, 0xc), None);
    }
}
