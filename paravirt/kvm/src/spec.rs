//! The interface's numbers (Linux, `Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst`).

use bitflags::bitflags;

/// First leaf of CPUID: the signature.
pub(crate) const SIGNATURE_LEAF: u32 = 0x4000_0000;
/// Leaf of the features.
pub(crate) const FEATURES_LEAF: u32 = 0x4000_0001;
/// Leaf of frequencies in kilohertz: time-stamp counter, then local APIC timer.
pub(crate) const TIMING_LEAF: u32 = 0x4000_0010;
/// What EBX, ECX and EDX of the first leaf spell.
pub(crate) const SIGNATURE: [u8; 12] = *b"KVMKVMKVM\0\0\0";

bitflags! {
    /// What a guest may use.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Features: u32 {
        /// Writes to port 0x80 are not needed for delays.
        const NO_IO_DELAY = 1 << 1;
        /// The clock, with the registers below.
        const CLOCK = 1 << 3;
        const STEAL_TIME = 1 << 5;
        const LAZY_END_OF_INTERRUPT = 1 << 6;
        const TLB_FLUSH = 1 << 9;
        const SEND_IPI = 1 << 11;
        const POLL_CONTROL = 1 << 12;
        const SCHED_YIELD = 1 << 13;
        /// The clock never jumps from vCPU to vCPU.
        const STABLE_CLOCK = 1 << 24;
    }
}

/// Model-specific registers.
pub(crate) mod register {
    /// Where to write the time of day at the machine's start.
    pub(crate) const WALL_CLOCK: u32 = 0x4b56_4d00;
    /// Where to write the vCPU's clock; bit 0 switches it on.
    pub(crate) const SYSTEM_TIME: u32 = 0x4b56_4d01;
    /// Where to write the vCPU's stolen time; bit 0 switches it on.
    pub(crate) const STEAL_TIME: u32 = 0x4b56_4d03;
    /// Where the flag of lazy ends of interrupts is; bit 0 switches it on.
    pub(crate) const END_OF_INTERRUPT: u32 = 0x4b56_4d04;
    /// Whether the monitor should look for work for a while before a halted vCPU sleeps.
    pub(crate) const POLL_CONTROL: u32 = 0x4b56_4d05;
    /// Bit 0 of most of them.
    pub(crate) const ENABLED: u64 = 1;
}

/// Hypercalls by number.
pub(crate) mod hypercall {
    pub(crate) const SEND_IPI: u64 = 10;
    pub(crate) const SCHED_YIELD: u64 = 11;
}

/// Hypercall results: no such call, not from there, a bad argument.
pub(crate) mod error {
    pub(crate) const NO_CALL: u64 = -1000i64 as u64;
    pub(crate) const NOT_PERMITTED: u64 = -1i64 as u64;
    pub(crate) const INVALID: u64 = -22i64 as u64;
}
