//! The layout of the caches that generated code reads, and where an address belongs in them.
//!
//! Each cache has two levels. The first is direct-mapped and probed inline; the larger second one, which
//! holds what the first does and more, is indexed by other bits and probed off the straight path. Two pages
//! that are in use together and share a slot of the first level would else evict each other at each
//! access: in one workload of a database one access in twenty did. Generated code copies what it finds
//! in the second level to the first, so that what is in use comes back there.

use super::views::BankViews;

/// Pages in the first level.
pub const ENTRIES: usize = 2048;
/// Pages in the second level.
pub const SECOND_ENTRIES: usize = 8192;
/// Pages in both levels of sets that are seldom used: see [`page_slots`].
const FEW_ENTRIES: usize = 256;
const FEW_SECOND_ENTRIES: usize = 1024;
/// Jumps in the first level.
pub const JUMPS: usize = 8192;
/// Jumps in the second level.
pub const SECOND_JUMPS: usize = 8192;
/// Pages of code that each set may know: see [`Set::code_pages`].
pub const CODE_PAGES: usize = 4096;
/// The linear address that the barred slot of jump caches has: see [`super::Tlb::bar_jumps`].
pub const BARRED_JUMP: u64 = 0x1000;
/// What is no page of code.
pub(super) const NO_PAGE: u64 = 1;
/// Kinds of access with caches of their own.
pub const SETS: usize = 3;
/// What page numbers and addresses are multiplied by to find their place in a second level. Positive as a
/// 32-bit number, so that it can be an immediate operand.
pub const SPREAD: u32 = 0x61c8_8647;
/// The lowest bit of the product of a page number that counts.
pub const PAGE_SPREAD_SHIFT: u32 = 24;
/// The lowest bit of the product of an address that counts.
pub const JUMP_SPREAD_SHIFT: u32 = 20;

/// An entry of a cache.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// The linear address, of a page or of code. In an empty entry, one that belongs elsewhere.
    pub key: u64,
    /// Of pages: the host address. Of jumps: the generated code. Zero in an empty entry, or [`LISTED`].
    pub value: usize,
}

/// A slot of a first level of pages: one for reads and one for writes lie side by side, so that both of the set that is used
/// most are within short displacements of one address.
pub type PageSlot = [Entry; PAGE_SLOT_ENTRIES];

/// Entries of a [`PageSlot`]: for reads and for writes.
pub(super) const PAGE_SLOT_ENTRIES: usize = 2;

/// The value of an empty entry whose slot is in the list of those that were used.
pub(super) const LISTED: usize = 1;

/// The caches for one kind of access.
#[derive(Debug)]
#[repr(C)]
pub struct Set {
    /// Pages that may be read, and those that may be written, side by side: see [`PageSlot`].
    pub pages: [Entry; ENTRIES * PAGE_SLOT_ENTRIES],
    /// Generated code by linear address.
    pub jumps: [Entry; JUMPS],
    /// Linear addresses of pages of code, as generated code of each page was found there last, or an odd number.
    /// The owner of the code numbers the pages.
    pub code_pages: [u64; CODE_PAGES],
    /// The second level of pages that may be read.
    pub read_second: [Entry; SECOND_ENTRIES],
    /// The second level of pages that may be written.
    pub write_second: [Entry; SECOND_ENTRIES],
    /// The second level of `jumps`.
    pub jumps_second: [Entry; SECOND_JUMPS],
}

/// The caches of one address space.
#[derive(Debug)]
#[repr(C)]
pub struct Bank {
    /// By kind of access: [`super::Tlb::SUPERVISOR`] and so on.
    pub sets: [Set; SETS],
    /// Where user accesses are seen.
    pub views: BankViews,
}

/// One of a set's caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    Read,
    Write,
    Jumps,
}

impl Cache {
    pub(super) const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Jumps];

    /// The slots in both levels of a set's cache that a key belongs into.
    #[inline]
    pub(super) fn slots(self, set: usize, key: u64) -> [usize; 2] {
        match self {
            Self::Jumps => [jump_slot(key), second_jump_slot(key)],
            Self::Read => [read_slot(set, key), second_slot(set, key)],
            Self::Write => [write_slot(set, key), second_slot(set, key)],
        }
    }

    /// How many slots of a level an address of zero may belong into.
    pub(super) const ZEROS: usize = PAGE_SLOT_ENTRIES;

    /// The key of an empty entry: one that belongs into another slot.
    pub(super) fn no_key(slot: usize) -> u64 {
        if slot < Self::ZEROS { BARRED_JUMP } else { 0 }
    }
}

impl Set {
    /// The levels of one of the caches. Those of reads and writes have the first in common.
    #[inline]
    pub(super) fn levels(&self, cache: Cache) -> [&[Entry]; 2] {
        match cache {
            Cache::Read => [&self.pages, &self.read_second],
            Cache::Write => [&self.pages, &self.write_second],
            Cache::Jumps => [&self.jumps, &self.jumps_second],
        }
    }

    /// The levels of one of the caches.
    #[inline]
    pub(super) fn levels_mut(&mut self, cache: Cache) -> [&mut [Entry]; 2] {
        match cache {
            Cache::Read => [&mut self.pages, &mut self.read_second],
            Cache::Write => [&mut self.pages, &mut self.write_second],
            Cache::Jumps => [&mut self.jumps, &mut self.jumps_second],
        }
    }
}

/// How many slots of its caches of pages a set uses, in both levels: powers of two. What is left is memory that is
/// never touched. With SMAP a kernel reaches its programs' pages in a set of their own, few at a time.
#[inline(always)]
pub const fn page_slots(set: usize) -> [usize; 2] {
    match set {
        super::Tlb::SUPERVISOR_AC => [FEW_ENTRIES, FEW_SECOND_ENTRIES],
        _ => [ENTRIES, SECOND_ENTRIES],
    }
}

/// The place for reads of a page in a first level.
#[inline(always)]
pub(super) fn read_slot(set: usize, linear: u64) -> usize {
    ((linear >> 12) as usize & (page_slots(set)[0] - 1)) * PAGE_SLOT_ENTRIES
}

/// The place for writes of a page in a first level.
#[inline(always)]
pub(super) fn write_slot(set: usize, linear: u64) -> usize {
    read_slot(set, linear) + 1
}

/// The slot of a page in a second level.
#[inline]
pub(super) fn second_slot(set: usize, linear: u64) -> usize {
    ((linear >> 12).wrapping_mul(u64::from(SPREAD)) >> PAGE_SPREAD_SHIFT) as usize
        & (page_slots(set)[1] - 1)
}

/// The slot of a linear address in a first level of jumps. An address in steps of two bytes is fine enough.
#[inline]
pub fn jump_slot(linear: u64) -> usize {
    (linear >> 1) as usize & (JUMPS - 1)
}

/// The slot of a linear address in a second level of jumps.
#[inline]
pub(super) fn second_jump_slot(linear: u64) -> usize {
    (linear.wrapping_mul(u64::from(SPREAD)) >> JUMP_SPREAD_SHIFT) as usize & (SECOND_JUMPS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_empty_entries_belong_elsewhere() {
        for (cache, set) in
            Cache::ALL.into_iter().flat_map(|cache| (0..SETS).map(move |set| (cache, set)))
        {
            let zeros = cache.slots(set, 0);
            assert!(zeros.iter().all(|&slot| slot < Cache::ZEROS));
            assert_eq!(Cache::no_key(Cache::ZEROS), 0);
            for slot in 0..Cache::ZEROS {
                let elsewhere = cache.slots(set, Cache::no_key(slot));
                assert!(elsewhere.iter().all(|&other| other >= Cache::ZEROS));
            }
        }
    }
}
