//! Event channels (`public/event_channel.h`).

/// Operations.
pub mod op {
    /// Bind a port to a remote unbound one.
    pub const BIND_INTERDOMAIN: u64 = 0;
    /// Bind a virtual interrupt.
    pub const BIND_VIRQ: u64 = 1;
    /// Bind a physical interrupt.
    pub const BIND_PIRQ: u64 = 2;
    /// Close a port.
    pub const CLOSE: u64 = 3;
    /// Notify the other end.
    pub const SEND: u64 = 4;
    /// Ask for a port's state.
    pub const STATUS: u64 = 5;
    /// Make a port for another domain to bind to.
    pub const ALLOC_UNBOUND: u64 = 6;
    /// Bind a port to signal a vCPU of the own domain.
    pub const BIND_IPI: u64 = 7;
    /// Move a port to another vCPU.
    pub const BIND_VCPU: u64 = 8;
    /// Unmask a port.
    pub const UNMASK: u64 = 9;
    /// Close everything.
    pub const RESET: u64 = 10;
    /// Switch a vCPU to the FIFO form.
    pub const INIT_CONTROL: u64 = 11;
    /// Give the FIFO form another page of event words.
    pub const EXPAND_ARRAY: u64 = 12;
    /// Set a port's priority.
    pub const SET_PRIORITY: u64 = 13;
}

/// Virtual interrupts.
pub mod virq {
    /// The vCPU's timer.
    pub const TIMER: u32 = 0;
    /// Debugging.
    pub const DEBUG: u32 = 1;
    /// The emergency console.
    pub const CONSOLE: u32 = 2;
    /// The performance-monitoring unit.
    pub const XENPMU: u32 = 13;
    /// How many there are.
    pub const COUNT: u32 = 24;
    /// Whether each vCPU has its own.
    pub const fn is_per_vcpu(virq: u32) -> bool {
        matches!(virq, TIMER | DEBUG | XENPMU)
    }
}

/// States that [`op::STATUS`] returns.
pub mod status {
    /// Not in use.
    pub const CLOSED: u32 = 0;
    /// Waits for another domain.
    pub const UNBOUND: u32 = 1;
    /// Connected to another domain.
    pub const INTERDOMAIN: u32 = 2;
    /// A physical interrupt.
    pub const PIRQ: u32 = 3;
    /// A virtual interrupt.
    pub const VIRQ: u32 = 4;
    /// Signals a vCPU.
    pub const IPI: u32 = 5;
}

/// Ports of the two-level form.
pub const TWO_LEVEL_PORTS: u32 = 4096;

/// The FIFO form.
pub mod fifo {
    /// Ports.
    pub const PORTS: u32 = 1 << 17;
    /// Event words in a page.
    pub const WORDS_PER_PAGE: u32 = 1024;
    /// Priorities; the lowest number is the most urgent.
    pub const PRIORITIES: u32 = 16;
    /// Priority of new ports.
    pub const DEFAULT_PRIORITY: u32 = 7;
    /// Event word: pending.
    pub const PENDING: u32 = 1 << 31;
    /// Event word: masked.
    pub const MASKED: u32 = 1 << 30;
    /// Event word: in a queue.
    pub const LINKED: u32 = 1 << 29;
    /// Event word: Xen is changing it.
    pub const BUSY: u32 = 1 << 28;
    /// Event word: the next port in the queue.
    pub const LINK_MASK: u32 = (1 << 17) - 1;
    /// Control block: bit for each priority with events, offset 0.
    pub const READY: u64 = 0;
    /// Control block: heads of the queues, four bytes each.
    pub const HEADS: u64 = 8;
    /// Bytes of a control block.
    pub const CONTROL_SIZE: u64 = 8 + 4 * PRIORITIES as u64;
}
