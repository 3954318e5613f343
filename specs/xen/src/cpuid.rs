//! Xen's CPUID leaves (`public/arch-x86/cpuid.h`).

/// First leaf.
pub const BASE: u32 = 0x4000_0000;
/// "XenVMMXenVMM" in EBX, ECX, EDX of the first leaf.
pub const SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
/// Leaf with the version.
pub const VERSION: u32 = BASE + 1;
/// Leaf with features: number of hypercall pages, MSR, features.
pub const FEATURES: u32 = BASE + 2;
/// Leaf with time information.
pub const TIME: u32 = BASE + 3;
/// Leaf for HVM guests.
pub const HVM: u32 = BASE + 4;
/// Leaf for PV guests: width of machine addresses.
pub const PV: u32 = BASE + 5;
/// The MSR that a hypercall page is asked for with, in [`FEATURES`].
pub const HYPERCALL_MSR: u32 = 0x4000_0000;
/// [`FEATURES`], ECX: `mmu_update` can keep accessed and dirty bits.
pub const MMU_PT_UPDATE_PRESERVE_AD: u32 = 1;
/// The counter is never emulated.
pub const TSC_MODE_NEVER_EMULATE: u32 = 2;
/// What precedes CPUID so that Xen serves it: UD2 and "xen".
pub const FORCED_EMULATION_PREFIX: [u8; 5] = [0x0f, 0x0b, b'x', b'e', b'n'];
