//! The architectural state of a vCPU as plain data.

use ambos_x86::segment::attr;
use ambos_x86::xstate;

/// One segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes (already scaled by granularity).
    pub limit: u32,
    /// Attributes in the layout of [`ambos_x86::segment::attr`].
    pub attributes: u32,
}

impl Segment {
    /// The segment as real mode has it for `selector`, with code or data attributes.
    pub const fn real_mode(selector: u16, code: bool) -> Self {
        let kind = if code { attr::CODE } else { 0 };
        Self {
            selector,
            base: (selector as u64) << 4,
            limit: 0xffff,
            attributes: attr::P | attr::S | attr::READ_WRITE | attr::ACCESSED | kind,
        }
    }
}

/// All segment registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields are the registers of these names")]
pub struct Segments {
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ldtr: Segment,
    pub tr: Segment,
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableRegister {
    /// Linear base address.
    pub base: u64,
    /// Offset of the last byte.
    pub limit: u16,
}

/// Control registers. CR8 lives in the local APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields are the registers of these names")]
pub struct Control {
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub xcr0: u64,
}

/// DR0–DR3, DR6 and DR7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugRegisters {
    /// Breakpoint addresses, DR0–DR3.
    pub address: [u64; 4],
    /// Status, DR6.
    pub dr6: u64,
    /// Control, DR7.
    pub dr7: u64,
}

/// Model-specific registers that belong to the CPU itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields are the registers of these names")]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub tsc_aux: u64,
    pub xss: u64,
    /// What is added to the host's time-stamp counter.
    pub tsc_offset: u64,
}

/// x87, vector and other extended state, in a layout that generated code can address: whole ZMM
/// registers, never split by state component.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct VectorState {
    /// ZMM0–31; XMM and YMM registers are their low parts.
    pub zmm: [[u8; 64]; 32],
    /// The x87 part of an FXSAVE64 image: control, status, abridged tag, opcode, pointers, and
    /// ST0–7 from byte 32. Its MXCSR and XMM fields are not used.
    pub x87: [u8; 512],
    /// Opmask registers.
    pub k: [u64; 8],
    /// SSE control and status.
    pub mxcsr: u32,
    /// Protection-key rights.
    pub pkru: u32,
}

impl Default for VectorState {
    fn default() -> Self {
        let mut x87 = [0; 512];
        x87[..2].copy_from_slice(&xstate::FCW_RESET.to_le_bytes());
        Self { zmm: [[0; 64]; 32], x87, k: [0; 8], mxcsr: xstate::MXCSR_RESET, pkru: 0 }
    }
}

/// Everything architectural of one vCPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8–R15.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Segment registers.
    pub segments: Segments,
    /// Global descriptor table register.
    pub gdtr: TableRegister,
    /// Interrupt descriptor table register.
    pub idtr: TableRegister,
    /// Control registers.
    pub control: Control,
    /// Debug registers.
    pub debug: DebugRegisters,
    /// Model-specific registers.
    pub msrs: Msrs,
    /// x87 and vector registers.
    pub vector: VectorState,
    /// Interrupts are inhibited for one instruction (after STI or a load of SS).
    pub interrupt_shadow: bool,
    /// An NMI is being handled: further ones wait for IRET.
    pub nmi_blocked: bool,
}

impl CpuState {
    /// The state after INIT or power-up (SDM vol. 3A, table 10-1): real mode at F000:FFF0.
    pub fn reset() -> Self {
        let data = Segment::real_mode(0, false);
        let mut cs = Segment::real_mode(0xf000, true);
        cs.base = 0xffff_0000;
        let system = |kind| Segment { selector: 0, base: 0, limit: 0xffff, attributes: kind };
        let ldtr = system(attr::P | ambos_x86::segment::system_type::LDT);
        let tr = system(attr::P | ambos_x86::segment::system_type::TSS_BUSY);
        let mut gpr = [0; 16];
        gpr[ambos_x86::gpr::RDX] = 0x600;
        Self {
            gpr,
            rip: 0xfff0,
            rflags: 2,
            segments: Segments { es: data, cs, ss: data, ds: data, fs: data, gs: data, ldtr, tr },
            gdtr: TableRegister { base: 0, limit: 0xffff },
            idtr: TableRegister { base: 0, limit: 0xffff },
            control: Control { cr0: 0x6000_0010, xcr0: 1, ..Control::default() },
            debug: DebugRegisters { address: [0; 4], dr6: 0xffff_0ff0, dr7: 0x400 },
            msrs: Msrs { pat: 0x0007_0406_0007_0406, ..Msrs::default() },
            vector: VectorState::default(),
            interrupt_shadow: false,
            nmi_blocked: false,
        }
    }
}
