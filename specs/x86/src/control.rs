//! Control registers and EFER (SDM vol. 3A, 2.5; APM vol. 2, 3.1).

use bitflags::bitflags;

bitflags! {
    /// CR0.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Cr0: u64 {
        /// Protection enable.
        const PE = 1 << 0;
        /// Monitor coprocessor.
        const MP = 1 << 1;
        /// Emulation: x87 instructions raise #NM.
        const EM = 1 << 2;
        /// Task switched: x87 and SSE instructions raise #NM.
        const TS = 1 << 3;
        /// Extension type, always one.
        const ET = 1 << 4;
        /// Numeric error: x87 errors raise #MF.
        const NE = 1 << 5;
        /// Write protect: supervisor writes obey the read/write bit.
        const WP = 1 << 16;
        /// Alignment mask.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
    }
}

bitflags! {
    /// CR4.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Cr4: u64 {
        /// Virtual-8086 mode extensions.
        const VME = 1 << 0;
        /// Protected-mode virtual interrupts.
        const PVI = 1 << 1;
        /// RDTSC only at CPL 0.
        const TSD = 1 << 2;
        /// Debugging extensions.
        const DE = 1 << 3;
        /// 4 MiB pages with 32-bit paging.
        const PSE = 1 << 4;
        /// Physical address extension.
        const PAE = 1 << 5;
        /// Machine-check enable.
        const MCE = 1 << 6;
        /// Global pages.
        const PGE = 1 << 7;
        /// RDPMC at any CPL.
        const PCE = 1 << 8;
        /// FXSAVE and SSE enabled by the operating system.
        const OSFXSR = 1 << 9;
        /// #XM enabled by the operating system.
        const OSXMMEXCPT = 1 << 10;
        /// SGDT, SIDT, SLDT, SMSW and STR only at CPL 0.
        const UMIP = 1 << 11;
        /// 57-bit linear addresses.
        const LA57 = 1 << 12;
        /// RDFSBASE and its relatives.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE and XCR0 enabled by the operating system.
        const OSXSAVE = 1 << 18;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 20;
        /// Supervisor-mode access prevention.
        const SMAP = 1 << 21;
        /// Protection keys for user pages.
        const PKE = 1 << 22;
    }
}

bitflags! {
    /// The extended-feature-enable register, MSR 0xC000_0080.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Efer: u64 {
        /// SYSCALL and SYSRET enabled.
        const SCE = 1 << 0;
        /// Long mode enabled.
        const LME = 1 << 8;
        /// Long mode active.
        const LMA = 1 << 10;
        /// No-execute enabled.
        const NXE = 1 << 11;
        /// Secure virtual machine enable.
        const SVME = 1 << 12;
        /// Fast FXSAVE/FXRSTOR.
        const FFXSR = 1 << 14;
        /// Automatic IBRS (AMD): indirect-branch isolation without per-entry work.
        const AUTOIBRS = 1 << 21;
    }
}
