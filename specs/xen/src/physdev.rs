//! `physdev_op` (`public/physdev.h`).

/// End of a physical interrupt.
pub const EOI: u64 = 12;
/// Ask for an interrupt's flags.
pub const IRQ_STATUS_QUERY: u64 = 5;
/// Set the I/O privilege level.
pub const SET_IOPL: u64 = 6;
/// Set the I/O bitmap.
pub const SET_IOBITMAP: u64 = 7;
/// Read the I/O APIC.
pub const APIC_READ: u64 = 8;
/// Write the I/O APIC.
pub const APIC_WRITE: u64 = 9;
/// Old form of ending an interrupt.
pub const IRQ_UNMASK_NOTIFY: u64 = 4;
/// Where to note which interrupts need an end, first form.
pub const PIRQ_EOI_GMFN_V1: u64 = 17;
/// Where to note which interrupts need an end, second form.
pub const PIRQ_EOI_GMFN_V2: u64 = 28;
/// Most bits of the I/O bitmap.
pub const MAX_IO_PORTS: u32 = 65536;
