//! Where the guest wants to be entered.

/// The handler of a trap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TrapInfo {
    pub(crate) flags: u8,
    pub(crate) selector: u16,
    /// Zero: none.
    pub(crate) address: u64,
}

impl TrapInfo {
    /// Events are masked when it is entered.
    pub(crate) fn masks_events(self) -> bool {
        self.flags & ambos_xen_abi::callback::TRAP_MASKS_EVENTS != 0
    }

    /// Whether INT may raise it from this mode: the kernel counts as level 1.
    pub(crate) fn permits_software(self, kernel: bool) -> bool {
        self.flags & ambos_xen_abi::callback::TRAP_DPL >= if kernel { 1 } else { 3 }
    }
}

/// One callback.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Callback {
    /// Zero: none.
    pub(crate) address: u64,
    pub(crate) masks_events: bool,
}

/// All callbacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Callbacks {
    pub(crate) event: u64,
    pub(crate) failsafe: Callback,
    pub(crate) syscall: Callback,
    pub(crate) syscall32: Callback,
    pub(crate) sysenter: Callback,
}
