//! Pushes and pops, calls and returns as far as they concern the stack, and targets in memory.
//!
//! Where several of them follow each other and their words are known to be there, the stack pointer is moved
//! once for all of them, before anything may leave or read it.

use crate::build::{Builder, Done};
use crate::classify::{Action, raises};
use crate::emit::{Mem, reg};
use crate::layout;
use crate::memory::Operand;
use crate::plan::Slot;
use crate::scratch::home_of;
use iced_x86::{Instruction, OpKind, Register};

impl Builder<'_> {
    /// Moves the stack pointer to where it belongs.
    pub(crate) fn move_stack(&mut self) {
        let behind = std::mem::take(&mut self.stack_behind);
        if behind != 0 {
            self.code.lea(reg::RSP, Mem::Base(reg::RSP, behind));
        }
    }

    /// Whether an instruction runs the same if the stack pointer is moved only after it: it does not use it
    /// but for words that a group has found, and cannot leave.
    pub(crate) fn may_be_behind(&mut self, instruction: &Instruction, action: Action) -> bool {
        if self.source.narrow || self.shadow || self.plan.probes_at(self.index).next().is_some() {
            return false;
        }
        let in_memory = (0..instruction.op_count())
            .any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        let found = !in_memory || self.member(Slot::Operand).is_some();
        let explicit = (0..instruction.op_count()).any(|operand| {
            instruction.op_kind(operand) == OpKind::Register
                && instruction.op_register(operand).full_register() == Register::RSP
        });
        let on_stack = self.member(Slot::Stack).is_some();
        match action {
            Action::Skip => true,
            Action::Copy | Action::Address => {
                let used = self.info.info(instruction).used_registers();
                let stack =
                    used.iter().any(|used| used.register().full_register() == Register::RSP);
                let harmless = !raises(instruction);
                let reads_stack = stack && (action == Action::Address || explicit || !found);
                (found || action == Action::Address) && harmless && !reads_stack
            }
            Action::Push | Action::Pop => on_stack && found && !explicit,
            Action::Call | Action::Return => on_stack,
            _ => false,
        }
    }

    /// PUSH of 64 bits.
    pub(crate) fn push(&mut self, instruction: &Instruction, flags_live: bool) -> Done {
        let top = Operand { size: 8, write: true, flags_live };
        let member = self.member(Slot::Stack);
        match instruction.op0_kind() {
            OpKind::Register => {
                let register = instruction.op0_register();
                let (number, home) = (register.number() as u8, home_of(register));
                if let Some(member) = member {
                    let pass = home.and_then(|home| self.pass_by(member, home));
                    if let (Some(home), None) = (home, pass) {
                        self.need(home);
                    }
                    let avoid = if pass.is_some() { None } else { home };
                    let to = self.reach(member, (Register::RSP, -8), avoid);
                    if let Some(pass) = pass {
                        self.code.load(pass, Mem::Gs(layout::gpr(number)));
                    }
                    self.note_access();
                    self.code.store(to, pass.unwrap_or(number));
                } else {
                    self.free_scratch();
                    let (first, second) = match home {
                        Some(0) => (reg::R11, reg::R10),
                        _ => (reg::R10, reg::R11),
                    };
                    self.code.lea(first, Mem::Base(reg::RSP, -8));
                    self.probe(first, second, top);
                    if let Some(home) = home {
                        self.code.lea(first, Mem::Sum(first, second));
                        self.need(home);
                        self.note_access();
                        self.code.store(Mem::Base(first, 0), second);
                    } else {
                        self.note_access();
                        self.code.store(Mem::Sum(first, second), number);
                    }
                }
            }
            OpKind::Memory => {
                if let Some(value) = self.member(Slot::Operand) {
                    self.load_member(instruction, value);
                    // What is in R10 is nothing to keep.
                } else {
                    let value = Operand { write: false, ..top };
                    let Some(from) = self.locate(instruction, reg::R10, reg::R11, value) else {
                        return Done::Refused;
                    };
                    self.note_access();
                    self.code.load(reg::R10, from);
                }
                if let Some(member) = member {
                    let to = self.reach(member, (Register::RSP, -8), Some(0));
                    self.note_access();
                    self.code.store(to, reg::R10);
                } else {
                    self.free_scratch();
                    self.code.store(Mem::Gs(layout::WAITING), reg::R10);
                    self.code.lea(reg::R10, Mem::Base(reg::RSP, -8));
                    self.probe(reg::R10, reg::R11, top);
                    self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
                    self.code.load(reg::R11, Mem::Gs(layout::WAITING));
                    self.note_access();
                    self.code.store(Mem::Base(reg::R10, 0), reg::R11);
                }
            }
            _ => {
                let Ok(value) = i32::try_from(instruction.immediate(0) as i64) else {
                    return Done::Refused;
                };
                let to = match member {
                    Some(member) => self.reach(member, (Register::RSP, -8), None),
                    None => {
                        self.probe_push(top);
                        Mem::Sum(reg::R10, reg::R11)
                    }
                };
                self.note_access();
                self.code.store_imm(to, value);
            }
        }
        self.stack_behind -= 8;
        Done::Next
    }

    /// Probes for the word below the stack pointer.
    fn probe_push(&mut self, top: Operand) {
        self.free_scratch();
        self.code.lea(reg::R10, Mem::Base(reg::RSP, -8));
        self.probe(reg::R10, reg::R11, top);
    }

    /// The word that `register` points at, in the stack.
    fn stack_word(&mut self, register: Register, avoid: Option<usize>, flags_live: bool) -> Mem {
        if let Some(member) = self.member(Slot::Stack) {
            return self.reach(member, (register, 0), avoid);
        }
        self.free_scratch();
        self.code.copy(reg::R10, register.number() as u8);
        self.probe(reg::R10, reg::R11, Operand { size: 8, write: false, flags_live });
        Mem::Sum(reg::R10, reg::R11)
    }

    /// POP of 64 bits into a register.
    pub(crate) fn pop(&mut self, instruction: &Instruction, flags_live: bool) {
        let register = instruction.op0_register();
        let (number, home) = (register.number() as u8, home_of(register));
        if let (Some(member), Some(home)) = (self.member(Slot::Stack), home)
            && let Some(pass) = self.pass_by(member, home)
        {
            let from = self.reach(member, (Register::RSP, 0), None);
            self.code.load(pass, from);
            self.code.store(Mem::Gs(layout::gpr(number)), pass);
            self.stack_behind += 8;
            return;
        }
        let from = self.stack_word(Register::RSP, home, flags_live);
        if let Some(home) = home {
            self.release(home);
        }
        self.note_access();
        self.code.load(number, from);
        if number != reg::RSP {
            self.stack_behind += 8;
        }
        if let Some(home) = home {
            self.written(home);
        }
    }

    /// LEAVE.
    pub(crate) fn leave(&mut self, flags_live: bool) {
        let from = self.stack_word(Register::RBP, None, flags_live);
        if self.viewing {
            // It may fault, after which nothing must have changed.
            let to = self.take_scratch(0);
            self.note_access();
            self.code.load(to, from);
            self.code.lea(reg::RSP, Mem::Base(reg::RBP, 8));
            self.code.copy(reg::RBP, to);
            return;
        }
        self.code.lea(reg::RSP, Mem::Base(reg::RBP, 8));
        self.code.load(reg::RBP, from);
    }

    /// Pushes the address of the next instruction, where the block ends.
    pub(crate) fn push_return(&mut self, flags_live: bool) {
        if self.source.narrow {
            return self.push_return32(flags_live);
        }
        let back = i32::from(self.offset) + i32::from(self.length);
        let linear = self.page_base().wrapping_add(back as u64);
        let to = match self.member(Slot::Stack) {
            Some(member) => {
                self.flush();
                self.reach(member, (Register::RSP, -8), Some(0))
            }
            None => {
                self.probe_push(Operand { size: 8, write: true, flags_live });
                Mem::Sum(reg::R10, reg::R11)
            }
        };
        if self.source.absolute
            && let Ok(value) = i32::try_from(linear as i64)
        {
            self.note_access();
            self.code.store_imm(to, value);
        } else {
            let to = match to {
                Mem::Sum(first, second) => {
                    self.code.lea(second, Mem::Sum(first, second));
                    Mem::Base(second, 0)
                }
                to => to,
            };
            self.take_scratch(0);
            self.next_address(reg::R10);
            self.note_access();
            self.code.store(to, reg::R10);
            self.next_in_r10 = true;
        }
        self.stack_behind -= 8;
    }

    /// RET: takes the address to go on at and goes there.
    pub(crate) fn return_near(&mut self, instruction: &Instruction, flags_live: bool) {
        let release = match instruction.op_count() {
            0 => 8,
            _ => 8 + (instruction.immediate(0) & 0xffff) as i32,
        };
        self.flush();
        let from = self.stack_word(Register::RSP, None, flags_live);
        self.note_access();
        self.code.load(reg::R10, from);
        self.stack_behind += release;
        self.move_stack();
        self.through_jump_cache(release);
    }

    /// Whether a call leaves alone where it finds its target.
    pub(crate) fn keeps_target(&self, instruction: &Instruction) -> bool {
        let register = instruction.op0_register().full_register();
        instruction.op0_kind() == OpKind::Register
            && register != Register::RSP
            && !self.source.narrow
    }

    /// Loads the target of an indirect jump or call into R10, where the block ends; `false` if that
    /// cannot be done.
    pub(crate) fn target(&mut self, instruction: &Instruction, flags_live: bool) -> bool {
        if self.source.narrow {
            return self.target32(instruction, flags_live);
        }
        if instruction.op0_kind() == OpKind::Register {
            let register = instruction.op0_register();
            if let Some(home) = home_of(register) {
                self.need(home);
            }
            self.flush();
            let number = register.number() as u8;
            if number != reg::R10 {
                self.take_scratch(0);
                self.code.copy(reg::R10, number);
            }
            return true;
        }
        if let Some(member) = self.member(Slot::Operand) {
            self.flush();
            self.load_member(instruction, member);
            return true;
        }
        let operand = Operand { size: 8, write: false, flags_live };
        let Some(from) = self.locate(instruction, reg::R10, reg::R11, operand) else {
            return false;
        };
        self.note_access();
        self.code.load(reg::R10, from);
        true
    }
}
