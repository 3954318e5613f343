//! Selectors that Xen keeps in every PV guest's descriptor table (`public/arch-x86/xen.h`,
//! `xen-x86_64.h`), and what is reserved.

/// 32-bit user code.
pub const FLAT_RING3_CS32: u16 = 0xe023;
/// 64-bit code of kernel and user.
pub const FLAT_RING3_CS64: u16 = 0xe033;
/// Data and stack of kernel and user.
pub const FLAT_RING3_SS: u16 = 0xe02b;

/// First descriptor-table page that belongs to Xen.
pub const FIRST_RESERVED_GDT_PAGE: usize = 14;
/// First descriptor that belongs to Xen.
pub const FIRST_RESERVED_GDT_ENTRY: usize = FIRST_RESERVED_GDT_PAGE * 512;
/// First byte of the descriptor table that belongs to Xen.
pub const FIRST_RESERVED_GDT_BYTE: usize = FIRST_RESERVED_GDT_ENTRY * 8;

/// Descriptors of Xen's page, by selector without its privilege: 32-bit code, flat data, 64-bit code.
pub const RESERVED_DESCRIPTORS: [(u16, u64); 3] = [
    (FLAT_RING3_CS32 & !7, 0x00cf_fb00_0000_ffff),
    (FLAT_RING3_SS & !7, 0x00cf_f300_0000_ffff),
    (FLAT_RING3_CS64 & !7, 0x00af_fb00_0000_ffff),
];

/// Segment whose base `set_segment_base` sets.
pub mod base {
    /// FS.
    pub const FS: u64 = 0;
    /// The GS base of user mode.
    pub const GS_USER: u64 = 1;
    /// The GS base of kernel mode.
    pub const GS_KERNEL: u64 = 2;
    /// Not a base: the selector that user mode's GS is loaded with.
    pub const GS_USER_SELECTOR: u64 = 3;
}
