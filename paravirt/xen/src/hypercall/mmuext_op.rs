//! `mmuext_op`: pinning of page tables, address spaces, flushes, the local descriptor table.

use super::mmu_update::{is_self, progress, report};
use super::{Answer, Arguments, Call, Outcome};
use crate::bytes;
use crate::domain::Shootdown;
use crate::pages::{Owner, Use};
use crate::vcpu::XenVcpu;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::{GuestCpu, Request};
use ambos_xen_abi::mmu::{UPDATE_PREEMPTED, ext};
use ambos_xen_abi::{Errno, Hypercall};
use std::sync::Arc;

pub(super) struct MmuextOp;

impl Call for MmuextOp {
    const NUMBER: Hypercall = Hypercall::MmuextOp;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [operations, count, done_at, foreign, ..] = arguments;
        let (count, already) = progress(cpu, count, done_at)?;
        if !is_self(foreign) {
            return Err(Errno::ESRCH);
        }
        let (mut result, mut done, mut pause) = (Ok(()), 0, false);
        let mut operation = [0; ext::SIZE as usize];
        while done < count {
            pause = vcpu.should_pause(done);
            if pause {
                break;
            }
            let at = operations.wrapping_add(done * ext::SIZE);
            result = bytes::read_into(cpu, at, &mut operation)
                .and_then(|()| vcpu.extended(cpu, &operation));
            if result.is_err() {
                break;
            }
            done += 1;
        }
        report(cpu, done_at, already + done)?;
        result?;
        if pause {
            let next = operations.wrapping_add(done * ext::SIZE);
            let left = (count - done) | UPDATE_PREEMPTED;
            return Ok(Answer::Again([next, left, done_at, foreign, 0, 0]));
        }
        Ok(Answer::Value(0))
    }
}

impl XenVcpu {
    fn extended(
        &mut self,
        cpu: &mut dyn GuestCpu,
        operation: &[u8; ext::SIZE as usize],
    ) -> Result<(), Errno> {
        let command = bytes::u32_at(operation, 0);
        let (first, second) = (bytes::u64_at(operation, 8), bytes::u64_at(operation, 16));
        match command {
            ext::PIN_L1_TABLE..=ext::PIN_L4_TABLE => {
                let domain = &self.domain;
                let mut pages = domain.pages(cpu);
                let mut forget = Shootdown { domain, own: self.id, cpu: &mut *cpu };
                pages.pin(first, (command - ext::PIN_L1_TABLE) as u8 + 1, &mut forget)
            }
            ext::UNPIN_TABLE => self.domain.pages(cpu).unpin(first),
            ext::NEW_BASEPTR => {
                self.ledger().count(Intercept::Privileged(Privileged::AddressSpaceSwitch));
                self.new_kernel_root(cpu, first)
            }
            ext::NEW_USER_BASEPTR => self.new_user_root(cpu, first),
            ext::TLB_FLUSH_LOCAL => {
                self.flush(cpu, None, None);
                Ok(())
            }
            ext::INVLPG_LOCAL => {
                self.flush(cpu, Some(first), None);
                Ok(())
            }
            ext::TLB_FLUSH_MULTI | ext::INVLPG_MULTI => {
                let vcpus = self.vcpu_mask(cpu, second)?;
                let page = (command == ext::INVLPG_MULTI).then_some(first);
                self.flush(cpu, page, Some(vcpus));
                Ok(())
            }
            ext::TLB_FLUSH_ALL => {
                self.flush(cpu, None, Some(u64::MAX));
                Ok(())
            }
            ext::INVLPG_ALL => {
                self.flush(cpu, Some(first), Some(u64::MAX));
                Ok(())
            }
            // Only domains with devices of their own may.
            ext::FLUSH_CACHE | ext::FLUSH_CACHE_GLOBAL => Err(Errno::EACCES),
            ext::SET_LDT => {
                let (base, entries) = (first, second as u32);
                if entries > 8192
                    || entries > 0 && (base & 0xfff != 0 || !bytes::is_guest_range(base, 0))
                {
                    return Err(Errno::EINVAL);
                }
                self.set_ldt(cpu, if entries == 0 { 0 } else { base }, entries);
                Ok(())
            }
            ext::CLEAR_PAGE => self.fill_page(cpu, first, None),
            ext::COPY_PAGE => self.fill_page(cpu, first, Some(second)),
            ext::MARK_SUPER | ext::UNMARK_SUPER => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::ENOSYS),
        }
    }

    fn new_user_root(&mut self, cpu: &mut dyn GuestCpu, root: u64) -> Result<(), Errno> {
        let domain = &self.domain;
        let mut pages = domain.pages(cpu);
        if root != self.user_root {
            if root != 0 {
                let mut forget = Shootdown { domain, own: self.id, cpu: &mut *cpu };
                pages.take(root, Use::Table(4), &mut forget)?;
            }
            let old = std::mem::replace(&mut self.user_root, root);
            if old != 0 {
                pages.give(old);
            }
        }
        // Often a kernel that changes its own code comes and goes without its programs.
        self.user_root_flushed = true;
        Ok(())
    }

    /// Zeroes a page of the guest, or copies another one to it.
    fn fill_page(
        &mut self,
        cpu: &mut dyn GuestCpu,
        frame: u64,
        source: Option<u64>,
    ) -> Result<(), Errno> {
        let domain = Arc::clone(&self.domain);
        let mut pages = domain.pages(cpu);
        if let Some(source) = source {
            pages.reference(source)?;
        }
        let mut forget = Shootdown { domain: &domain, own: self.id, cpu: &mut *cpu };
        let usable = pages.frame(frame).is_some_and(|found| found.owner == Owner::Guest);
        let taken = match usable {
            true => pages.take(frame, Use::Writable, &mut forget),
            false => Err(Errno::EINVAL),
        };
        if taken.is_ok() {
            for offset in (0..4096).step_by(8) {
                let word = source.map_or(0, |source| domain.ram.load_word((source << 12) + offset));
                domain.ram.store_word((frame << 12) + offset, word);
            }
            pages.give(frame);
        }
        if let Some(source) = source {
            pages.release(source);
        }
        drop(pages);
        cpu.wrote_frame(frame << 12);
        taken
    }

    /// The vCPUs of a bitmap in guest memory, as a mask.
    pub(super) fn vcpu_mask(&self, cpu: &mut dyn GuestCpu, bitmap: u64) -> Result<u64, Errno> {
        let length = self.domain.vcpus.len().div_ceil(8).min(8);
        let mut word = [0; 8];
        bytes::read_into(cpu, bitmap, &mut word[..length]).map_err(|_| Errno::EINVAL)?;
        // Past the sixty-fourth vCPU nobody is told apart.
        let rest = if self.domain.vcpus.len() > 64 { u64::MAX } else { 0 };
        Ok(u64::from_le_bytes(word) | rest)
    }

    /// Forgets translations of one page or all, on this vCPU or on those of a mask.
    pub(super) fn flush(&mut self, cpu: &mut dyn GuestCpu, page: Option<u64>, vcpus: Option<u64>) {
        self.ledger().count(Intercept::Privileged(Privileged::InvalidateTlb));
        let own = 1u64.checked_shl(self.id).unwrap_or(u64::MAX);
        let mask = vcpus.unwrap_or(own);
        if mask & own != 0 {
            match page {
                Some(page) if super::is_canonical(page) => cpu.flush_page(page),
                Some(_) => {}
                None => {
                    let domain = Arc::clone(&self.domain);
                    let pages = domain.pages(cpu);
                    self.spaces.renew(cpu, self.kernel_root, &pages);
                    self.user_root_flushed = true;
                }
            }
        }
        if mask & !own != 0 && self.domain.vcpus.len() > 1 {
            let domain = Arc::clone(&self.domain);
            domain.host.forget(self.id, mask, Request::FLUSH_ALL, &mut || cpu.serve_flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::Nothing;
    use crate::pages::update::Mode;
    use crate::testing::Guest;
    use ambos_x86::paging::{PRESENT, USER, WRITE};

    #[test]
    fn what_user_mode_must_forget_is_forgotten_when_it_is_entered() {
        let mut guest = Guest::new();
        let [root, table] = [0x200, 0x201].map(|pfn| guest.frame(pfn));
        let first = root << 12;
        guest.domain.ram.store_word(first, table << 12 | PRESENT | WRITE | USER);
        guest.domain.pages(&mut guest.cpu).pin(root, 4, &mut Nothing).unwrap();
        guest.cpu.flushed_spaces.clear();
        // What was forgotten of the address space of user mode, which is entered and left.
        let forgotten = |guest: &mut Guest| {
            let flushes = |guest: &Guest| {
                guest.cpu.flushed_spaces.len() + guest.cpu.flushed_lower_halves.len()
            };
            let before = flushes(guest);
            guest.vcpu.toggle_mode(&mut guest.cpu);
            let (space, number) = guest.cpu.space;
            guest.vcpu.toggle_mode(&mut guest.cpu);
            assert_eq!(space, root << 12);
            assert_ne!(guest.cpu.space.1, number);
            flushes(guest) - before
        };
        guest.vcpu.new_user_root(&mut guest.cpu, root).unwrap();
        assert!(guest.cpu.flushed_spaces.is_empty());
        assert_eq!(forgotten(&mut guest), 1);
        assert_eq!(forgotten(&mut guest), 0);
        let take_away = |guest: &mut Guest, entry| {
            let mut pages = guest.domain.pages(&mut guest.cpu);
            pages.update(first, entry, Mode::Set, &mut Nothing).unwrap();
        };
        take_away(&mut guest, 0);
        guest.vcpu.new_user_root(&mut guest.cpu, root).unwrap();
        assert_eq!([forgotten(&mut guest), forgotten(&mut guest)], [1, 0]);
        take_away(&mut guest, table << 12 | PRESENT | WRITE | USER);
        take_away(&mut guest, 0);
        guest.vcpu.flush(&mut guest.cpu, None, None);
        assert_eq!([forgotten(&mut guest), forgotten(&mut guest)], [1, 0]);
    }
}
