//! Checking a frame before it becomes a page table or a page of descriptors, and undoing that.

use super::{Forget, Owner, Pages, Use, entry};
use crate::descriptor;
use ambos_xen_abi::mmu::{HYPERVISOR_FIRST_SLOT, HYPERVISOR_LAST_SLOT};
use ambos_xen_abi::{Errno, mmu};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Entries of a table.
pub(crate) const ENTRIES: u64 = 512;

/// Whether an entry of a table belongs to the hypervisor.
pub(crate) fn is_reserved(level: u8, index: u64) -> bool {
    level == 4 && (HYPERVISOR_FIRST_SLOT as u64..=HYPERVISOR_LAST_SLOT as u64).contains(&index)
}

impl Pages {
    /// The address of entry `index` of the table in `frame`.
    fn entry_address(frame: u64, index: u64) -> u64 {
        (frame << 12) + index * 8
    }

    /// Takes what the entry at guest-physical address `at`, of level `level`, needs for `value`.
    pub(crate) fn take_entry(
        &mut self,
        value: u64,
        level: u8,
        at: u64,
        forget: &mut dyn Forget,
    ) -> Result<(), Errno> {
        if !entry::is_allowed(value, level) {
            return Err(Errno::EINVAL);
        }
        let frame = entry::frame(value);
        if level == 1 {
            return self.take_mapping(value, frame);
        }
        match self.take(frame, Use::Table(level - 1), forget) {
            // A table may be mapped through itself, read-only: a linear page table.
            Err(Errno::EINVAL) if frame == at >> 12 && !entry::is_writable(value) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                self.changes.link(frame, at);
                Ok(())
            }
        }
    }

    fn take_mapping(&mut self, value: u64, frame: u64) -> Result<(), Errno> {
        let Some(found) = self.frame_mut(frame) else {
            let invalid = frame == ambos_x86::paging::ADDRESS_MASK >> 12;
            return Err(if invalid { Errno::EINVAL } else { Errno::EPERM });
        };
        if !matches!(found.owner, Owner::Guest | Owner::Shared) {
            return Err(Errno::EBUSY);
        }
        if found.references == u32::MAX {
            return Err(Errno::EINVAL);
        }
        if entry::is_writable(value) {
            if found.uses == 0 {
                // Nothing needs to be checked, or forgotten, before a frame is written to.
                (found.usage, found.validated) = (Use::Writable, false);
            }
            if found.usage != Use::Writable || found.uses == u32::MAX {
                return Err(Errno::EBUSY);
            }
            found.uses += 1;
        }
        found.references += 1;
        Ok(())
    }

    /// Gives back what [`Pages::take_entry`] took.
    pub(crate) fn give_entry(&mut self, value: u64, level: u8, at: u64) {
        if !entry::is_present(value) {
            return;
        }
        let frame = entry::frame(value);
        if level == 1 {
            self.give_mapping(value, frame);
        } else if frame != at >> 12 {
            self.changes.unlink(frame, at, level);
            self.give(frame);
        }
    }

    fn give_mapping(&mut self, value: u64, frame: u64) {
        let Some(found) = self.frame_mut(frame) else { return };
        let unused = found.uses == 0 || found.usage != Use::Writable;
        debug_assert!(found.references > 0, "references are given back once");
        debug_assert!(!entry::is_writable(value) || !unused, "uses end once");
        found.references = found.references.saturating_sub(1);
        if entry::is_writable(value) && !unused {
            found.uses -= 1;
            found.stale |= found.uses == 0;
        }
        if found.references == 0 && !found.allocated {
            self.reclaim(frame);
        }
    }

    /// Checks all entries of a frame that becomes a table of `level`.
    pub(super) fn validate_table(
        &mut self,
        frame: u64,
        level: u8,
        forget: &mut dyn Forget,
    ) -> Result<(), Errno> {
        let ram = Arc::clone(self.ram());
        let words = ram.page_words(frame << 12).ok_or(Errno::EINVAL)?;
        for (index, word) in (0..).zip(words) {
            if is_reserved(level, index) {
                word.store(self.layout().top_level_entry(index as usize), Ordering::Relaxed);
                continue;
            }
            let value = word.load(Ordering::Relaxed);
            if !entry::is_present(value) {
                continue;
            }
            let at = Self::entry_address(frame, index);
            if let Err(error) = self.take_entry(value, level, at, forget) {
                for undone in (0..index).filter(|&undone| !is_reserved(level, undone)) {
                    let at = Self::entry_address(frame, undone);
                    let value = self.ram().load_word(at);
                    self.give_entry(value, level, at);
                }
                // Xen says only that the frame cannot be such a table.
                return Err(if error == Errno::EPERM { error } else { Errno::EINVAL });
            }
            let adjusted = entry::adjusted(value, level);
            if adjusted != value {
                word.store(adjusted, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Gives back what all entries of a table took.
    pub(super) fn release_entries(&mut self, frame: u64, level: u8) {
        let ram = Arc::clone(self.ram());
        let words = ram.page_words(frame << 12).into_iter().flatten();
        for (index, word) in (0..).zip(words).filter(|&(index, _)| !is_reserved(level, index)) {
            let value = word.load(Ordering::Relaxed);
            self.give_entry(value, level, Self::entry_address(frame, index));
        }
    }

    /// Checks a frame that becomes a page of descriptors.
    pub(super) fn validate_descriptors(&mut self, frame: u64) -> Result<(), Errno> {
        for index in 0..ENTRIES {
            let at = Self::entry_address(frame, index);
            let value = self.ram().load_word(at);
            let checked = descriptor::checked(value).ok_or(Errno::EINVAL)?;
            if checked != value {
                self.ram().store_word(at, checked);
            }
        }
        Ok(())
    }

    /// The address of the level-1 entry that maps `linear` under the top-level table `root`; `None` if
    /// there is no such table.
    pub(crate) fn leaf_address(&self, root: u64, linear: u64) -> Option<u64> {
        let canonical = (linear as i64) << 16 >> 16 == linear as i64;
        if !canonical || (mmu::HYPERVISOR_START..mmu::HYPERVISOR_END).contains(&linear) {
            return None;
        }
        let mut table = root;
        for level in (2..=4).rev() {
            let index = linear >> (12 + (level - 1) * 9) & (ENTRIES - 1);
            let value = self.ram().load_word(Self::entry_address(table, index));
            if !entry::is_present(value) || value & ambos_x86::paging::PAGE_SIZE != 0 {
                return None;
            }
            table = entry::frame(value);
        }
        Some(Self::entry_address(table, linear >> 12 & (ENTRIES - 1)))
    }
}
