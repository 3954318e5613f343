//! Changing one entry of a page table.

use super::{Forget, Pages, Use, entry, tables};
use ambos_x86::paging::{ACCESSED, DIRTY};
use ambos_xen_abi::Errno;
use std::sync::atomic::Ordering;

/// How an entry is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As it is.
    Set,
    /// With the accessed and dirty bits that it has.
    KeepAccessedDirty,
    /// Only if it is still this.
    Exchange(u64),
}

impl Pages {
    /// Writes `value` to the entry at guest-physical address `at`, as `mmu_update` does: what the frame
    /// is used as decides what the value must be.
    pub(crate) fn update(
        &mut self,
        at: u64,
        value: u64,
        mode: Mode,
        forget: &mut dyn Forget,
    ) -> Result<(), Errno> {
        let frame = at >> 12;
        let found = *self.frame(frame).ok_or(Errno::EINVAL)?;
        if !self.belongs_to_guest(frame) {
            return Err(Errno::EINVAL);
        }
        match found.usage {
            Use::Table(level) if found.uses > 0 => {
                self.update_entry(at, value, level, mode, forget)
            }
            _ => {
                self.reference(frame)?;
                let result = self.take_use(frame, Use::Writable, forget).map(|()| {
                    self.ram().store_word(at, value);
                    self.end_use(frame);
                });
                self.release(frame);
                result
            }
        }
    }

    /// Writes an entry of a table of `level`.
    pub(crate) fn update_entry(
        &mut self,
        at: u64,
        value: u64,
        level: u8,
        mode: Mode,
        forget: &mut dyn Forget,
    ) -> Result<(), Errno> {
        let table = at >> 12;
        if tables::is_reserved(level, (at & 0xfff) / 8) {
            return Err(Errno::EINVAL);
        }
        let old = self.ram().load_word(at);
        if let Mode::Exchange(expected) = mode
            && old != expected
        {
            return Err(Errno::EAGAIN);
        }
        if !entry::is_present(value) {
            self.write_entry(at, old, value, mode)?;
            self.give_entry(old, level, table);
            return Ok(());
        }
        if !entry::is_allowed(value, level) {
            return Err(Errno::EINVAL);
        }
        let new = entry::adjusted(value, level);
        if entry::is_similar(old, new) {
            return self.write_entry(at, old, new, mode);
        }
        self.take_entry(new, level, table, forget)?;
        if let Err(error) = self.write_entry(at, old, new, mode) {
            self.give_entry(new, level, table);
            return Err(error);
        }
        self.give_entry(old, level, table);
        Ok(())
    }

    fn write_entry(&mut self, at: u64, old: u64, new: u64, mode: Mode) -> Result<(), Errno> {
        let word = self.ram.word(at).ok_or(Errno::EINVAL)?;
        // Other vCPUs set accessed and dirty bits at any time.
        let replaced = match mode {
            Mode::Set => word.swap(new, Ordering::SeqCst),
            Mode::KeepAccessedDirty => {
                let keep = |now: u64| Some(new | now & (ACCESSED | DIRTY));
                word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, keep).unwrap_or(old)
            }
            Mode::Exchange(expected) => word
                .compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst)
                .map_err(|_| Errno::EAGAIN)?,
        };
        let now =
            if mode == Mode::KeepAccessedDirty { new | replaced & (ACCESSED | DIRTY) } else { new };
        if entry::is_restriction(replaced, now) {
            self.note_restriction();
        }
        Ok(())
    }
}
