//! MOVS, STOS and LODS: where they go upwards and each operand lies in one page, the host's own
//! instruction runs with host addresses in the pointer registers; all else is the interpreter's.

use crate::build::{Builder, Done};
use crate::emit::{Mem, reg};
use crate::layout;
use crate::memory::Operand;
use ambos_x86::RFlags;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

const PAGE: u32 = 0x1000;
/// MOV of bytes; the other sizes follow each.
const LOAD: u8 = 0x8a;
const STORE: u8 = 0x88;

/// Bytes of an element, and whether the string at RSI is read and that at RDI is written.
fn shape(instruction: &Instruction) -> Option<(usize, bool, bool)> {
    Some(match instruction.mnemonic() {
        Mnemonic::Movsb => (1, true, true),
        Mnemonic::Movsw => (2, true, true),
        Mnemonic::Movsd => (4, true, true),
        Mnemonic::Movsq => (8, true, true),
        Mnemonic::Stosb => (1, false, true),
        Mnemonic::Stosw => (2, false, true),
        Mnemonic::Stosd => (4, false, true),
        Mnemonic::Stosq => (8, false, true),
        Mnemonic::Lodsb => (1, true, false),
        Mnemonic::Lodsw => (2, true, false),
        Mnemonic::Lodsd => (4, true, false),
        Mnemonic::Lodsq => (8, true, false),
        _ => return None,
    })
}

/// Whether the operands are addressed by whole registers and no segment has a base.
fn flat(instruction: &Instruction) -> bool {
    let wide = (0..instruction.op_count()).all(|index| {
        matches!(
            instruction.op_kind(index),
            OpKind::Register | OpKind::MemorySegRSI | OpKind::MemoryESRDI
        )
    });
    wide && !matches!(instruction.segment_prefix(), Register::FS | Register::GS)
}

impl Builder<'_> {
    /// Translates a string instruction.
    pub(crate) fn string(&mut self, instruction: &Instruction, flags_live: bool) -> Done {
        let Some((size, reads, writes)) = shape(instruction) else { return Done::Refused };
        let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        if !flat(instruction) || repeated && !writes {
            return Done::Refused;
        }
        self.free_scratch();
        let nothing = self.check_string(size, reads, writes, repeated, flags_live);
        let operand = Operand { size, write: false, flags_live };
        let found = Mem::Sum(reg::R10, reg::R11);
        if reads {
            self.code.copy(reg::R10, reg::RSI);
            self.probe(reg::R10, reg::R11, operand);
        }
        if writes {
            if reads {
                self.code.lea(reg::R10, found);
                self.code.store(Mem::Gs(layout::WAITING), reg::R10);
            }
            self.code.copy(reg::R10, reg::RDI);
            self.probe(reg::R10, reg::R11, Operand { write: true, ..operand });
        }
        match (repeated, reads, writes) {
            (true, ..) => self.repeat(size, reads),
            (false, true, true) => {
                self.code.lea(reg::R10, found);
                self.code.load(reg::R11, Mem::Gs(layout::WAITING));
                self.element(size, LOAD, reg::R11, Mem::Base(reg::R11, 0));
                self.element(size, STORE, reg::R11, Mem::Base(reg::R10, 0));
            }
            (false, true, false) => self.element(size, LOAD, reg::RAX, found),
            (false, false, _) => self.element(size, STORE, reg::RAX, found),
        }
        if !repeated {
            for (used, pointer) in [(reads, reg::RSI), (writes, reg::RDI)] {
                if used {
                    self.code.lea(pointer, Mem::Base(pointer, size as i32));
                }
            }
        }
        if let Some(nothing) = nothing {
            let here = self.code.here();
            self.code.bind(nothing, here);
        }
        Done::Next
    }

    /// Leaves to the interpreter unless the direction is upwards and all elements lie in one page
    /// of each operand. A jump that is taken if there are none is returned, to be bound.
    fn check_string(
        &mut self,
        size: usize,
        reads: bool,
        writes: bool,
        repeated: bool,
        flags_live: bool,
    ) -> Option<u64> {
        if flags_live {
            self.save_flags();
        }
        // test dword ptr [rflags], DF
        self.code.op(false, &[0xf7], 0, Mem::Gs(layout::RFLAGS));
        self.code.raw(&(RFlags::DF.bits() as u32).to_le_bytes());
        let (mut nothing, mut slow) = (None, Vec::new());
        let fine;
        if repeated {
            slow.push(self.code.short_jump_if(5));
            // test rcx, rcx
            self.code.raw(&[0x48, 0x85, 0xc9]);
            nothing = Some(self.code.short_jump_if(4));
            self.code.cmp(reg::RCX, (PAGE / size as u32) as i32);
            slow.push(self.code.short_jump_if(7));
            for (used, pointer) in [(reads, reg::RSI), (writes, reg::RDI)] {
                if !used {
                    continue;
                }
                self.code.copy(reg::R10, pointer);
                self.code.and32(reg::R10, PAGE - 1);
                let shift = size.trailing_zeros() as u8;
                self.code.lea(reg::R10, Mem::Scaled(reg::R10, reg::RCX, shift));
                self.code.cmp(reg::R10, PAGE as i32);
                slow.push(self.code.short_jump_if(7));
            }
            fine = self.code.short_jump();
        } else {
            fine = self.code.short_jump_if(4);
        }
        for jump in slow {
            self.code.land(jump);
        }
        if flags_live {
            self.restore_flags();
        }
        self.leave_to_interpreter();
        let nothing = nothing.map(|nothing| {
            self.code.land(nothing);
            if flags_live {
                self.restore_flags();
            }
            self.code.jump(0)
        });
        self.code.land(fine);
        if flags_live {
            self.restore_flags();
        }
        nothing
    }

    /// The repeated instruction: the target has been found, the source's host address waits.
    fn repeat(&mut self, size: usize, reads: bool) {
        let shift = size.trailing_zeros() as u8;
        let [source, target] = [0, 8].map(|at| Mem::Gs(layout::POINTERS + at));
        self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
        // Where the pointers will be.
        if reads {
            self.code.lea(reg::R11, Mem::Scaled(reg::RSI, reg::RCX, shift));
            self.code.store(source, reg::R11);
            self.code.load(reg::RSI, Mem::Gs(layout::WAITING));
        }
        self.code.lea(reg::R11, Mem::Scaled(reg::RDI, reg::RCX, shift));
        self.code.store(target, reg::R11);
        self.code.copy(reg::RDI, reg::R10);
        // rep movs or stos
        self.code.raw(&[0xf3]);
        match size {
            2 => self.code.raw(&[0x66]),
            8 => self.code.raw(&[0x48]),
            _ => {}
        }
        let opcode = if reads { 0xa4 } else { 0xaa };
        self.code.raw(&[opcode | u8::from(size > 1)]);
        self.code.load(reg::RDI, target);
        if reads {
            self.code.load(reg::RSI, source);
        }
    }

    /// MOV of an element between a register and memory.
    fn element(&mut self, size: usize, opcode: u8, register: u8, memory: Mem) {
        if size == 2 {
            self.code.raw(&[0x66]);
        }
        self.code.op(size == 8, &[opcode | u8::from(size > 1)], register, memory);
    }
}
