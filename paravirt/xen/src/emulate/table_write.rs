//! Writes of the guest's kernel to its level-1 page tables, which it may map only read-only.
//!
//! Xen emulates the instruction. Here the engine runs it, on a copy of the table in the table's place; then
//! each entry that differs from what it was is an ordinary update with its checks.

use crate::domain::Shootdown;
use crate::pages::update::Mode;
use crate::pages::{Use, entry};
use crate::vcpu::{Flow, XenVcpu};
use ambos_memory::PAGE_WORDS;
use ambos_vcpu::GuestCpu;
use ambos_x86::exception::page_fault;
use ambos_xen_abi::Errno;
use std::sync::atomic::Ordering;

/// A table write under way.
#[derive(Debug)]
pub(crate) struct Substitution {
    /// Machine frame of the table.
    table: u64,
    /// What was in it.
    original: Box<[u64; PAGE_WORDS]>,
    /// The fault, for the guest if the write is refused.
    address: u64,
    error: u32,
    /// Registers at the instruction, for running it again.
    gpr: [u64; 16],
    rip: u64,
    rflags: u64,
}

impl XenVcpu {
    /// Begins the emulation of a write that faulted; `None` if it is not one to a level-1 table.
    pub(crate) fn emulate_table_write(
        &mut self,
        cpu: &mut dyn GuestCpu,
        address: u64,
        error: u32,
    ) -> Option<Flow> {
        let wanted = page_fault::PRESENT | page_fault::WRITE;
        let others = page_fault::RESERVED | page_fault::FETCH;
        if !self.kernel_mode || error & wanted != wanted || error & others != 0 {
            return None;
        }
        let domain = std::sync::Arc::clone(&self.domain);
        let pages = domain.pages(cpu);
        let mapping = domain.ram.load_word(pages.leaf_address(self.kernel_root, address)?);
        if !entry::is_present(mapping) || entry::is_writable(mapping) {
            return None;
        }
        let table = entry::frame(mapping);
        let found = pages.frame(table)?;
        if found.usage != Use::Table(1) || !found.validated {
            return None;
        }
        let scratch = domain.layout.scratch + u64::from(self.id);
        let words = domain.ram.page_words(table << 12)?;
        let copy = domain.ram.page_words(scratch << 12)?;
        let mut original = Box::new([0; PAGE_WORDS]);
        for ((kept, word), copy) in original.iter_mut().zip(words).zip(copy) {
            *kept = word.load(Ordering::Relaxed);
            copy.store(*kept, Ordering::Relaxed);
        }
        self.substitution = Some(Substitution {
            table,
            original,
            address,
            error,
            gpr: *cpu.gpr(),
            rip: cpu.rip(),
            rflags: cpu.rflags(),
        });
        Some(Flow::Substitute { linear: address, frame: scratch << 12 })
    }

    /// Makes what the instruction wrote the table's.
    pub(crate) fn finish_substitution(&mut self, cpu: &mut dyn GuestCpu, completed: bool) -> Flow {
        let Some(write) = self.substitution.take() else { return Flow::Guest };
        if !completed {
            return Flow::Guest;
        }
        let domain = std::sync::Arc::clone(&self.domain);
        let scratch = domain.layout.scratch + u64::from(self.id);
        let mut result = Ok(());
        {
            let mut pages = domain.pages(cpu);
            let copy = domain.ram.page_words(scratch << 12).into_iter().flatten();
            for ((&old, new), offset) in write.original.iter().zip(copy).zip((0..).step_by(8)) {
                let new = new.load(Ordering::Relaxed);
                if new == old {
                    continue;
                }
                // The table may have become something else meanwhile: then the guest runs into that.
                if pages.frame(write.table).is_none_or(|found| found.usage != Use::Table(1)) {
                    break;
                }
                let mut forget = Shootdown { domain: &domain, own: self.id, cpu: &mut *cpu };
                let at = (write.table << 12) + offset;
                result = pages.update_entry(at, new, 1, Mode::Exchange(old), &mut forget);
                if result.is_err() {
                    break;
                }
            }
        }
        let Err(error) = result else { return Flow::Guest };
        *cpu.gpr_mut() = write.gpr;
        cpu.set_rip(write.rip);
        cpu.set_rflags(write.rflags);
        match error {
            // Someone else changed the entry: again.
            Errno::EAGAIN => Flow::Guest,
            _ => self.raise_page_fault(cpu, write.address, write.error),
        }
    }
}
