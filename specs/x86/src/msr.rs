//! Model-specific registers by number (SDM vol. 4; APM vol. 2, appendix A).

/// Time-stamp counter.
pub const IA32_TSC: u32 = 0x10;
/// Local APIC base and mode.
pub const IA32_APIC_BASE: u32 = 0x1b;
/// Feature control.
pub const IA32_FEATURE_CONTROL: u32 = 0x3a;
/// TSC adjustment.
pub const IA32_TSC_ADJUST: u32 = 0x3b;
/// Speculation control.
pub const IA32_SPEC_CTRL: u32 = 0x48;
/// Prediction command.
pub const IA32_PRED_CMD: u32 = 0x49;
/// Microcode revision.
pub const IA32_BIOS_SIGN_ID: u32 = 0x8b;
/// MTRR capabilities.
pub const IA32_MTRRCAP: u32 = 0xfe;
/// Architectural capabilities.
pub const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
/// CS of SYSENTER.
pub const IA32_SYSENTER_CS: u32 = 0x174;
/// RSP of SYSENTER.
pub const IA32_SYSENTER_ESP: u32 = 0x175;
/// RIP of SYSENTER.
pub const IA32_SYSENTER_EIP: u32 = 0x176;
/// Machine-check capabilities.
pub const IA32_MCG_CAP: u32 = 0x179;
/// Machine-check status.
pub const IA32_MCG_STATUS: u32 = 0x17a;
/// Miscellaneous enables.
pub const IA32_MISC_ENABLE: u32 = 0x1a0;
/// First of the sixteen variable-range MTRR registers.
pub const IA32_MTRR_PHYSBASE0: u32 = 0x200;
/// Last of the sixteen variable-range MTRR registers.
pub const IA32_MTRR_PHYSMASK7: u32 = 0x20f;
/// Fixed-range MTRR, 64 KiB granules.
pub const IA32_MTRR_FIX64K_00000: u32 = 0x250;
/// Fixed-range MTRRs, 16 KiB granules.
pub const IA32_MTRR_FIX16K_80000: u32 = 0x258;
/// Fixed-range MTRRs, 16 KiB granules, second.
pub const IA32_MTRR_FIX16K_A0000: u32 = 0x259;
/// First of eight fixed-range MTRRs, 4 KiB granules.
pub const IA32_MTRR_FIX4K_C0000: u32 = 0x268;
/// Last of eight fixed-range MTRRs, 4 KiB granules.
pub const IA32_MTRR_FIX4K_F8000: u32 = 0x26f;
/// Page attribute table.
pub const IA32_PAT: u32 = 0x277;
/// MTRR default type.
pub const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// TSC value at which the local APIC's timer fires.
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// First x2APIC register.
pub const X2APIC_FIRST: u32 = 0x800;
/// Last x2APIC register.
pub const X2APIC_LAST: u32 = 0x8ff;
/// Supervisor states enabled for XSAVES.
pub const IA32_XSS: u32 = 0xda0;
/// Extended features.
pub const IA32_EFER: u32 = 0xc000_0080;
/// Selectors of SYSCALL and SYSRET.
pub const IA32_STAR: u32 = 0xc000_0081;
/// RIP of SYSCALL from 64-bit mode.
pub const IA32_LSTAR: u32 = 0xc000_0082;
/// RIP of SYSCALL from compatibility mode (AMD).
pub const IA32_CSTAR: u32 = 0xc000_0083;
/// Flags cleared by SYSCALL.
pub const IA32_FMASK: u32 = 0xc000_0084;
/// FS base.
pub const IA32_FS_BASE: u32 = 0xc000_0100;
/// GS base.
pub const IA32_GS_BASE: u32 = 0xc000_0101;
/// The GS base that SWAPGS exchanges.
pub const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Value of RDTSCP and RDPID.
pub const IA32_TSC_AUX: u32 = 0xc000_0103;
