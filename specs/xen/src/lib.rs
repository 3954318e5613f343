//! The interface between Xen and a 64-bit paravirtualized guest, as facts: numbers, layouts, flags.
//!
//! Sources: Xen's `public/*.h` and `public/arch-x86/*.h`. Structures in guest memory are given by the offsets of
//! their fields, because whoever serves a guest reads and writes bytes that the guest may change at
//! any time.
#![forbid(unsafe_code)]

pub mod callback;
pub mod cpuid;
pub mod errno;
pub mod event;
pub mod features;
pub mod grant;
pub mod hypercall;
pub mod memory;
pub mod mmu;
pub mod physdev;
pub mod sched;
pub mod segment;
pub mod shared_info;
pub mod start_info;
pub mod vcpu;
pub mod version;

pub use errno::Errno;
pub use hypercall::Hypercall;

/// The identifier of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainId(pub u16);

impl DomainId {
    /// The control domain, where back ends live.
    pub const CONTROL: Self = Self(0);
    /// The calling domain, in arguments of hypercalls.
    pub const SELF: Self = Self(0x7ff0);
    /// Device memory, as a foreign domain.
    pub const IO: Self = Self(0x7ff1);
    /// Xen itself, as a foreign domain.
    pub const XEN: Self = Self(0x7ff2);
}
