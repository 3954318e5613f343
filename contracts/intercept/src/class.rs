//! What kinds of interception there are, and their place in a ledger.

/// Privileged or sensitive instructions, by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "each variant's label says what it is")]
pub enum Privileged {
    ControlRegisterRead,
    ControlRegisterWrite,
    AddressSpaceSwitch,
    DebugRegister,
    MsrRead,
    MsrWrite,
    Cpuid,
    TimeStampCounter,
    Halt,
    InvalidateTlb,
    InterruptFlag,
    DescriptorTable,
    SegmentLoad,
    FarTransfer,
    InterruptReturn,
    SoftwareInterrupt,
    SystemCall,
    SystemReturn,
    CacheControl,
    ExtendedControl,
    ExtendedState,
    Flags,
    Other,
}

impl Privileged {
    /// All classes with the labels that reports use.
    pub const TABLE: [(Self, &'static str); 23] = [
        (Self::ControlRegisterRead, "control register read"),
        (Self::ControlRegisterWrite, "control register write"),
        (Self::AddressSpaceSwitch, "address space switch"),
        (Self::DebugRegister, "debug register access"),
        (Self::MsrRead, "MSR read"),
        (Self::MsrWrite, "MSR write"),
        (Self::Cpuid, "CPUID"),
        (Self::TimeStampCounter, "time-stamp counter read"),
        (Self::Halt, "HLT"),
        (Self::InvalidateTlb, "TLB invalidation"),
        (Self::InterruptFlag, "interrupt flag change"),
        (Self::DescriptorTable, "descriptor table access"),
        (Self::SegmentLoad, "segment load"),
        (Self::FarTransfer, "far transfer"),
        (Self::InterruptReturn, "IRET"),
        (Self::SoftwareInterrupt, "software interrupt"),
        (Self::SystemCall, "SYSCALL/SYSENTER"),
        (Self::SystemReturn, "SYSRET/SYSEXIT"),
        (Self::CacheControl, "cache control"),
        (Self::ExtendedControl, "XCR access"),
        (Self::ExtendedState, "extended state save/restore"),
        (Self::Flags, "POPF/PUSHF"),
        (Self::Other, "other privileged"),
    ];
}

/// A device as far as accounting is concerned: its row in the machine's device table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device(u8);

impl Device {
    /// How many devices one machine can account for; later ones share the last row.
    pub const MAX: usize = 64;
    /// Accesses that no device claimed.
    pub const NONE: Self = Self(0);

    /// The device in row `row` of the table; rows past the end share the last one.
    pub const fn new(row: usize) -> Self {
        Self(if row < Self::MAX { row as u8 } else { Self::MAX as u8 - 1 })
    }

    /// The row in the machine's device table.
    pub const fn row(self) -> usize {
        self.0 as usize
    }
}

/// One kind of interception.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Intercept {
    /// A privileged or sensitive instruction.
    Privileged(Privileged),
    /// A port access to a device.
    PortIo(Device),
    /// A memory-mapped access to a device.
    Mmio(Device),
    /// A hypercall, by its number in the ABI.
    Hypercall(u8),
    /// An exception delivered to the guest, by vector.
    Exception(u8),
    /// A maskable or non-maskable interrupt delivered to the guest.
    Interrupt,
    /// A miss of the software TLB served by a page walk.
    TlbFill,
    /// A block of guest code decoded or translated.
    Translation,
    /// Cached code dropped because the guest wrote to it.
    CodeInvalidation,
    /// Other vCPUs were asked to drop their write translations, because this one begins to cache code.
    Shootdown,
    /// The vCPU slept until there was something to do.
    Idle,
}

const PRIVILEGED: usize = 0;
const PORT_IO: usize = PRIVILEGED + Privileged::TABLE.len();
const MMIO: usize = PORT_IO + Device::MAX;
const HYPERCALL: usize = MMIO + Device::MAX;
const EXCEPTION: usize = HYPERCALL + 64;
const REST: usize = EXCEPTION + 32;

/// Number of rows in a ledger.
pub(crate) const ROWS: usize = REST + 6;

impl Intercept {
    /// The row of this kind in a ledger.
    #[inline]
    pub(crate) const fn row(self) -> usize {
        match self {
            Self::Privileged(class) => PRIVILEGED + class as usize,
            Self::PortIo(device) => PORT_IO + device.row(),
            Self::Mmio(device) => MMIO + device.row(),
            Self::Hypercall(number) => HYPERCALL + if number < 64 { number as usize } else { 63 },
            Self::Exception(vector) => EXCEPTION + (vector & 31) as usize,
            Self::Interrupt => REST,
            Self::TlbFill => REST + 1,
            Self::Translation => REST + 2,
            Self::CodeInvalidation => REST + 3,
            Self::Shootdown => REST + 4,
            Self::Idle => REST + 5,
        }
    }

    /// The kind that a ledger's row counts.
    pub(crate) const fn from_row(row: usize) -> Self {
        match row {
            _ if row < PORT_IO => Self::Privileged(Privileged::TABLE[row].0),
            _ if row < MMIO => Self::PortIo(Device::new(row - PORT_IO)),
            _ if row < HYPERCALL => Self::Mmio(Device::new(row - MMIO)),
            _ if row < EXCEPTION => Self::Hypercall((row - HYPERCALL) as u8),
            _ if row < REST => Self::Exception((row - EXCEPTION) as u8),
            _ => match row - REST {
                0 => Self::Interrupt,
                1 => Self::TlbFill,
                2 => Self::Translation,
                3 => Self::CodeInvalidation,
                4 => Self::Shootdown,
                _ => Self::Idle,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_kinds_are_inverse() {
        for row in 0..ROWS {
            assert_eq!(Intercept::from_row(row).row(), row);
        }
        for (index, (class, _)) in Privileged::TABLE.iter().enumerate() {
            assert_eq!(*class as usize, index);
        }
    }
}
