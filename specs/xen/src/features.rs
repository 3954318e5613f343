//! Features of the hypervisor (`public/features.h`), by bit of submap 0.

/// The guest may write to its page tables. Not for PV guests here.
pub const WRITABLE_PAGE_TABLES: u32 = 0;
/// The guest may write to its descriptor tables.
pub const WRITABLE_DESCRIPTOR_TABLES: u32 = 1;
/// Frames are translated.
pub const AUTO_TRANSLATED_PHYSMAP: u32 = 2;
/// The kernel runs at privilege level 0.
pub const SUPERVISOR_MODE_KERNEL: u32 = 3;
/// Top-level tables of 32-bit guests may lie above 4 GiB.
pub const PAE_PGDIR_ABOVE_4GB: u32 = 4;
/// `mmu_update` can keep accessed and dirty bits.
pub const MMU_PT_UPDATE_PRESERVE_AD: u32 = 5;
/// Help with high memory: clearing and copying pages.
pub const HIGHMEM_ASSIST: u32 = 6;
/// Available bits of entries that map grants are the guest's.
pub const GNTTAB_MAP_AVAIL_BITS: u32 = 7;
/// The guest is the control domain.
pub const DOM0: u32 = 11;
/// Memory operations know virtual nodes.
pub const MEMORY_OP_VNODE: u32 = 13;
/// Frames are not those of the machine.
pub const NOT_DIRECT_MAPPED: u32 = 16;

/// What this implementation offers.
pub const OFFERED: u32 = 1 << MMU_PT_UPDATE_PRESERVE_AD
    | 1 << HIGHMEM_ASSIST
    | 1 << GNTTAB_MAP_AVAIL_BITS
    | 1 << MEMORY_OP_VNODE
    | 1 << NOT_DIRECT_MAPPED;
