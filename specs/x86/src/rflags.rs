//! RFLAGS (SDM vol. 1, 3.4.3).

use bitflags::bitflags;

bitflags! {
    /// The flags register.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct RFlags: u64 {
        /// Carry.
        const CF = 1 << 0;
        /// Always one.
        const FIXED = 1 << 1;
        /// Parity.
        const PF = 1 << 2;
        /// Auxiliary carry.
        const AF = 1 << 4;
        /// Zero.
        const ZF = 1 << 6;
        /// Sign.
        const SF = 1 << 7;
        /// Trap: single step.
        const TF = 1 << 8;
        /// Interrupts enabled.
        const IF = 1 << 9;
        /// Direction of string instructions.
        const DF = 1 << 10;
        /// Overflow.
        const OF = 1 << 11;
        /// I/O privilege level, two bits.
        const IOPL = 3 << 12;
        /// Nested task.
        const NT = 1 << 14;
        /// Resume: suppresses instruction breakpoints once.
        const RF = 1 << 16;
        /// Virtual-8086 mode.
        const VM = 1 << 17;
        /// Alignment check, or SMAP override at CPL < 3.
        const AC = 1 << 18;
        /// Virtual interrupt flag.
        const VIF = 1 << 19;
        /// Virtual interrupt pending.
        const VIP = 1 << 20;
        /// CPUID can be told from this bit being writable.
        const ID = 1 << 21;
    }
}

impl RFlags {
    /// The six arithmetic flags.
    pub const ARITHMETIC: Self = Self::from_bits_retain(
        Self::CF.bits()
            | Self::PF.bits()
            | Self::AF.bits()
            | Self::ZF.bits()
            | Self::SF.bits()
            | Self::OF.bits(),
    );

    /// The I/O privilege level, 0–3.
    pub const fn iopl(self) -> u8 {
        ((self.bits() >> 12) & 3) as u8
    }
}
