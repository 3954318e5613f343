//! BT, BTS, BTR and BTC of a bit in memory that a register names: it may lie anywhere around the
//! operand.

use crate::build::{Builder, Done};
use crate::emit::{Mem, reg};
use crate::layout;
use crate::memory::Operand;
use crate::plan::Address;
use crate::scratch::home_of;
use iced_x86::{Instruction, Mnemonic};

impl Builder<'_> {
    /// Translates one of them.
    pub(crate) fn far_bit(&mut self, instruction: &Instruction, flags_live: bool) -> Done {
        let register = instruction.op1_register();
        let size = instruction.memory_size().size();
        if home_of(register).is_some() || !matches!(size, 2 | 4 | 8) {
            return Done::Refused;
        }
        let opcode = match instruction.mnemonic() {
            Mnemonic::Bt => 0xa3,
            Mnemonic::Bts => 0xab,
            Mnemonic::Btr => 0xb3,
            Mnemonic::Btc => 0xbb,
            _ => return Done::Refused,
        };
        let Some(address) = Address::of(instruction) else { return Done::Refused };
        if address.narrow && address.segment.is_some() && !self.source.narrow {
            // The sum is cut off before the segment's base is added.
            return Done::Refused;
        }
        if !self.compute(address, reg::R10, reg::R11) {
            return Done::Refused;
        }
        // The operand's number, signed, counted from the one that is named. The index of a bit takes 4 to
        // 6 bits and 3 of them are in a byte.
        let (number, shift) = (register.number() as u8, size.trailing_zeros() as u8);
        self.code.store(Mem::Gs(layout::WAITING), number);
        let wide = match size {
            8 => number,
            4 => {
                // movsxd r11, dword ptr [waiting]
                self.code.op(true, &[0x63], reg::R11, Mem::Gs(layout::WAITING));
                reg::R11
            }
            _ => {
                // movsx r11, word ptr [waiting]
                self.code.op(true, &[0x0f, 0xbf], reg::R11, Mem::Gs(layout::WAITING));
                reg::R11
            }
        };
        // The count needs a register: an RCX that is put back.
        self.code.store(Mem::Gs(layout::SAVED_RCX), reg::RCX);
        if wide == reg::RCX {
            self.code.copy(reg::R11, reg::RCX);
        }
        let wide = if wide == reg::RCX { reg::R11 } else { wide };
        self.code.constant(reg::RCX, u64::from(shift) + 3);
        self.code.sarx(reg::R11, wide, reg::RCX);
        self.code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
        self.code.lea(reg::R10, Mem::Scaled(reg::R10, reg::R11, shift));
        if address.narrow {
            // mov r10d, r10d
            self.code.raw(&[0x45, 0x89, 0xd2]);
        }
        let write = opcode != 0xa3;
        self.probe(reg::R10, reg::R11, Operand { size, write, flags_live });
        self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
        if write {
            // The index within the operand, for an operand in memory.
            self.code.pext(reg::R11, number, layout::BIT_INDEX + i32::from(shift) * 8);
            if instruction.has_lock_prefix() {
                self.code.raw(&[0xf0]);
            }
            if size == 2 {
                self.code.raw(&[0x66]);
            }
            self.code.op(size == 8, &[0x0f, opcode], reg::R11, Mem::Base(reg::R10, 0));
        } else {
            // Of a register the host takes the index modulo its size.
            if size == 2 {
                // movzx r10d, word ptr [r10]
                self.code.op(false, &[0x0f, 0xb7], reg::R10, Mem::Base(reg::R10, 0));
                self.code.raw(&[0x66]);
            } else {
                self.code.op(size == 8, &[0x8b], reg::R10, Mem::Base(reg::R10, 0));
            }
            let rex = 0x41 | u8::from(size == 8) << 3 | (number >> 3) << 2;
            self.code.raw(&[rex, 0x0f, opcode, 0xc0 | (number & 7) << 3 | reg::R10 & 7]);
        }
        Done::Next
    }
}
