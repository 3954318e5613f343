//! Where everything lies: the same linear addresses on the host and in the guest.
//!
//! The *scratch* pages are what memory operands point to:
//!
//! | page | host | guest |
//! |---|---|---|
//! | 0 | unmapped | unmapped |
//! | 1, 2 | read-write | RAM, read-write |
//! | 3 | unmapped | unmapped |
//! | 4 | read-only | RAM, read-only |
//! | 5 | read-write | device memory |
//! | 6 | read-only | RAM, read-only |
//! | 7 | unmapped | unmapped |
//!
//! Around them a wide belt is unmapped on both sides, so that an address that misses them by a
//! little faults instead of hitting the tester itself.

use ambos_x86::PAGE_SIZE;

/// Two pages of code, executable and not writable on both sides.
pub const CODE: u64 = 0x1000_0000;
/// Bytes of code.
pub const CODE_SIZE: u64 = 2 * PAGE_SIZE;
/// Where the code under test usually begins.
pub const CODE_START: u64 = CODE + 0x400;
/// Where branches of single instructions lead; within reach of an 8-bit displacement.
pub const LANDING: u64 = CODE_START + 0x40;
/// Host only: what the trampoline saves and loads.
pub const CONTEXT: u64 = 0x1001_0000;
/// Bytes of the trampoline's context.
pub const CONTEXT_SIZE: u64 = 8 * PAGE_SIZE;
/// First scratch page.
pub const SCRATCH: u64 = 0x2000_0000;
/// Number of scratch pages.
pub const SCRATCH_PAGES: u64 = 8;
/// Bytes that are unmapped before and after the scratch pages.
pub const BELT: u64 = 1 << 20;
/// The GS base on both sides.
pub const GS_BASE: u64 = SCRATCH + 0x1230;

/// What one of the scratch pages is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Not mapped.
    Unmapped,
    /// Readable and writable; the number of the page among those of [`crate::case::Memory`].
    Writable(usize),
    /// As `Writable`, but device memory in the guest.
    Device(usize),
    /// Readable; holds [`read_only_byte`].
    ReadOnly,
}

/// What scratch page `number` is.
pub const fn page(number: u64) -> Page {
    match number {
        1 => Page::Writable(0),
        2 => Page::Writable(1),
        5 => Page::Device(2),
        4 | 6 => Page::ReadOnly,
        _ => Page::Unmapped,
    }
}

/// The constant content of the read-only pages, by offset.
pub const fn read_only_byte(offset: usize) -> u8 {
    (offset as u8).wrapping_mul(29).wrapping_add((offset >> 8) as u8)
}

/// Whether `size` bytes at `address` may be accessed natively: scratch memory or the belt around
/// it, or an address that no process can have mapped.
pub fn is_safe(address: u64, size: u64) -> bool {
    let start = SCRATCH - BELT;
    let end = SCRATCH + SCRATCH_PAGES * PAGE_SIZE + BELT;
    let inside = |address: u64| address >= start && address < end;
    let canonical = |address: u64| (address as i64) << 16 >> 16 == address as i64;
    let last = address.wrapping_add(size.max(1) - 1);
    inside(address) && inside(last) || !canonical(address) && !canonical(last)
}
