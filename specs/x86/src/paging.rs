//! Paging-structure entries (SDM vol. 3A, 4.3–4.5).

/// Present.
pub const PRESENT: u64 = 1 << 0;
/// Writable.
pub const WRITE: u64 = 1 << 1;
/// Accessible from user mode.
pub const USER: u64 = 1 << 2;
/// Page-level write-through.
pub const PWT: u64 = 1 << 3;
/// Page-level cache disable.
pub const PCD: u64 = 1 << 4;
/// Accessed.
pub const ACCESSED: u64 = 1 << 5;
/// Dirty (leaf entries).
pub const DIRTY: u64 = 1 << 6;
/// Large page (not in the last level).
pub const PAGE_SIZE: u64 = 1 << 7;
/// Global (leaf entries).
pub const GLOBAL: u64 = 1 << 8;
/// No-execute.
pub const NO_EXECUTE: u64 = 1 << 63;
/// The physical address of a 4 KiB frame, with 52 physical-address bits.
pub const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;
/// Bits 52 to 62, ignored with four levels, are reserved with PAE paging.
pub const PAE_RESERVED: u64 = 0x7ff0_0000_0000_0000;
/// What else is reserved in entries of PAE paging's directory-pointer table.
pub const PAE_POINTER_RESERVED: u64 = NO_EXECUTE | 0x1e6;
/// Reserved in entries of 4 MiB pages, of whose address bits 32 to 39 lie in bits 13 to 20.
pub const PSE36_RESERVED: u64 = 1 << 21;

/// The bits of [`ADDRESS_MASK`] that are reserved where addresses have `physical_bits`.
pub const fn address_bits_from(physical_bits: u32) -> u64 {
    ADDRESS_MASK >> physical_bits << physical_bits
}

/// CR3: process-context identifier.
pub const CR3_PCID: u64 = 0xfff;
/// CR3: with PCIDs, do not flush on this load.
pub const CR3_NO_FLUSH: u64 = 1 << 63;
