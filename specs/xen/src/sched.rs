//! `sched_op` (`public/sched.h`).

/// Give up the processor.
pub const YIELD: u64 = 0;
/// Sleep until an event.
pub const BLOCK: u64 = 1;
/// End the domain.
pub const SHUTDOWN: u64 = 2;
/// Sleep until one of some ports is pending.
pub const POLL: u64 = 3;
/// End another domain.
pub const REMOTE_SHUTDOWN: u64 = 4;
/// Tell the reason of a shutdown to come.
pub const SHUTDOWN_CODE: u64 = 5;
/// A watchdog.
pub const WATCHDOG: u64 = 6;
/// Pin a vCPU.
pub const PIN_OVERRIDE: u64 = 7;
/// Most ports of a [`POLL`].
pub const MAX_POLL_PORTS: u32 = 128;

/// Reasons of a shutdown.
pub mod reason {
    /// Switched off.
    pub const POWEROFF: u32 = 0;
    /// To be started again.
    pub const REBOOT: u32 = 1;
    /// Suspended.
    pub const SUSPEND: u32 = 2;
    /// Crashed.
    pub const CRASH: u32 = 3;
    /// The watchdog.
    pub const WATCHDOG: u32 = 4;
    /// Start anew with the same state.
    pub const SOFT_RESET: u32 = 5;
}
