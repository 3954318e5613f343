//! The page tables that a guest starts with.

use super::{BootError, Builder, PART};
use ambos_x86::{PAGE_SIZE, paging};
use std::ops::Range;

/// Entries of a page table.
pub(super) const ENTRIES: u64 = 512;
/// Bits of an entry that links a table.
const LINK: u64 = paging::PRESENT | paging::WRITE | paging::USER | paging::ACCESSED | paging::DIRTY;

/// Page tables being made; the first is the top-level one. What is linked or mapped is a physical frame here.
pub(super) struct Directory {
    /// Ranges of physical frames that hold the tables, one behind the other.
    frames: Vec<Range<u64>>,
    /// The tables' entries.
    entries: Vec<u64>,
    /// The first table that is not linked.
    next: usize,
}

impl Directory {
    /// The tables in `count` frames from `first` on; the first one is the top-level one.
    pub(super) fn new(first: u64, count: u64) -> Self {
        let mut directory = Self { frames: Vec::new(), entries: Vec::new(), next: 1 };
        directory.add_tables(first, count);
        directory
    }

    /// More tables.
    pub(super) fn add_tables(&mut self, first: u64, count: u64) {
        self.frames.push(first..first + count);
        self.entries.resize(self.entries.len() + (count * ENTRIES) as usize, 0);
    }

    /// The frame of a table.
    fn frame(&self, table: usize) -> Option<u64> {
        let mut within = table as u64;
        for range in &self.frames {
            let count = range.end - range.start;
            if within < count {
                return Some(range.start + within);
            }
            within -= count;
        }
        None
    }

    /// The table in a frame.
    fn table(&self, frame: u64) -> Option<usize> {
        let mut before = 0;
        for range in &self.frames {
            if range.contains(&frame) {
                return Some((before + frame - range.start) as usize);
            }
            before += range.end - range.start;
        }
        None
    }

    /// The entries of the level-1 table for `address`.
    fn leaves(&mut self, address: u64) -> Option<&mut [u64]> {
        let mut table = 0;
        for level in (2..=4).rev() {
            let index = (address >> (12 + (level - 1) * 9) & (ENTRIES - 1)) as usize;
            let at = table * ENTRIES as usize + index;
            let entry = *self.entries.get(at)?;
            table = if entry == 0 {
                let next = self.next;
                self.entries[at] = self.frame(next)? << 12 | LINK;
                self.next += 1;
                next
            } else {
                self.table(entry >> 12)?
            };
        }
        let first = table * ENTRIES as usize;
        self.entries.get_mut(first..first + ENTRIES as usize)
    }

    /// Maps pages from `address` on; `None` if there are too few tables.
    pub(super) fn map(&mut self, address: u64, pfns: Range<u64>, right: u64) -> Option<()> {
        let bits = paging::PRESENT | paging::ACCESSED | right;
        let (mut address, mut pfn) = (address, pfns.start);
        while pfn < pfns.end {
            let index = (address >> 12 & (ENTRIES - 1)) as usize;
            let leaves = &mut self.leaves(address)?[index..];
            let count = leaves.len().min((pfns.end - pfn) as usize);
            for (leaf, pfn) in leaves[..count].iter_mut().zip(pfn..) {
                *leaf = pfn << 12 | bits;
            }
            pfn += count as u64;
            address = address.wrapping_add((count as u64) << 12);
        }
        Some(())
    }

    /// Writes all tables.
    pub(super) fn write(&self, builder: &Builder<'_>) -> Result<(), BootError> {
        let mut entries = self.entries.as_slice();
        let mut bytes = vec![0; PART * PAGE_SIZE as usize];
        for range in &self.frames {
            for first in range.clone().step_by(PART) {
                let count = (range.end - first).min(PART as u64) as usize;
                let (part, rest) = entries.split_at(count * ENTRIES as usize);
                for (place, &entry) in bytes.chunks_exact_mut(8).zip(part) {
                    let entry = match entry {
                        0 => 0,
                        entry => builder.machine(entry >> 12) << 12 | entry & (PAGE_SIZE - 1),
                    };
                    place.copy_from_slice(&entry.to_le_bytes());
                }
                builder.write(first << 12, &bytes[..count * PAGE_SIZE as usize])?;
                entries = rest;
            }
        }
        Ok(())
    }
}
