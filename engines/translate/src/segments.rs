//! Reading segment registers, and the bases of FS and GS.

use crate::build::{Builder, Done};
use crate::counts::Counted;
use crate::emit::{Mem, reg};
use crate::layout;
use crate::memory::Operand;
use crate::scratch::home_of;
use ambos_interpret::cpu::seg;
use iced_x86::{Instruction, OpKind, Register};

impl Builder<'_> {
    /// Prepares register operand `register`, all of whose bits get written, as a destination: returns
    /// its host register.
    pub(crate) fn overwrite(&mut self, register: Register) -> u8 {
        if let Some(home) = home_of(register) {
            self.written(home);
        }
        register.number() as u8
    }

    /// MOV from a segment register.
    pub(crate) fn read_selector(&mut self, instruction: &Instruction, flags_live: bool) -> Done {
        let number = instruction.op1_register().number();
        let selector = Mem::Gs(layout::selector(number));
        if instruction.op0_kind() == OpKind::Memory {
            if !self.linear(instruction, reg::R10, reg::R11) {
                return Done::Refused;
            }
            self.probe(reg::R10, reg::R11, Operand { size: 2, write: true, flags_live });
            self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
            // movzx r11d, word ptr [selector]; mov [r10], r11w
            self.code.op(false, &[0x0f, 0xb7], reg::R11, selector);
            self.code.raw(&[0x66]);
            self.code.op(false, &[0x89], reg::R11, Mem::Base(reg::R10, 0));
            return Done::Next;
        }
        let register = instruction.op0_register();
        if register.size() == 2 {
            if let Some(home) = home_of(register) {
                self.need(home);
            }
            let to = self.overwrite(register);
            // mov to16, [selector]
            self.code.raw(&[0x66]);
            self.code.op(false, &[0x8b], to, selector);
        } else {
            let to = self.overwrite(register);
            self.code.op(false, &[0x0f, 0xb7], to, selector);
        }
        Done::Next
    }

    /// RDFSBASE, RDGSBASE.
    pub(crate) fn read_base(&mut self, instruction: &Instruction, number: usize) {
        let register = instruction.op0_register();
        let to = self.overwrite(register);
        self.code.op(register.size() == 8, &[0x8b], to, Mem::Gs(layout::hidden_base(number)));
    }

    /// WRFSBASE, WRGSBASE.
    pub(crate) fn write_base(&mut self, instruction: &Instruction, number: usize, live: bool) {
        let register = instruction.op0_register();
        if let Some(home) = home_of(register) {
            self.need(home);
        }
        self.flush();
        let from = register.number() as u8;
        if register.size() == 8 {
            if from != reg::R10 {
                self.code.copy(reg::R10, from);
            }
        } else {
            // mov r10d, from32
            self.code.raw(&[0x41 | (from >> 3) << 2, 0x89, 0xc2 | (from & 7) << 3]);
        }
        self.forget_scratch();
        if register.size() == 8 {
            if live {
                self.save_flags();
            }
            self.compare_canonical(reg::R10, reg::R11);
            let canonical = self.code.short_jump_if(4);
            if live {
                self.restore_flags();
            }
            self.leave_to_interpreter();
            self.code.land(canonical);
            if live {
                self.restore_flags();
            }
        }
        self.code.store(Mem::Gs(layout::hidden_base(number)), reg::R10);
        self.code.store(Mem::Gs(layout::segment_base(number)), reg::R10);
    }

    /// Sets ZF if the address in `register` is canonical. Changes `scratch`; both are R8 or above.
    pub(crate) fn compare_canonical(&mut self, register: u8, scratch: u8) {
        self.code.copy(scratch, register);
        // shl scratch, 16; sar scratch, 16
        self.code.raw(&[0x49, 0xc1, 0xe0 | scratch & 7, 16, 0x49, 0xc1, 0xf8 | scratch & 7, 16]);
        // cmp scratch, register
        self.code.raw(&[0x4d, 0x39, 0xc0 | (register & 7) << 3 | scratch & 7]);
    }

    pub(crate) fn swap_gs(&mut self) {
        self.free_scratch();
        self.count(Counted::SegmentLoad);
        self.code.load(reg::R10, Mem::Gs(layout::hidden_base(seg::GS)));
        self.code.load(reg::R11, Mem::Gs(layout::KERNEL_GS_BASE));
        self.code.store(Mem::Gs(layout::KERNEL_GS_BASE), reg::R10);
        self.code.store(Mem::Gs(layout::hidden_base(seg::GS)), reg::R11);
        self.code.store(Mem::Gs(layout::segment_base(seg::GS)), reg::R11);
    }
}
