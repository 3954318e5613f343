//! State components of the XSAVE family (SDM vol. 1, 13.1).

/// x87 state.
pub const X87: u64 = 1 << 0;
/// XMM registers and MXCSR.
pub const SSE: u64 = 1 << 1;
/// Upper halves of the YMM registers.
pub const AVX: u64 = 1 << 2;
/// Opmask registers.
pub const OPMASK: u64 = 1 << 5;
/// Upper halves of ZMM0–15.
pub const ZMM_HI256: u64 = 1 << 6;
/// ZMM16–31.
pub const HI16_ZMM: u64 = 1 << 7;
/// Protection-key rights.
pub const PKRU: u64 = 1 << 9;
/// All three AVX-512 components.
pub const AVX512: u64 = OPMASK | ZMM_HI256 | HI16_ZMM;
/// MXCSR after reset.
pub const MXCSR_RESET: u32 = 0x1f80;
/// x87 control word after FNINIT.
pub const FCW_RESET: u16 = 0x037f;
