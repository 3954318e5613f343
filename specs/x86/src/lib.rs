//! Facts of the x86-64 architecture as types and constants.
//!
//! Sources: Intel 64 and IA-32 Architectures Software Developer's Manual (SDM), AMD64
//! Architecture Programmer's Manual (APM). No behaviour lives here.
#![forbid(unsafe_code)]

pub mod control;
pub mod cpuid;
pub mod exception;
pub mod msr;
pub mod paging;
pub mod rflags;
pub mod segment;
pub mod xstate;

pub use control::{Cr0, Cr4, Efer};
pub use exception::Vector;
pub use rflags::RFlags;

/// Size of the smallest page, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Register numbers of the sixteen general-purpose registers, as instructions encode them
/// (SDM vol. 2, table 2-2 with REX).
pub mod gpr {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
    /// R8.
    pub const R8: usize = 8;
    /// R9.
    pub const R9: usize = 9;
    /// R10.
    pub const R10: usize = 10;
    /// R11.
    pub const R11: usize = 11;
    /// R12.
    pub const R12: usize = 12;
    /// R13.
    pub const R13: usize = 13;
    /// R14.
    pub const R14: usize = 14;
    /// R15.
    pub const R15: usize = 15;
}
