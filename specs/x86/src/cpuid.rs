//! CPUID leaves and feature bits (SDM vol. 2A, CPUID; APM vol. 3, appendix E).

/// Leaf 1, ECX.
pub mod leaf1_ecx {
    /// MONITOR/MWAIT.
    pub const MONITOR: u32 = 1 << 3;
    /// VMX.
    pub const VMX: u32 = 1 << 5;
    /// CMPXCHG16B.
    pub const CX16: u32 = 1 << 13;
    /// PCIDs.
    pub const PCID: u32 = 1 << 17;
    /// x2APIC.
    pub const X2APIC: u32 = 1 << 21;
    /// The local APIC's timer has TSC-deadline mode.
    pub const TSC_DEADLINE: u32 = 1 << 24;
    /// XSAVE.
    pub const XSAVE: u32 = 1 << 26;
    /// CR4.OSXSAVE is set.
    pub const OSXSAVE: u32 = 1 << 27;
    /// AVX.
    pub const AVX: u32 = 1 << 28;
    /// RDRAND.
    pub const RDRAND: u32 = 1 << 30;
    /// Running under a hypervisor.
    pub const HYPERVISOR: u32 = 1 << 31;
}

/// Leaf 1, EDX.
pub mod leaf1_edx {
    /// Local APIC present.
    pub const APIC: u32 = 1 << 9;
    /// Several logical processors in this package.
    pub const HTT: u32 = 1 << 28;
}
