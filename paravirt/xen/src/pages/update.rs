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
            let written = self.write_entry(at, old, value, mode)?;
            self.give_entry(old, level, at);
            self.note_restriction(at, level, written, forget);
            return Ok(());
        }
        if !entry::is_allowed(value, level) {
            return Err(Errno::EINVAL);
        }
        let new = entry::adjusted(value, level);
        if entry::is_similar(old, new) {
            let written = self.write_entry(at, old, new, mode)?;
            self.note_restriction(at, level, written, forget);
            return Ok(());
        }
        self.take_entry(new, level, at, forget)?;
        let written = self
            .write_entry(at, old, new, mode)
            .inspect_err(|_| self.give_entry(new, level, at))?;
        self.give_entry(old, level, at);
        self.note_restriction(at, level, written, forget);
        Ok(())
    }

    /// Notes for whom cached translations may have become wrong by a change of the entry at `at`.
    fn note_restriction(
        &mut self,
        at: u64,
        level: u8,
        (old, new): (u64, u64),
        forget: &mut dyn Forget,
    ) {
        if level == 4 && (old ^ new) & !(ACCESSED | DIRTY) != 0 {
            self.changes.replace_top(at);
        }
        if !entry::is_restriction(old, new) {
            return;
        }
        // A kernel makes pages read-only that are to become page tables. All address spaces share the
        // mapping, but only this frame must be forgotten as writable, now instead of then.
        if level == 1
            && entry::only_forbids_writing(old, new)
            && self.changes.is_shared(at >> 12, 1)
        {
            let frame = entry::frame(old);
            forget.protect(frame);
            if let Some(found) = self.frame_mut(frame).filter(|found| found.uses == 0) {
                found.stale = false;
            }
            return;
        }
        self.changes.restrict(at, level);
    }

    /// Returns what was replaced and by what.
    fn write_entry(
        &mut self,
        at: u64,
        old: u64,
        new: u64,
        mode: Mode,
    ) -> Result<(u64, u64), Errno> {
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
        Ok((replaced, now))
    }
}
