//! Flags and a code version for each page of guest RAM, shared by all vCPUs.
//!
//! An engine that caches code of a page sets [`PageFlags::CODE`] first. Whoever writes to such a page
//! increments its version, which makes every engine's cached code of that page stale.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

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
    pub fn set(&self, page: usize, bits: u8) -> u8 {
        self.flags.get(page).map_or(0, |flags| flags.fetch_or(bits, Ordering::SeqCst))
    }

    /// Clears `bits` on page `page` and returns the flags it had.
    pub fn clear(&self, page: usize, bits: u8) -> u8 {
        self.flags.get(page).map_or(0, |flags| flags.fetch_and(!bits, Ordering::SeqCst))
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
