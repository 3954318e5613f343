//! What blocks are found by.

use rustc_hash::FxHasher;
use std::hash::Hasher;

/// What identifies a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    /// Linear address of the page, where it is part of the code; else zero.
    pub(crate) linear_page: u64,
    /// Number of the page in guest RAM.
    pub(crate) ram_page: u32,
    /// The mode that the code was translated for.
    pub(crate) mode: u32,
    /// Number, plus one, of the page in guest RAM in which the instruction ends, if that is another one; else zero.
    pub(crate) tail: u32,
    /// Offset of the first byte in the page.
    pub(crate) offset: u16,
    /// The linear address is part of the code.
    pub(crate) absolute: bool,
    /// Its memory operands may share probes.
    pub(crate) groups: bool,
}

impl Key {
    /// The set of the TLB that the block finds its operands in.
    pub(crate) fn set(&self) -> usize {
        (self.mode & 3) as usize
    }

    /// The key of what begins elsewhere in the page.
    pub(crate) fn at(self, offset: u16) -> Self {
        Self { offset, ..self }
    }

    /// A hash with all bits spread.
    pub(crate) fn hash(&self) -> u64 {
        let &Self { linear_page, ram_page, mode, tail, offset, absolute, groups } = self;
        let flags = u64::from(absolute) << 1 | u64::from(groups);
        let mut hasher = FxHasher::default();
        hasher.write_u64(linear_page | u64::from(offset));
        hasher.write_u64(u64::from(mode) << 32 | u64::from(ram_page));
        hasher.write_u64(u64::from(tail) << 2 | flags);
        hasher.finish()
    }
}

/// What is known of a place in guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Translated, as this block.
    Block(u32),
    /// Its first instruction ends in the next page: blocks are found by both pages.
    Straddles,
    /// Cannot be translated.
    Never,
}
