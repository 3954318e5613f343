//! One byte of flags for each page of guest RAM, shared by all vCPUs.

use std::sync::atomic::{AtomicU8, Ordering};

/// The flags of all RAM pages, indexed by page number within the RAM file.
#[derive(Debug)]
pub struct PageFlags {
    flags: Box<[AtomicU8]>,
}

impl PageFlags {
    /// Some engine holds decoded or translated code of this page: writes to it must be reported.
    pub const CODE: u8 = 1 << 0;

    pub(crate) fn new(pages: usize) -> Self {
        Self { flags: (0..pages).map(|_| AtomicU8::new(0)).collect() }
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
}
