//! `vcpu_op` (`public/vcpu.h`) and the initial state of a vCPU (`public/arch-x86/xen.h`).

/// Operations.
pub mod op {
    /// Set the state of a vCPU that is down.
    pub const INITIALISE: u64 = 0;
    /// Let it run.
    pub const UP: u64 = 1;
    /// Stop it.
    pub const DOWN: u64 = 2;
    /// Whether it runs.
    pub const IS_UP: u64 = 3;
    /// How long it was in each state.
    pub const GET_RUNSTATE_INFO: u64 = 4;
    /// Where to write that.
    pub const REGISTER_RUNSTATE_MEMORY_AREA: u64 = 5;
    /// Start a periodic timer.
    pub const SET_PERIODIC_TIMER: u64 = 6;
    /// Stop it.
    pub const STOP_PERIODIC_TIMER: u64 = 7;
    /// Start a timer that fires once.
    pub const SET_SINGLESHOT_TIMER: u64 = 8;
    /// Stop it.
    pub const STOP_SINGLESHOT_TIMER: u64 = 9;
    /// Where the vCPU's information goes.
    pub const REGISTER_VCPU_INFO: u64 = 10;
    /// Send it an NMI.
    pub const SEND_NMI: u64 = 11;
    /// Its physical identifiers.
    pub const GET_PHYSID: u64 = 12;
    /// Where to write its time information as well.
    pub const REGISTER_VCPU_TIME_MEMORY_AREA: u64 = 13;
}

/// Flag of a single-shot timer: an instant that has passed is an error.
pub const SINGLESHOT_FUTURE: u32 = 1;
/// Shortest period of a periodic timer, in nanoseconds.
pub const MIN_PERIOD: u64 = 1_000_000;

/// Run states.
pub mod runstate {
    /// On a processor.
    pub const RUNNING: u32 = 0;
    /// Wants a processor.
    pub const RUNNABLE: u32 = 1;
    /// Waits for an event.
    pub const BLOCKED: u32 = 2;
    /// Down.
    pub const OFFLINE: u32 = 3;
    /// Bytes of `struct vcpu_runstate_info`: state, entry time, four times.
    pub const SIZE: u64 = 48;
    /// `state_entry_time`: an update is under way.
    pub const UPDATE: u64 = 1 << 63;
}

/// Offsets in `struct vcpu_guest_context` of a 64-bit guest.
pub mod context {
    /// x87 and SSE state in FXSAVE's layout.
    pub const FPU: usize = 0;
    /// Flags.
    pub const FLAGS: usize = 512;
    /// Registers, R15 first.
    pub const REGISTERS: usize = 520;
    /// Table of 256 traps.
    pub const TRAPS: usize = 720;
    /// Base of the local descriptor table.
    pub const LDT_BASE: usize = 4816;
    /// Its entries.
    pub const LDT_ENTRIES: usize = 4824;
    /// Sixteen frames of the global descriptor table.
    pub const GDT_FRAMES: usize = 4832;
    /// Its entries.
    pub const GDT_ENTRIES: usize = 4960;
    /// Kernel stack: SS, SP.
    pub const KERNEL_STACK: usize = 4968;
    /// Eight control registers.
    pub const CONTROL: usize = 4984;
    /// Eight debug registers.
    pub const DEBUG: usize = 5048;
    /// Event, failsafe and system-call callbacks.
    pub const CALLBACKS: usize = 5112;
    /// Assistance bits.
    pub const VM_ASSIST: usize = 5136;
    /// FS base, kernel's GS base, user's GS base.
    pub const BASES: usize = 5144;
    /// Bytes.
    pub const SIZE: usize = 5168;

    /// Flag: starts in kernel mode.
    pub const IN_KERNEL: u64 = 1 << 2;
    /// Flag: the failsafe callback masks events.
    pub const FAILSAFE_DISABLES_EVENTS: u64 = 1 << 3;
    /// Flag: the system-call callback masks events.
    pub const SYSCALL_DISABLES_EVENTS: u64 = 1 << 4;
    /// Flag of an `iret` frame: RCX and R11 are as SYSRET leaves them.
    pub const IN_SYSCALL: u64 = 1 << 8;
}
