//! Exceptions and their vectors (SDM vol. 3A, 6.3 and table 6-1).

/// An exception or interrupt vector defined by the architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Vector {
    /// #DE, divide error.
    DivideError = 0,
    /// #DB, debug.
    Debug = 1,
    /// Non-maskable interrupt.
    Nmi = 2,
    /// #BP, breakpoint (INT3).
    Breakpoint = 3,
    /// #OF, overflow (INTO).
    Overflow = 4,
    /// #BR, BOUND range exceeded.
    BoundRange = 5,
    /// #UD, invalid opcode.
    InvalidOpcode = 6,
    /// #NM, device not available.
    DeviceNotAvailable = 7,
    /// #DF, double fault; error code 0.
    DoubleFault = 8,
    /// #TS, invalid TSS; selector error code.
    InvalidTss = 10,
    /// #NP, segment not present; selector error code.
    SegmentNotPresent = 11,
    /// #SS, stack-segment fault; selector error code.
    StackFault = 12,
    /// #GP, general protection; selector error code.
    GeneralProtection = 13,
    /// #PF, page fault; page-fault error code, address in CR2.
    PageFault = 14,
    /// #MF, x87 floating-point error.
    X87FloatingPoint = 16,
    /// #AC, alignment check; error code 0.
    AlignmentCheck = 17,
    /// #MC, machine check.
    MachineCheck = 18,
    /// #XM, SIMD floating-point error.
    SimdFloatingPoint = 19,
}

impl Vector {
    /// Whether delivery pushes an error code.
    pub const fn has_error_code(self) -> bool {
        matches!(
            self,
            Self::DoubleFault
                | Self::InvalidTss
                | Self::SegmentNotPresent
                | Self::StackFault
                | Self::GeneralProtection
                | Self::PageFault
                | Self::AlignmentCheck
        )
    }

    /// Whether two such exceptions in a row make a double fault (SDM table 6-5).
    pub const fn is_contributory(self) -> bool {
        matches!(
            self,
            Self::DivideError
                | Self::InvalidTss
                | Self::SegmentNotPresent
                | Self::StackFault
                | Self::GeneralProtection
        )
    }

    /// The manuals' mnemonic.
    pub const fn mnemonic(self) -> &'static str {
        match self {
            Self::DivideError => "#DE",
            Self::Debug => "#DB",
            Self::Nmi => "NMI",
            Self::Breakpoint => "#BP",
            Self::Overflow => "#OF",
            Self::BoundRange => "#BR",
            Self::InvalidOpcode => "#UD",
            Self::DeviceNotAvailable => "#NM",
            Self::DoubleFault => "#DF",
            Self::InvalidTss => "#TS",
            Self::SegmentNotPresent => "#NP",
            Self::StackFault => "#SS",
            Self::GeneralProtection => "#GP",
            Self::PageFault => "#PF",
            Self::X87FloatingPoint => "#MF",
            Self::AlignmentCheck => "#AC",
            Self::MachineCheck => "#MC",
            Self::SimdFloatingPoint => "#XM",
        }
    }
}

/// Bits of a page-fault error code (SDM vol. 3A, 4.7).
pub mod page_fault {
    /// The page was present: a permission fault.
    pub const PRESENT: u32 = 1 << 0;
    /// The access was a write.
    pub const WRITE: u32 = 1 << 1;
    /// The access was made in user mode.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit was set in a paging-structure entry.
    pub const RESERVED: u32 = 1 << 3;
    /// The access was an instruction fetch.
    pub const FETCH: u32 = 1 << 4;
    /// A protection key forbade the access.
    pub const PROTECTION_KEY: u32 = 1 << 5;
}
