//! Frequent system instructions that translated code runs itself: the interrupt flag, SWAPGS and the
//! time-stamp counter, where the mode that the block is keyed by allows them.

use crate::build::{Builder, Done};
use crate::emit::{Mem, reg};
use crate::layout;
use ambos_x86::{Cr4, RFlags};
use iced_x86::{Code, Instruction, Mnemonic};

impl Builder<'_> {
    /// Translates `instruction` if it is one of those.
    pub(crate) fn system(&mut self, instruction: &Instruction, flags_live: bool) -> Done {
        let supervisor = self.cpu.mode.cpl == 0;
        match instruction.mnemonic() {
            Mnemonic::Cli if supervisor => {
                // and dword ptr [rflags], not IF
                self.change_flags(4, !(RFlags::IF.bits() as u32), flags_live);
            }
            Mnemonic::Swapgs if supervisor => self.swap_gs(),
            Mnemonic::Rdtsc
                if !self.source.apart && (supervisor || !self.cpu.cr4().contains(Cr4::TSD)) =>
            {
                self.rdtsc();
            }
            Mnemonic::Pushfq if instruction.code() == Code::Pushfq => self.push_flags(),
            _ => return Done::Refused,
        }
        Done::Next
    }

    /// Saves the arithmetic flags in RAX.
    fn save_flags(&mut self) {
        self.code.store(Mem::Gs(layout::SAVED_RAX), reg::RAX);
        // lahf; seto al
        self.code.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
    }

    /// Restores flags and RAX.
    fn restore_flags(&mut self) {
        // add al, 127; sahf
        self.code.raw(&[0x04, 127, 0x9e]);
        self.code.load(reg::RAX, Mem::Gs(layout::SAVED_RAX));
    }

    /// Operation `which` of the immediate group on the flags that are not arithmetic.
    fn change_flags(&mut self, which: u8, value: u32, flags_live: bool) {
        if flags_live {
            self.save_flags();
        }
        self.code.op(false, &[0x81], which, Mem::Gs(layout::RFLAGS));
        self.code.raw(&value.to_le_bytes());
        if flags_live {
            self.restore_flags();
        }
    }

    fn swap_gs(&mut self) {
        self.free_scratch();
        self.code.load(reg::R10, Mem::Gs(layout::GS_BASE));
        self.code.load(reg::R11, Mem::Gs(layout::KERNEL_GS_BASE));
        self.code.store(Mem::Gs(layout::KERNEL_GS_BASE), reg::R10);
        self.code.store(Mem::Gs(layout::GS_BASE), reg::R11);
        let linear = layout::segment_base(ambos_interpret::cpu::seg::GS);
        self.code.store(Mem::Gs(linear), reg::R11);
    }

    fn rdtsc(&mut self) {
        self.free_scratch();
        // rdtsc
        self.code.raw(&[0x0f, 0x31]);
        self.code.rorx(reg::RDX, reg::RDX, 32);
        self.code.lea(reg::RAX, Mem::Sum(reg::RAX, reg::RDX));
        self.code.load(reg::R10, Mem::Gs(layout::TSC_OFFSET));
        self.code.lea(reg::RAX, Mem::Sum(reg::RAX, reg::R10));
        self.code.rorx(reg::RDX, reg::RAX, 32);
        // mov edx, edx; mov eax, eax
        self.code.raw(&[0x89, 0xd2, 0x89, 0xc0]);
    }

    fn push_flags(&mut self) {
        const HIDDEN: u64 = RFlags::RF.bits() | RFlags::VM.bits();
        self.free_scratch();
        self.code.lea(reg::R10, Mem::Base(reg::RSP, -8));
        let operand = crate::memory::Operand { size: 8, write: true, flags_live: true };
        self.probe(reg::R10, reg::R11, operand);
        self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
        self.save_flags();
        self.code.store(Mem::Gs(layout::WAITING), reg::RAX);
        // mov r11d, eax; and r11d, 1; shl r11d, 11; movzx eax, ah; and eax, 0xd5; or eax, r11d
        self.code.raw(&[0x41, 0x89, 0xc3, 0x41, 0x83, 0xe3, 0x01, 0x41, 0xc1, 0xe3, 0x0b]);
        self.code.raw(&[0x0f, 0xb6, 0xc4, 0x25, 0xd5, 0, 0, 0, 0x44, 0x09, 0xd8]);
        self.code.load(reg::R11, Mem::Gs(layout::RFLAGS));
        self.code.and32(reg::R11, !(0x8d5 | HIDDEN as u32));
        // or rax, r11
        self.code.raw(&[0x4c, 0x09, 0xd8]);
        self.code.store(Mem::Base(reg::R10, 0), reg::RAX);
        self.code.load(reg::RAX, Mem::Gs(layout::WAITING));
        self.restore_flags();
        self.code.lea(reg::RSP, Mem::Base(reg::RSP, -8));
    }
}
