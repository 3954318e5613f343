//! Pushes, and how blocks go on: to another place in the page by a jump that is linked when it is
//! first taken, elsewhere through the jump cache.

use crate::build::{Builder, ColdKind, Done, Far, Home, home_of};
use crate::emit::{Mem, reg};
use crate::layout;
use crate::memory::Operand;
use crate::site::Kind;
use iced_x86::{Instruction, OpKind};

impl Builder<'_> {
    /// PUSH of 64 bits.
    pub(crate) fn push(&mut self, instruction: &Instruction, flags_live: bool) -> Done {
        let top = Operand { size: 8, write: true, flags_live };
        match instruction.op0_kind() {
            OpKind::Register => {
                let register = instruction.op0_register();
                self.free_scratch();
                let home = home_of(register);
                let (first, second) = match home {
                    Some(0) => (reg::R11, reg::R10),
                    _ => (reg::R10, reg::R11),
                };
                self.code.lea(first, Mem::Base(reg::RSP, -8));
                self.probe(first, second, top);
                if let Some(home) = home {
                    self.code.lea(first, Mem::Sum(first, second));
                    self.need(home);
                    self.code.store(Mem::Base(first, 0), second);
                } else {
                    self.code.store(Mem::Sum(first, second), register.number() as u8);
                }
            }
            OpKind::Memory => {
                if !self.linear(instruction, reg::R10, reg::R11) {
                    return Done::Refused;
                }
                self.probe(reg::R10, reg::R11, Operand { write: false, ..top });
                self.code.load(reg::R10, Mem::Sum(reg::R10, reg::R11));
                self.code.store(Mem::Gs(layout::WAITING), reg::R10);
                self.code.lea(reg::R10, Mem::Base(reg::RSP, -8));
                self.probe(reg::R10, reg::R11, top);
                self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
                self.code.load(reg::R11, Mem::Gs(layout::WAITING));
                self.code.store(Mem::Base(reg::R10, 0), reg::R11);
            }
            _ => {
                let Ok(value) = i32::try_from(instruction.immediate(0) as i64) else {
                    return Done::Refused;
                };
                self.free_scratch();
                self.code.lea(reg::R10, Mem::Base(reg::RSP, -8));
                self.probe(reg::R10, reg::R11, top);
                self.code.store_imm(Mem::Sum(reg::R10, reg::R11), value);
            }
        }
        self.code.lea(reg::RSP, Mem::Base(reg::RSP, -8));
        Done::Next
    }

    /// Pushes the address of the next instruction; the scratch registers are free.
    pub(crate) fn push_return(&mut self, flags_live: bool) {
        self.code.lea(reg::R10, Mem::Base(reg::RSP, -8));
        self.probe(reg::R10, reg::R11, Operand { size: 8, write: true, flags_live });
        let back = i32::from(self.offset) + i32::from(self.length);
        let linear = self.page_base().wrapping_add(back as u64);
        if !self.source.absolute {
            self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
            self.code.load(reg::R11, Mem::Gs(layout::CODE_BASE));
            self.code.lea(reg::R11, Mem::Base(reg::R11, back));
            self.code.store(Mem::Base(reg::R10, 0), reg::R11);
        } else if let Ok(value) = i32::try_from(linear as i64) {
            self.code.store_imm(Mem::Sum(reg::R10, reg::R11), value);
        } else {
            self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
            self.code.constant(reg::R11, linear);
            self.code.store(Mem::Base(reg::R10, 0), reg::R11);
        }
        self.code.lea(reg::RSP, Mem::Base(reg::RSP, -8));
    }

    /// Loads the target of an indirect jump or call into R10; `false` if that cannot be done.
    pub(crate) fn target(&mut self, instruction: &Instruction, flags_live: bool) -> bool {
        if instruction.op0_kind() == OpKind::Register {
            let register = instruction.op0_register();
            if let Some(home) = home_of(register) {
                self.need(home);
            }
            self.flush();
            self.homes = [Home::default(); 2];
            let number = register.number() as u8;
            if number != reg::R10 {
                self.code.copy(reg::R10, number);
            }
            return true;
        }
        if !self.linear(instruction, reg::R10, reg::R11) {
            return false;
        }
        self.probe(reg::R10, reg::R11, Operand { size: 8, write: false, flags_live });
        self.code.load(reg::R10, Mem::Sum(reg::R10, reg::R11));
        true
    }

    /// Goes on at `target`, relative to the page, if the condition holds.
    pub(crate) fn edge(&mut self, target: u64, condition: Option<u8>, stack: i64) {
        // A straddling instruction depends on where the next page is mapped, as far ones do.
        let inside = target < 0x1000 && !self.straddles(target);
        match condition {
            Some(condition) => {
                let displacement = self.code.jump_if(condition, 0);
                if inside {
                    let site = self.site(Kind::Link { patch: displacement, target });
                    self.cold(displacement, site, ColdKind::Leave);
                } else {
                    self.fars.push(Far { displacement, target, offset: self.offset });
                }
            }
            None if inside => {
                let displacement = self.code.jump(0);
                let site = self.site(Kind::Link { patch: displacement, target });
                self.cold(displacement, site, ColdKind::Leave);
            }
            None => self.far_edge(target, stack),
        }
    }

    pub(crate) fn far_edge(&mut self, target: u64, stack: i64) {
        let away = i32::try_from(target as i64);
        match away {
            Ok(away) if !self.source.absolute => {
                self.code.load(reg::R10, Mem::Gs(layout::CODE_BASE));
                self.code.lea(reg::R10, Mem::Base(reg::R10, away));
            }
            Err(_) if !self.source.absolute => {
                self.code.load(reg::R10, Mem::Gs(layout::CODE_BASE));
                self.code.constant(reg::R11, target);
                self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
            }
            _ => {
                let linear = self.page_base().wrapping_add(target);
                self.code.constant(reg::R10, linear);
            }
        }
        self.through_jump_cache(stack);
    }

    /// Goes on at the linear address in R10.
    pub(crate) fn through_jump_cache(&mut self, stack: i64) {
        if self.shadow {
            // Where it leads looks whether something wants attention.
            self.end_shadow();
        }
        let jumps = self.set.jumps;
        self.code.rorx(reg::R11, reg::R10, 12);
        self.code.lea(reg::R11, Mem::Sum(reg::R11, reg::R10));
        self.code.pext(reg::R11, reg::R11, layout::JUMP_MASK);
        self.code.lea(reg::R11, Mem::Sum(reg::R11, reg::R11));
        self.code.store(Mem::Gs(layout::SAVED_RCX), reg::RCX);
        self.code.load(reg::RCX, Mem::GsIndex8(reg::R11, jumps));
        self.code.lea(reg::RCX, Mem::Sum(reg::RCX, reg::R10));
        let site = self.site(Kind::Indirect { stack });
        // jrcxz over the two instructions that leave
        self.code.raw(&[0xe3, 14]);
        self.code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
        let displacement = self.code.jump(0);
        self.cold(displacement, site, ColdKind::Jump(self.set_number));
        self.code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
        // jmp [entry's code]
        self.code.op(false, &[0xff], 4, Mem::GsIndex8(reg::R11, jumps + 8));
    }
}
