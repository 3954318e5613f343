//! Flags and a code version for each page of guest RAM, shared by all vCPUs.
//!
//! An engine that is about to cache code of a page begins to watch it ([`PageFlags::watch`]), takes the means to write to it
//! unnoticed away from all vCPUs, and says so ([`PageFlags::watched`]). Who writes to a watched page says so
//! ([`PageFlags::note_write`]): that ends the watch and increments the page's version, which makes every engine's cached code
//! of it stale.
//!
//! What is read between the time that a vCPU notes a write and the time that it does it is old, and must not pass for
//! current. It does not: either the reader has taken the version before the write was noted, or it finds the watch ended, or
//! one begun by somebody else that is not complete yet, and waits for all vCPUs before it reads.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// A watch that has begun and is not known to be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the watch is complete only when that is said"]
pub struct Watch {
    page: usize,
    round: u8,
}

/// The flags of all RAM pages, indexed by page number within the RAM file.
#[derive(Debug)]
pub struct PageFlags {
    flags: Box<[AtomicU8]>,
    versions: Box<[AtomicU32]>,
    epoch: AtomicU64,
}

impl PageFlags {
    /// Some engine holds decoded or translated code of this page: writes to it must be reported.
    pub const CODE: u8 = 1 << 0;
    /// A vCPU found the page: see [`crate::GuestRam::note_reached`].
    pub(crate) const REACHED: u8 = 1 << 1;
    /// Besides, nobody can write to the page unnoticed any more.
    const WATCHED: u8 = 1 << 2;
    /// The lowest bit of a count, in all that are above, of how often a watch has ended.
    const ROUND: u8 = 1 << 3;

    pub(crate) fn new(pages: usize) -> Self {
        Self {
            flags: (0..pages).map(|_| AtomicU8::new(0)).collect(),
            versions: (0..pages).map(|_| AtomicU32::new(0)).collect(),
            epoch: AtomicU64::new(0),
        }
    }

    /// The flags of page `page`; none for a page outside RAM.
    #[inline]
    pub fn get(&self, page: usize) -> u8 {
        self.flags.get(page).map_or(0, |flags| flags.load(Ordering::Acquire))
    }

    /// Sets `bits` on page `page` and returns the flags it had.
    pub(crate) fn set(&self, page: usize, bits: u8) -> u8 {
        self.flags.get(page).map_or(0, |flags| flags.fetch_or(bits, Ordering::SeqCst))
    }

    /// Begins to watch page `page`. Returns the version that what is read of it afterwards is of, or of a later one; and
    /// what [`PageFlags::watched`] is to be told once no vCPU can write to the page unnoticed, unless that is so already.
    /// Only then may code of it be read.
    pub fn watch(&self, page: usize) -> (u32, Option<Watch>) {
        // First the version: a write that is noted after this makes stale what is read now.
        let version = self.version(page);
        let before = self.set(page, Self::CODE);
        let complete = before & Self::WATCHED != 0;
        (version, (!complete).then_some(Watch { page, round: before / Self::ROUND }))
    }

    /// Says that a watch is complete; nothing happens if a write has ended it meanwhile.
    pub fn watched(&self, watch: Watch) {
        let goes_on = |flags: u8| flags & Self::CODE != 0 && flags / Self::ROUND == watch.round;
        self.update(watch.page, |flags| goes_on(flags).then_some(flags | Self::WATCHED));
    }

    /// Notes that page `page` is about to be written to, or has just been: ends a watch, and makes all cached code of it stale.
    pub fn note_write(&self, page: usize) {
        let ended = |flags: u8| (flags & !(Self::CODE | Self::WATCHED)).wrapping_add(Self::ROUND);
        self.update(page, |flags| Some(ended(flags)));
        self.bump_version(page);
    }

    fn update(&self, page: usize, next: impl Fn(u8) -> Option<u8>) {
        if let Some(flags) = self.flags.get(page) {
            // If there is nothing next, the flags are as they are to be.
            let _ = flags.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        }
    }

    /// The code version of page `page`.
    #[inline]
    pub fn version(&self, page: usize) -> u32 {
        self.versions.get(page).map_or(0, |version| version.load(Ordering::Acquire))
    }

    /// Makes all cached code of page `page` stale.
    pub fn bump_version(&self, page: usize) {
        if let Some(version) = self.versions.get(page) {
            version.fetch_add(1, Ordering::SeqCst);
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Changes whenever the version of any page does.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Where the epoch lies in memory as long as this exists, for generated code to load.
    pub fn epoch_address(&self) -> usize {
        self.epoch.as_ptr() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_complete_when_that_is_said() {
        let flags = PageFlags::new(2);
        let (version, watch) = flags.watch(1);
        assert_eq!((version, flags.get(1) & PageFlags::CODE), (0, PageFlags::CODE));
        // Another vCPU does not rely on what the first one has not done yet.
        let (_, other) = flags.watch(1);
        assert_eq!(other, watch);
        flags.watched(watch.unwrap());
        assert_eq!(flags.watch(1), (0, None));
        flags.watched(other.unwrap());
        assert_eq!(flags.watch(1), (0, None));
        assert_eq!(flags.get(0), 0);
    }

    #[test]
    fn a_write_ends_a_watch_in_any_state() {
        let flags = PageFlags::new(1);
        // More rounds than are counted.
        for round in 0..100 {
            let (version, watch) = flags.watch(0);
            assert_eq!(version, round);
            if round % 3 == 0 {
                flags.watched(watch.unwrap());
            }
            flags.note_write(0);
            assert_eq!(flags.get(0) & PageFlags::CODE, 0);
            // What is said too late is not said of the next watch.
            flags.watched(watch.unwrap());
            let (_, next) = flags.watch(0);
            assert!(next.is_some() && next != watch);
            flags.watched(watch.unwrap());
            assert_eq!(flags.watch(0), (round + 1, next));
        }
    }

    #[test]
    fn there_is_nothing_to_watch_outside_ram() {
        let flags = PageFlags::new(1);
        let (version, watch) = flags.watch(5);
        flags.watched(watch.unwrap());
        flags.note_write(5);
        assert_eq!((version, flags.get(5), flags.epoch()), (0, 0, 0));
    }
}
