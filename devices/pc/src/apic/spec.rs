//! Registers of the local APIC (SDM vol. 3, chapter "Advanced programmable interrupt controller").

use bitflags::bitflags;

/// Numbers of registers: a register is at 16 times its number in the xAPIC's page, and at 0x800
/// plus its number among the model-specific registers (SDM vol. 3, table 12-6).
pub(super) mod register {
    /// Identification.
    pub(in super::super) const ID: u32 = 0x02;
    /// Version.
    pub(in super::super) const VERSION: u32 = 0x03;
    /// Task priority.
    pub(in super::super) const TPR: u32 = 0x08;
    /// Arbitration priority; not in x2APIC mode.
    pub(in super::super) const APR: u32 = 0x09;
    /// Processor priority.
    pub(in super::super) const PPR: u32 = 0x0a;
    /// End of interrupt.
    pub(in super::super) const EOI: u32 = 0x0b;
    /// Remote read; not in x2APIC mode.
    pub(in super::super) const RRD: u32 = 0x0c;
    /// Logical destination.
    pub(in super::super) const LDR: u32 = 0x0d;
    /// Destination format; not in x2APIC mode.
    pub(in super::super) const DFR: u32 = 0x0e;
    /// Spurious-interrupt vector.
    pub(in super::super) const SVR: u32 = 0x0f;
    /// First of eight in-service registers.
    pub(in super::super) const ISR: u32 = 0x10;
    /// First of eight trigger-mode registers.
    pub(in super::super) const TMR: u32 = 0x18;
    /// First of eight interrupt-request registers.
    pub(in super::super) const IRR: u32 = 0x20;
    /// Error status.
    pub(in super::super) const ESR: u32 = 0x28;
    /// Interrupt command; the low half in xAPIC mode.
    pub(in super::super) const ICR: u32 = 0x30;
    /// High half of the interrupt command; not in x2APIC mode.
    pub(in super::super) const ICR_HIGH: u32 = 0x31;
    /// First entry of the local vector table.
    pub(in super::super) const LVT_FIRST: u32 = 0x32;
    /// Last entry of the local vector table.
    pub(in super::super) const LVT_LAST: u32 = 0x37;
    /// Initial count of the timer.
    pub(in super::super) const INITIAL_COUNT: u32 = 0x38;
    /// Current count of the timer.
    pub(in super::super) const CURRENT_COUNT: u32 = 0x39;
    /// Divide configuration of the timer.
    pub(in super::super) const DIVIDE: u32 = 0x3e;
    /// Self-IPI; only in x2APIC mode.
    pub(in super::super) const SELF_IPI: u32 = 0x3f;
}

/// Entries of the local vector table in the order of their registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Lvt {
    Timer = 0,
    Lint0 = 3,
    Lint1 = 4,
    Error = 5,
}

/// Number of entries: timer, thermal sensor, performance counters, LINT0, LINT1, error.
pub(super) const LVT_ENTRIES: usize = 6;
/// Bits of each entry that can be written.
pub(super) const LVT_WRITABLE: [u32; LVT_ENTRIES] =
    [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
/// Mask bit of an entry.
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// Version register: integrated APIC, number of the last table entry.
pub(super) const VERSION: u32 = 0x14 | (LVT_ENTRIES as u32 - 1) << 16;

/// Software enable in the spurious-interrupt vector register.
pub(super) const SVR_ENABLED: u32 = 1 << 8;
/// Bits of the spurious-interrupt vector register that can be written.
pub(super) const SVR_WRITABLE: u32 = 0x3ff;
/// Value of the spurious-interrupt vector register after reset.
pub(super) const SVR_RESET: u32 = 0xff;

/// Bits of the xAPIC's logical destination register.
pub(super) const LDR_WRITABLE: u32 = 0xff00_0000;
/// Bits of the destination format register that read as one.
pub(super) const DFR_ONES: u32 = 0x0fff_ffff;
/// Model field of the destination format register: flat.
pub(super) const DFR_FLAT: u32 = 0xf;

/// Bits of the low half of an interrupt command that can be written.
pub(super) const ICR_WRITABLE: u32 = 0x000c_cfff;
/// Reserved bits of an interrupt command in x2APIC mode.
pub(super) const ICR_RESERVED: u64 = 0xfff3_2000;

/// Timer modes in the timer's table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl TimerMode {
    /// The mode field of a table entry; the reserved value stops the timer like one-shot.
    pub(super) const fn of(entry: u32) -> Self {
        match entry >> 17 & 3 {
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::OneShot,
        }
    }
}

/// How an interrupt message is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the architecture's")]
pub enum DeliveryMode {
    Fixed,
    LowestPriority,
    Smi,
    Nmi,
    Init,
    StartUp,
    ExtInt,
}

impl DeliveryMode {
    /// The three-bit field of interrupt commands, table entries and messages.
    pub const fn from_field(field: u32) -> Option<Self> {
        match field {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::StartUp),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }
}

bitflags! {
    /// IA32_APIC_BASE.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Base: u64 {
        /// This is the bootstrap processor.
        const BOOTSTRAP = 1 << 8;
        /// x2APIC mode.
        const X2APIC = 1 << 10;
        /// The APIC is enabled.
        const ENABLED = 1 << 11;
        /// Address of the xAPIC's page.
        const ADDRESS = 0x000f_ffff_ffff_f000;
    }
}

bitflags! {
    /// Error status.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Errors: u32 {
        /// A message with a vector below 16 was to be sent.
        const SEND_ILLEGAL_VECTOR = 1 << 5;
        /// A message with a vector below 16 arrived.
        const RECEIVE_ILLEGAL_VECTOR = 1 << 6;
        /// A register was accessed that does not exist.
        const ILLEGAL_REGISTER = 1 << 7;
    }
}
