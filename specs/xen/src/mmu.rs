//! The PV memory-management interface (`public/xen.h`), and who has which part of the address
//! space (`public/arch-x86/xen-x86_64.h`).

/// Low bits of `mmu_update.ptr`: write an entry of a page table.
pub const NORMAL_PT_UPDATE: u64 = 0;
/// Set an entry of the machine-to-physical table.
pub const MACHPHYS_UPDATE: u64 = 1;
/// Like [`NORMAL_PT_UPDATE`], keeping accessed and dirty bits.
pub const PT_UPDATE_PRESERVE_AD: u64 = 2;
/// Like [`NORMAL_PT_UPDATE`], with untranslated frames.
pub const PT_UPDATE_NO_TRANSLATE: u64 = 3;
/// Count of requests: the call is the continuation of one that was interrupted.
pub const UPDATE_PREEMPTED: u64 = 1 << 31;
/// Bytes of `struct mmu_update`: ptr, val.
pub const UPDATE_SIZE: u64 = 16;

/// Operations of `mmuext_op`.
pub mod ext {
    /// Pin a level-1 table; the next three are the higher levels.
    pub const PIN_L1_TABLE: u32 = 0;
    /// Pin a level-2 table.
    pub const PIN_L2_TABLE: u32 = 1;
    /// Pin a level-3 table.
    pub const PIN_L3_TABLE: u32 = 2;
    /// Pin a level-4 table.
    pub const PIN_L4_TABLE: u32 = 3;
    /// Unpin a table.
    pub const UNPIN_TABLE: u32 = 4;
    /// Switch the kernel's top-level table.
    pub const NEW_BASEPTR: u32 = 5;
    /// Flush this vCPU's TLB.
    pub const TLB_FLUSH_LOCAL: u32 = 6;
    /// Flush one page of this vCPU's TLB.
    pub const INVLPG_LOCAL: u32 = 7;
    /// Flush the TLBs of some vCPUs.
    pub const TLB_FLUSH_MULTI: u32 = 8;
    /// Flush one page of the TLBs of some vCPUs.
    pub const INVLPG_MULTI: u32 = 9;
    /// Flush all TLBs.
    pub const TLB_FLUSH_ALL: u32 = 10;
    /// Flush one page of all TLBs.
    pub const INVLPG_ALL: u32 = 11;
    /// Write back caches.
    pub const FLUSH_CACHE: u32 = 12;
    /// Set the local descriptor table.
    pub const SET_LDT: u32 = 13;
    /// Switch user mode's top-level table.
    pub const NEW_USER_BASEPTR: u32 = 15;
    /// Zero a page.
    pub const CLEAR_PAGE: u32 = 16;
    /// Copy a page.
    pub const COPY_PAGE: u32 = 17;
    /// Write back caches everywhere.
    pub const FLUSH_CACHE_GLOBAL: u32 = 18;
    /// Mark a large page as one.
    pub const MARK_SUPER: u32 = 19;
    /// Take the mark back.
    pub const UNMARK_SUPER: u32 = 20;
    /// Bytes of `struct mmuext_op`: cmd, padding, arg1, arg2.
    pub const SIZE: u64 = 24;
}

/// Flags of `update_va_mapping`: what to flush.
pub mod va {
    /// The kind of flush.
    pub const TYPE_MASK: u64 = 3;
    /// Nothing.
    pub const NONE: u64 = 0;
    /// The TLB.
    pub const TLB_FLUSH: u64 = 1;
    /// The page.
    pub const INVLPG: u64 = 2;
    /// On this vCPU.
    pub const LOCAL: u64 = 0;
    /// On all; anything else is the address of a bitmap.
    pub const ALL: u64 = 1 << 2;
}

/// First address that belongs to Xen.
pub const HYPERVISOR_START: u64 = 0xffff_8000_0000_0000;
/// First address after Xen's.
pub const HYPERVISOR_END: u64 = 0xffff_8800_0000_0000;
/// First entry of a level-4 table that belongs to Xen.
pub const HYPERVISOR_FIRST_SLOT: usize = 256;
/// Last entry of a level-4 table that belongs to Xen.
pub const HYPERVISOR_LAST_SLOT: usize = 271;
/// The machine-to-physical table as guests read it.
pub const MACHINE_TO_PHYS_START: u64 = 0xffff_8000_0000_0000;
/// End of the space for it.
pub const MACHINE_TO_PHYS_END: u64 = 0xffff_8040_0000_0000;
/// What belongs to the domain but is seen only by Xen: descriptor tables.
pub const PER_DOMAIN_START: u64 = 0xffff_8200_0000_0000;
/// A machine frame without a physical one.
pub const INVALID_P2M: u64 = u64::MAX;
/// Bit 52 of an entry: Xen marks pages of the guest's kernel with it.
pub const GUEST_KERNEL: u64 = 1 << 52;
