//! The software memory-management unit.
//!
//! - [`walk`]: page walks with all permission checks, accessed and dirty bits.
//! - [`tlb`]: cached translations of RAM pages, tagged by address space.
//! - [`access`]: loads and stores at linear addresses.
//! - [`journal`]: undoing writes.
//!
//! Translations that are not plain RAM (devices, watched pages, pages with cached code on their
//! write side) never enter the TLB, so its hits need no further check.

mod access;
mod journal;
pub(crate) mod tlb;
mod walk;

pub use access::{Access, HostRange};
pub use journal::{Journal, JournalPage, change_page, page_bytes};
pub use tlb::{
    BANK_WINDOW, BANKS, BARRED_JUMP, Bank, BankViews, CODE_PAGES, ENTRIES, Entry, GUARD_MASK,
    GUARD_OFFSET, JUMP_SPREAD_SHIFT, JUMPS, PAGE_SPREAD_SHIFT, PageSlot, SECOND_ENTRIES,
    SECOND_JUMPS, SETS, SPREAD, Set, Tlb, VIEW_MASK, VIEW_REGIONS, jump_slot, page_slots,
};
pub use walk::Translation;

/// Whether `linear` is canonical with 48-bit linear addresses.
#[inline]
pub fn is_canonical(linear: u64) -> bool {
    (linear as i64) << 16 >> 16 == linear as i64
}
