//! Instructions on flags that are not arithmetic, and all flags at once: CLI, STI, STAC, CLAC, CLD,
//! STD, PUSHF, POPF.
//!
//! The arithmetic flags are the host's while translated code runs; the others lie in memory.

use crate::build::{Builder, Done};
use crate::classify::Action;
use crate::counts::Counted;
use crate::emit::{Code, Mem, reg};
use crate::layout;
use crate::liveness;
use crate::memory::Operand;
use crate::site::Kind;
use ambos_interpret::mmu::Tlb;
use ambos_x86::{Cr4, RFlags};
use iced_x86::Instruction;

/// Flags that PUSHF does not show.
const HIDDEN: u64 = RFlags::RF.bits() | RFlags::VM.bits();
/// The arithmetic flags.
const ARITHMETIC: u32 = 0x8d5;
/// Operations of the immediate group.
const OR: u8 = 1;
const AND: u8 = 4;

/// Where the guest's arithmetic flags are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlagsIn {
    /// In the host's flags.
    Host,
    /// In memory; the host's hold something else.
    Memory,
    /// In both.
    Both,
}

/// Loads the host's flags from memory, with the help of a scratch register or, slower, of memory.
pub(crate) fn load_kept(code: &mut Code, scratch: Option<u8>) {
    match scratch {
        Some(scratch) => code.copy(scratch, reg::RAX),
        None => code.store(Mem::Gs(layout::SAVED_RAX), reg::RAX),
    }
    // mov eax, [kept]; add al, 127; sahf
    code.op(false, &[0x8b], reg::RAX, Mem::Gs(layout::KEPT_FLAGS));
    code.raw(&[0x04, 127, 0x9e]);
    match scratch {
        Some(scratch) => code.copy(reg::RAX, scratch),
        None => code.load(reg::RAX, Mem::Gs(layout::SAVED_RAX)),
    }
}

impl Builder<'_> {
    /// Sees to it that the guest's flags, which are still needed, survive a probe. Changes `scratch`.
    ///
    /// They stay in memory over all probes, until something wants them: see [`Builder::want_flags`].
    pub(crate) fn keep_flags(&mut self, scratch: u8) {
        if self.flags == FlagsIn::Host {
            self.counters.flag_saves += 1;
            self.code.copy(scratch, reg::RAX);
            // lahf; seto al
            self.code.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
            // mov [kept], eax
            self.code.op(false, &[0x89], reg::RAX, Mem::Gs(layout::KEPT_FLAGS));
            self.code.copy(reg::RAX, scratch);
        }
        self.flags = FlagsIn::Memory;
    }

    /// See [`load_kept`].
    pub(crate) fn load_kept_flags(&mut self, scratch: Option<u8>) {
        load_kept(self.code, scratch);
    }

    /// Sees to it that the host's flags are the guest's. `scratch` is a free register.
    pub(crate) fn want_flags(&mut self, scratch: Option<u8>) {
        if self.flags == FlagsIn::Memory {
            self.load_kept_flags(scratch);
            self.flags = FlagsIn::Both;
        }
    }

    /// Prepares the host's flags for the current instruction, which is about to be copied. If it may
    /// fault they must be the guest's. `scratch` is a free register.
    pub(crate) fn prepare_flags(
        &mut self,
        instruction: &Instruction,
        may_fault: bool,
        scratch: Option<u8>,
    ) {
        let modified = instruction.rflags_modified() & liveness::ALL;
        let kept = self.live_after & !liveness::killed(instruction);
        let read = instruction.rflags_read() & liveness::ALL;
        if may_fault || read != 0 || modified != 0 && kept != 0 {
            self.want_flags(scratch);
        }
        if modified != 0 {
            self.flags = FlagsIn::Host;
        }
    }

    /// Saves the arithmetic flags in RAX.
    pub(crate) fn save_flags(&mut self) {
        self.code.store(Mem::Gs(layout::SAVED_RAX), reg::RAX);
        // lahf; seto al
        self.code.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
    }

    /// Restores flags and RAX.
    pub(crate) fn restore_flags(&mut self) {
        // add al, 127; sahf
        self.code.raw(&[0x04, 127, 0x9e]);
        self.code.load(reg::RAX, Mem::Gs(layout::SAVED_RAX));
    }

    /// With flags saved in RAX: makes it RFLAGS as PUSHF shows them. Changes R11 and flags.
    pub(crate) fn saved_to_rflags(&mut self) {
        // mov r11d, eax; and r11d, 1; shl r11d, 11; movzx eax, ah; and eax, 0xd5; or eax, r11d
        self.code.raw(&[0x41, 0x89, 0xc3, 0x41, 0x83, 0xe3, 0x01, 0x41, 0xc1, 0xe3, 0x0b]);
        self.code.raw(&[0x0f, 0xb6, 0xc4, 0x25, 0xd5, 0, 0, 0, 0x44, 0x09, 0xd8]);
        self.code.load(reg::R11, Mem::Gs(layout::RFLAGS));
        self.code.and32(reg::R11, !(ARITHMETIC | HIDDEN as u32));
        // or rax, r11
        self.code.raw(&[0x4c, 0x09, 0xd8]);
    }

    /// The reverse: with RFLAGS in RAX, makes it what [`Builder::restore_flags`] takes. Changes R11 and
    /// flags.
    pub(crate) fn rflags_to_saved(&mut self) {
        // mov r11d, eax; shr r11d, 11; and r11d, 1; shl eax, 8; or eax, r11d
        self.code.raw(&[0x41, 0x89, 0xc3, 0x41, 0xc1, 0xeb, 0x0b, 0x41, 0x83, 0xe3, 0x01]);
        self.code.raw(&[0xc1, 0xe0, 0x08, 0x44, 0x09, 0xd8]);
    }

    /// Operation `which` of the immediate group on the flags that are not arithmetic.
    fn change_flags(&mut self, which: u8, value: u32, counted: Option<Counted>, flags_live: bool) {
        if flags_live {
            self.save_flags();
        }
        self.code.op(false, &[0x81], which, Mem::Gs(layout::RFLAGS));
        self.code.raw(&value.to_le_bytes());
        if let Some(counted) = counted {
            self.count_with_flags(counted);
        }
        if flags_live {
            self.restore_flags();
        }
    }

    pub(crate) fn cli(&mut self, flags_live: bool) {
        let counted = Some(Counted::InterruptFlag);
        self.change_flags(AND, !(RFlags::IF.bits() as u32), counted, flags_live);
    }

    /// CLI or STI of a deprivileged guest: nothing happens, or the interpreter raises its fault.
    pub(crate) fn ignored_interrupt_flag(&mut self, flags_live: bool) {
        self.free_scratch();
        if flags_live {
            self.save_flags();
        }
        // cmp byte ptr [ignores], 0
        self.code.op(false, &[0x80], 7, Mem::Gs(layout::IGNORES_INTERRUPT_FLAG));
        self.code.raw(&[0]);
        let ignored = self.code.short_jump_if(5);
        if flags_live {
            self.restore_flags();
        }
        self.leave_to_interpreter();
        self.code.land(ignored);
        self.count_with_flags(Counted::InterruptFlag);
        if flags_live {
            self.restore_flags();
        }
    }

    /// STI. Until the next instruction has run, the state in memory says that interrupts are held
    /// off, so that whatever leaves in between is treated so; see [`Builder::end_shadow`].
    pub(crate) fn sti(&mut self, flags_live: bool) -> Done {
        let within = matches!(
            self.next_action,
            Some(
                Action::Copy
                    | Action::Skip
                    | Action::Address
                    | Action::Push
                    | Action::Pop
                    | Action::Leave
                    | Action::System
                    | Action::JumpTo
                    | Action::CallTo
                    | Action::Return
            )
        );
        if !within {
            return Done::Refused;
        }
        if flags_live {
            self.save_flags();
        }
        // bts dword ptr [rflags], IF
        self.code.op(false, &[0x0f, 0xba], 5, Mem::Gs(layout::RFLAGS));
        self.code.raw(&[RFlags::IF.bits().trailing_zeros() as u8]);
        // Only a change has a shadow: setae
        self.code.op(false, &[0x0f, 0x93], 0, Mem::Gs(layout::INTERRUPT_SHADOW));
        self.code.op(false, &[0x0f, 0x93], 0, Mem::Gs(layout::SLOW));
        self.count_with_flags(Counted::InterruptFlag);
        if flags_live {
            self.restore_flags();
        }
        self.shadow = true;
        Done::Next
    }

    /// Lets interrupts in again after the instruction that follows STI.
    pub(crate) fn end_shadow(&mut self) {
        for at in [layout::INTERRUPT_SHADOW, layout::SLOW] {
            // mov byte ptr [at], 0
            self.code.op(false, &[0xc6], 0, Mem::Gs(at));
            self.code.raw(&[0]);
        }
        self.shadow = false;
    }

    /// Leaves after the current instruction if something wants attention.
    pub(crate) fn poll_after(&mut self) {
        self.free_scratch();
        let (offset, length) = (self.offset, self.length);
        self.offset += u16::from(length);
        let site = self.site(Kind::Entry { flags_kept: self.flags == FlagsIn::Memory });
        self.offset = offset;
        self.poll(site);
    }

    /// STAC, or CLAC: with SMAP the rest of the block finds its operands in another set.
    pub(crate) fn access_flag(&mut self, set: bool, flags_live: bool) {
        let flag = RFlags::AC.bits() as u32;
        let (which, value) = if set { (OR, flag) } else { (AND, !flag) };
        self.change_flags(which, value, None, flags_live);
        if self.cpu.cr4().contains(Cr4::SMAP) {
            let index = if set { Tlb::SUPERVISOR_AC } else { Tlb::SUPERVISOR };
            self.code.store_imm(Mem::Gs(layout::MMU_INDEX), index as i32);
            self.use_set(index);
        }
    }

    /// STD, or CLD.
    pub(crate) fn direction_flag(&mut self, set: bool, flags_live: bool) {
        let flag = RFlags::DF.bits() as u32;
        let (which, value) = if set { (OR, flag) } else { (AND, !flag) };
        self.change_flags(which, value, None, flags_live);
    }

    pub(crate) fn push_flags(&mut self) {
        self.free_scratch();
        self.count(Counted::Flags);
        self.code.lea(reg::R10, Mem::Base(reg::RSP, -8));
        let operand = Operand { size: 8, write: true, flags_live: true };
        self.probe(reg::R10, reg::R11, operand);
        self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
        self.save_flags();
        self.code.store(Mem::Gs(layout::WAITING), reg::RAX);
        self.saved_to_rflags();
        self.code.store(Mem::Base(reg::R10, 0), reg::RAX);
        self.code.load(reg::RAX, Mem::Gs(layout::WAITING));
        self.restore_flags();
        self.code.lea(reg::RSP, Mem::Base(reg::RSP, -8));
    }

    /// POPF at privilege level 0, or of a deprivileged guest, that changes no flags but the arithmetic ones and IF; others are
    /// the interpreter's.
    pub(crate) fn pop_flags(&mut self, flags_live: bool) {
        const KEPT: u64 = RFlags::TF.bits()
            | RFlags::DF.bits()
            | RFlags::IOPL.bits()
            | RFlags::NT.bits()
            | RFlags::AC.bits()
            | RFlags::ID.bits();
        self.free_scratch();
        self.code.copy(reg::R10, reg::RSP);
        self.probe(reg::R10, reg::R11, Operand { size: 8, write: false, flags_live });
        self.code.load(reg::R10, Mem::Sum(reg::R10, reg::R11));
        self.code.store(Mem::Gs(layout::SAVED_RAX), reg::RAX);
        if flags_live {
            // For whoever looks at them if the interpreter must run this: lahf; seto al
            self.code.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
        }
        self.code.copy(reg::R11, reg::R10);
        // xor r11, [rflags]
        self.code.op(true, &[0x33], reg::R11, Mem::Gs(layout::RFLAGS));
        // test r11d, KEPT
        self.code.raw(&[0x41, 0xf7, 0xc3]);
        self.code.raw(&(KEPT as u32).to_le_bytes());
        let same = self.code.short_jump_if(4);
        if flags_live {
            self.restore_flags();
        }
        self.leave_to_interpreter();
        self.code.land(same);
        // A deprivileged guest has an I/O privilege level of 0: its POPF leaves IF alone.
        let changes_interrupts = !self.cpu.supervised.on;
        if changes_interrupts {
            self.code.and32(reg::R11, RFlags::IF.bits() as u32);
            // xor [rflags], r11
            self.code.op(true, &[0x31], reg::R11, Mem::Gs(layout::RFLAGS));
        }
        self.count_with_flags(Counted::Flags);
        self.code.copy(reg::RAX, reg::R10);
        self.rflags_to_saved();
        self.restore_flags();
        self.code.lea(reg::RSP, Mem::Base(reg::RSP, 8));
        if changes_interrupts {
            // Newly allowed interrupts must be seen.
            self.poll_after();
        }
    }
}
