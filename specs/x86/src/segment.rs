//! Segment descriptors and selectors (SDM vol. 3A, 3.4).

/// Attribute bits of a segment, in the layout of the second descriptor word's bits 8–23 (also that
/// of VMX's access rights): type 0–3, S 4, DPL 5–6, P 7, AVL 12, L 13, D/B 14, G 15.
pub mod attr {
    /// Type field.
    pub const TYPE: u32 = 0xf;
    /// Accessed (code and data segments).
    pub const ACCESSED: u32 = 1 << 0;
    /// Writable (data), readable (code).
    pub const READ_WRITE: u32 = 1 << 1;
    /// Expand-down (data), conforming (code).
    pub const DOWN_CONFORMING: u32 = 1 << 2;
    /// Code segment.
    pub const CODE: u32 = 1 << 3;
    /// Code or data segment; clear for system segments.
    pub const S: u32 = 1 << 4;
    /// Shift of the descriptor privilege level.
    pub const DPL_SHIFT: u32 = 5;
    /// Present.
    pub const P: u32 = 1 << 7;
    /// 64-bit code segment.
    pub const L: u32 = 1 << 13;
    /// Default operand size or stack size.
    pub const DB: u32 = 1 << 14;
    /// Granularity: the limit counts 4 KiB pages.
    pub const G: u32 = 1 << 15;
    /// Loaded with a null selector: unusable outside 64-bit mode (VMX's convention).
    pub const UNUSABLE: u32 = 1 << 16;
}

/// System-segment and gate types (SDM table 3-2).
pub mod system_type {
    /// 16-bit TSS, available.
    pub const TSS16_AVAILABLE: u32 = 1;
    /// Local descriptor table.
    pub const LDT: u32 = 2;
    /// 16-bit TSS, busy.
    pub const TSS16_BUSY: u32 = 3;
    /// 16-bit call gate.
    pub const CALL_GATE16: u32 = 4;
    /// Task gate.
    pub const TASK_GATE: u32 = 5;
    /// 16-bit interrupt gate.
    pub const INTERRUPT_GATE16: u32 = 6;
    /// 16-bit trap gate.
    pub const TRAP_GATE16: u32 = 7;
    /// 32- or 64-bit TSS, available.
    pub const TSS_AVAILABLE: u32 = 9;
    /// 32- or 64-bit TSS, busy.
    pub const TSS_BUSY: u32 = 11;
    /// 32- or 64-bit call gate.
    pub const CALL_GATE: u32 = 12;
    /// 32- or 64-bit interrupt gate.
    pub const INTERRUPT_GATE: u32 = 14;
    /// 32- or 64-bit trap gate.
    pub const TRAP_GATE: u32 = 15;
}

/// Splits a descriptor's eight bytes into base, byte limit and attributes.
pub const fn decode(descriptor: u64) -> (u64, u32, u32) {
    let base = (descriptor >> 16 & 0xff_ffff) | (descriptor >> 56 & 0xff) << 24;
    let raw = (descriptor & 0xffff) as u32 | ((descriptor >> 32) as u32 & 0xf_0000);
    let attributes = ((descriptor >> 40) as u32) & 0xf0ff;
    let limit = if attributes & attr::G != 0 { raw << 12 | 0xfff } else { raw };
    (base, limit, attributes)
}
