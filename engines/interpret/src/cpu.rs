//! The running state of one vCPU: what [`CpuState`] holds, laid out for speed, with what is derived
//! from it.

use crate::blocks::BlockCache;
use crate::exec::native::ThunkCache;
use crate::mmu::Tlb;
use crate::supervised::Supervised;
use ambos_hostcode::{ArenaError, ThunkFrame};
use ambos_memory::GuestRam;
use ambos_vcpu::{
    Attention, Control, CpuState, DebugRegisters, Msrs, Segment, Segments, TableRegister,
    VectorState,
};
use ambos_x86::segment::attr;
use ambos_x86::{Cr0, Cr4, Efer, RFlags, paging};
use std::sync::Arc;

/// Index of the register that always reads as zero: the base or index of operands that have none.
pub const ZERO: usize = 16;
/// Index of the instruction pointer among the registers. While a block runs it holds the address of
/// the block's first instruction; instructions know their own offset.
pub const RIP: usize = 17;

/// Segment-register numbers as instructions encode them.
pub mod seg {
    /// ES.
    pub const ES: usize = 0;
    /// CS.
    pub const CS: usize = 1;
    /// SS.
    pub const SS: usize = 2;
    /// DS.
    pub const DS: usize = 3;
    /// FS.
    pub const FS: usize = 4;
    /// GS.
    pub const GS: usize = 5;
    /// Not a segment: base zero, for operands whose segment has no effect in 64-bit mode.
    pub const FLAT: usize = 6;
}

/// The part of the state that generated code reaches: thunks get its address.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct NativeState {
    /// What the fault guard writes to.
    pub frame: ThunkFrame,
    /// Host address of the memory operand of the instruction in a thunk.
    pub operand: usize,
    /// Arithmetic flags handed to and returned by a thunk.
    pub thunk_flags: u64,
    /// MXCSR of the monitor itself, reloaded after a thunk.
    pub host_mxcsr: u32,
    /// RFLAGS.
    pub rflags: u64,
    /// General-purpose registers, then [`ZERO`] and [`RIP`].
    pub gpr: [u64; 18],
    /// Vector and x87 registers.
    pub vector: VectorState,
}

/// What the vCPU currently executes as: decides how code is decoded and where memory accesses look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// Code size in bits: 16, 32 or 64.
    pub code_bits: u8,
    /// Stack-pointer size in bits: 16, 32 or 64.
    pub stack_bits: u8,
    /// Current privilege level.
    pub cpl: u8,
}

impl Mode {
    /// The part of the mode that decoded code depends on, as a small number.
    pub fn key(self) -> u64 {
        u64::from(self.code_bits >> 5) | u64::from(self.stack_bits >> 5) << 2
    }
}

/// One vCPU of the interpreter.
#[derive(Debug)]
pub struct Cpu {
    /// Registers that generated code reaches.
    pub native: NativeState,

    // Volatile state: derived from the architectural state.
    /// Current mode.
    pub mode: Mode,
    /// Linear base by segment number; zero for [`seg::FLAT`], and in 64-bit mode for all but FS and
    /// GS.
    pub linear_base: [u64; 7],
    /// Which of the TLB's sets data accesses use; see [`crate::mmu`].
    pub mmu_index: usize,
    /// Something must be looked at before the next block: see [`crate::run`].
    pub slow: bool,
    /// Whether the guest is deprivileged.
    pub supervised: Supervised,
    /// The rest of the current block must not run: its code was written to.
    pub leave_block: bool,

    // Volatile state: architectural.
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// Local descriptor table register.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
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
    /// Interrupts are inhibited for one instruction.
    pub interrupt_shadow: bool,
    /// An NMI is being handled.
    pub nmi_blocked: bool,

    // Book-keeping.
    /// The address that CR2 gets if the page fault being raised is delivered.
    pub fault_address: u64,
    /// Faults of an instruction that runs on the host are its memory operand's.
    pub operand_faulted: bool,
    /// The current instruction is a repeated one that has done a round and has more to do.
    pub repeated: bool,
    /// Data breakpoints hit by the current instruction, as bits of DR6.
    pub breakpoint_hits: u64,
    /// Instructions completed.
    pub instructions: u64,
    /// Faults, and rounds of repeated instructions that were not the last.
    pub events: u64,
    /// RAM pages whose cached code was dropped because they were written to; whoever caches more
    /// than [`Cpu::blocks`] takes them out.
    pub code_writes: Vec<usize>,
    /// Copies of pages that are written to, if someone wants to undo that.
    pub journal: Option<Box<crate::mmu::Journal>>,
    /// What the current instruction asked for in vain: see [`crate::unserved`].
    pub unserved: Vec<String>,
    /// Software TLB.
    pub tlb: Box<Tlb>,
    /// Decoded blocks.
    pub blocks: BlockCache,
    /// Thunks for instructions that are executed on the host.
    pub thunks: ThunkCache,

    // Dependencies.
    /// Guest RAM.
    pub ram: Arc<GuestRam>,
    /// Requests of other threads.
    pub attention: Arc<Attention>,
}

impl Cpu {
    /// A vCPU in its reset state.
    ///
    /// # Errors
    ///
    /// [`ArenaError`] if the host refuses memory.
    pub fn new(ram: Arc<GuestRam>, attention: Arc<Attention>) -> Result<Self, ArenaError> {
        let mut cpu = Self {
            native: NativeState {
                frame: ThunkFrame::default(),
                operand: 0,
                thunk_flags: 2,
                host_mxcsr: ambos_x86::xstate::MXCSR_RESET,
                rflags: 2,
                gpr: [0; 18],
                vector: VectorState::default(),
            },
            mode: Mode::default(),
            linear_base: [0; 7],
            mmu_index: 0,
            slow: false,
            supervised: Supervised::default(),
            leave_block: false,
            segments: [Segment::default(); 6],
            ldtr: Segment::default(),
            tr: Segment::default(),
            gdtr: TableRegister::default(),
            idtr: TableRegister::default(),
            control: Control::default(),
            debug: DebugRegisters { address: [0; 4], dr6: 0, dr7: 0 },
            msrs: Msrs::default(),
            interrupt_shadow: false,
            nmi_blocked: false,
            fault_address: 0,
            operand_faulted: false,
            repeated: false,
            breakpoint_hits: 0,
            instructions: 0,
            events: 0,
            tlb: Box::new(Tlb::new()?),
            code_writes: Vec::new(),
            journal: None,
            unserved: Vec::new(),
            blocks: BlockCache::default(),
            thunks: ThunkCache::new()?,
            ram,
            attention,
        };
        cpu.load_state(&CpuState::reset());
        Ok(cpu)
    }

    /// Replaces the architectural state.
    pub fn load_state(&mut self, state: &CpuState) {
        self.assign(state);
        self.tlb.flush_all();
        if !self.supervised.on {
            // What is cached from now on is of this address space, not of the one before.
            let pcids = self.cr4().contains(Cr4::PCIDE);
            let pcid = if pcids { self.control.cr3 & paging::CR3_PCID } else { 0 };
            self.tlb.switch(pcid as u16);
        }
        self.blocks.clear();
    }

    /// Goes back to a state of which the present one is the successor by a few instructions, none of
    /// which changed how memory is translated. What is cached stays.
    pub fn rewind(&mut self, state: &CpuState) {
        self.assign(state);
        self.leave_block = false;
        self.repeated = false;
        self.unserved.clear();
    }

    fn assign(&mut self, state: &CpuState) {
        let CpuState {
            gpr,
            rip,
            rflags,
            segments: Segments { es, cs, ss, ds, fs, gs, ldtr, tr },
            gdtr,
            idtr,
            control,
            debug,
            msrs,
            vector,
            interrupt_shadow,
            nmi_blocked,
        } = state;
        self.native.gpr[..16].copy_from_slice(gpr);
        self.native.gpr[ZERO] = 0;
        self.native.gpr[RIP] = *rip;
        self.native.rflags = *rflags;
        self.native.vector = vector.clone();
        self.segments = [*es, *cs, *ss, *ds, *fs, *gs];
        self.ldtr = *ldtr;
        self.tr = *tr;
        self.gdtr = *gdtr;
        self.idtr = *idtr;
        self.control = *control;
        self.debug = *debug;
        self.msrs = *msrs;
        self.interrupt_shadow = *interrupt_shadow;
        self.nmi_blocked = *nmi_blocked;
        self.update_mode();
    }

    /// The architectural state.
    pub fn save_state(&self) -> CpuState {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.native.gpr[..16]);
        let [es, cs, ss, ds, fs, gs] = self.segments;
        CpuState {
            gpr,
            rip: self.native.gpr[RIP],
            rflags: self.native.rflags,
            segments: Segments { es, cs, ss, ds, fs, gs, ldtr: self.ldtr, tr: self.tr },
            gdtr: self.gdtr,
            idtr: self.idtr,
            control: self.control,
            debug: self.debug,
            msrs: self.msrs,
            vector: self.native.vector.clone(),
            interrupt_shadow: self.interrupt_shadow,
            nmi_blocked: self.nmi_blocked,
        }
    }

    /// Recomputes what is derived from control registers, segments and flags. Must follow every
    /// change of CR0, CR4, EFER, CS, SS, a segment base, RFLAGS.TF, RFLAGS.AC or DR7.
    pub fn update_mode(&mut self) {
        let cs = &self.segments[seg::CS];
        let ss = &self.segments[seg::SS];
        let cpl = if self.supervised.on {
            3
        } else if self.real_mode() {
            0
        } else {
            (ss.attributes >> attr::DPL_SHIFT & 3) as u8
        };
        let db = |segment: &Segment| if segment.attributes & attr::DB != 0 { 32 } else { 16 };
        let long = self.long_mode() && cs.attributes & attr::L != 0;
        self.mode = Mode {
            code_bits: if long { 64 } else { db(cs) },
            stack_bits: if long { 64 } else { db(ss) },
            cpl,
        };
        for (number, segment) in self.segments.iter().enumerate() {
            let based = !long || number >= seg::FS;
            self.linear_base[number] = if based { segment.base } else { 0 };
        }
        self.update_mmu_index();
        self.update_slow();
    }

    /// Recomputes which of the TLB's sets data accesses use.
    pub fn update_mmu_index(&mut self) {
        let ac = self.native.rflags & RFlags::AC.bits() != 0;
        self.mmu_index = if self.mode.cpl == 3 {
            if ac && self.cr0().contains(Cr0::AM) { Tlb::USER_ALIGNED } else { Tlb::USER }
        } else if ac && self.cr4().contains(Cr4::SMAP) {
            Tlb::SUPERVISOR_AC
        } else {
            Tlb::SUPERVISOR
        };
    }

    /// Recomputes [`Cpu::slow`].
    pub fn update_slow(&mut self) {
        self.slow = self.interrupt_shadow
            || self.native.rflags & (RFlags::TF | RFlags::RF).bits() != 0
            || self.debug.dr7 & 0xff != 0;
    }

    /// Whether a trap may follow each step of a repeated instruction: single step, or a breakpoint.
    #[inline]
    pub fn watches_each_step(&self) -> bool {
        self.slow && (self.native.rflags & RFlags::TF.bits() != 0 || self.debug.dr7 & 0xff != 0)
    }

    /// CR0.
    #[inline]
    pub fn cr0(&self) -> Cr0 {
        Cr0::from_bits_retain(self.control.cr0)
    }

    /// CR4.
    #[inline]
    pub fn cr4(&self) -> Cr4 {
        Cr4::from_bits_retain(self.control.cr4)
    }

    /// EFER.
    #[inline]
    pub fn efer(&self) -> Efer {
        Efer::from_bits_retain(self.control.efer)
    }

    /// RFLAGS.
    #[inline]
    pub fn rflags(&self) -> RFlags {
        RFlags::from_bits_retain(self.native.rflags)
    }

    /// Real mode: protection is off.
    #[inline]
    pub fn real_mode(&self) -> bool {
        !self.cr0().contains(Cr0::PE)
    }

    /// Long mode is active (64-bit or compatibility mode).
    #[inline]
    pub fn long_mode(&self) -> bool {
        self.efer().contains(Efer::LMA)
    }

    /// 64-bit mode.
    #[inline]
    pub fn is_64bit(&self) -> bool {
        self.mode.code_bits == 64
    }

    /// Truncates an instruction pointer to the code size.
    #[inline]
    pub fn mask_rip(&self, rip: u64) -> u64 {
        match self.mode.code_bits {
            64 => rip,
            32 => rip & 0xffff_ffff,
            _ => rip & 0xffff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_state_caches_nothing_for_the_address_space_of_the_one_before() {
        let ram = Arc::new(GuestRam::new(1 << 20).unwrap());
        let mut cpu = Cpu::new(ram, Arc::new(Attention::default())).unwrap();
        let mut state = CpuState::reset();
        state.control.cr4 = Cr4::PCIDE.bits();
        for space in [6, 1] {
            state.control.cr3 = 0x1000 | space;
            cpu.load_state(&state);
        }
        cpu.tlb.insert(Tlb::USER, false, false, 0x5000, 0x10_0000);
        cpu.tlb.switch(6);
        assert_eq!(cpu.tlb.lookup_read(Tlb::USER, 0x5000), None);
        cpu.tlb.switch(1);
        assert!(cpu.tlb.lookup_read(Tlb::USER, 0x5000).is_some());
    }
}
