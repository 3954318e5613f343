//! Callbacks and traps (`public/callback.h`, `public/arch-x86/xen.h`, `public/nmi.h`).

/// Kinds of callback.
pub mod kind {
    /// An event is pending.
    pub const EVENT: u16 = 0;
    /// A return to the guest failed.
    pub const FAILSAFE: u16 = 1;
    /// SYSCALL from user mode.
    pub const SYSCALL: u16 = 2;
    /// Obsolete form of [`SYSENTER`].
    pub const SYSENTER_DEPRECATED: u16 = 3;
    /// An NMI.
    pub const NMI: u16 = 4;
    /// SYSENTER from user mode.
    pub const SYSENTER: u16 = 5;
    /// SYSCALL from 32-bit user mode.
    pub const SYSCALL32: u16 = 7;
}

/// Register a callback.
pub const REGISTER: u64 = 0;
/// Unregister one.
pub const UNREGISTER: u64 = 1;
/// Flag: events are masked when it is called.
pub const MASK_EVENTS: u16 = 1;

/// Bytes of `struct trap_info`: vector, flags, CS, address.
pub const TRAP_INFO_SIZE: u64 = 16;
/// Trap flags: privilege level that may raise it by INT.
pub const TRAP_DPL: u8 = 3;
/// Trap flags: events are masked when it is delivered.
pub const TRAP_MASKS_EVENTS: u8 = 4;

/// `vm_assist`: enable.
pub const ASSIST_ENABLE: u64 = 0;
/// `vm_assist`: disable.
pub const ASSIST_DISABLE: u64 = 1;
/// Assistance with 4 GiB segments.
pub const ASSIST_4GB_SEGMENTS: u64 = 0;
/// Assistance with 4 GiB segments, with notification.
pub const ASSIST_4GB_SEGMENTS_NOTIFY: u64 = 1;
/// Emulation of writes to page tables.
pub const ASSIST_WRITABLE_PAGETABLES: u64 = 2;
/// Top-level tables above 4 GiB.
pub const ASSIST_PAE_EXTENDED_CR3: u64 = 3;
/// The I/O privilege level is in the flags, as on a processor.
pub const ASSIST_ARCHITECTURAL_IOPL: u64 = 4;
/// Run-state updates are marked.
pub const ASSIST_RUNSTATE_UPDATE_FLAG: u64 = 5;
/// User mode does not see the machine-to-physical table.
pub const ASSIST_M2P_STRICT: u64 = 32;

/// Register an NMI callback.
pub const NMI_REGISTER: u64 = 0;
/// Unregister it.
pub const NMI_UNREGISTER: u64 = 1;
