//! The page shared between Xen and a domain (`public/xen.h`, 64-bit layout).

/// vCPUs whose information lies in the page.
pub const LEGACY_VCPUS: u32 = 32;

/// Offsets in `struct vcpu_info`.
pub mod vcpu {
    /// Bytes of one.
    pub const SIZE: u64 = 64;
    /// An event is pending (one byte).
    pub const UPCALL_PENDING: u64 = 0;
    /// Events are masked (one byte).
    pub const UPCALL_MASK: u64 = 1;
    /// Words of pending events (two-level form).
    pub const PENDING_SELECTOR: u64 = 8;
    /// Address of the last page fault.
    pub const CR2: u64 = 16;
    /// Time information.
    pub const TIME: u64 = 32;
}

/// Offsets in `struct vcpu_time_info`.
pub mod time {
    /// Bytes.
    pub const SIZE: u64 = 32;
    /// Odd while it changes.
    pub const VERSION: u64 = 0;
    /// Time-stamp counter at the last update.
    pub const TSC_TIMESTAMP: u64 = 8;
    /// Nanoseconds at the last update.
    pub const SYSTEM_TIME: u64 = 16;
    /// Multiplier.
    pub const TSC_TO_SYSTEM_MUL: u64 = 24;
    /// Shift before multiplying, signed.
    pub const TSC_SHIFT: u64 = 28;
    /// Flags.
    pub const FLAGS: u64 = 29;
    /// The counter is the same on all vCPUs and never stops.
    pub const TSC_STABLE: u8 = 1;
}

/// Pending events (two-level form).
pub const EVENT_PENDING: u64 = 2048;
/// Masked events.
pub const EVENT_MASK: u64 = 2560;
/// Wall clock: odd while it changes.
pub const WC_VERSION: u64 = 3072;
/// Wall clock at system time zero: seconds, low half.
pub const WC_SEC: u64 = 3076;
/// Nanoseconds.
pub const WC_NSEC: u64 = 3080;
/// Seconds, high half.
pub const WC_SEC_HIGH: u64 = 3084;
/// Highest valid frame of the guest's list of frames.
pub const MAX_PFN: u64 = 3088;
/// Why there was an NMI.
pub const NMI_REASON: u64 = 3104;
