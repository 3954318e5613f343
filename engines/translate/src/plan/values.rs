//! What registers hold in a block: each a numbered unknown plus a constant.

use super::Address;
use crate::classify::Action;
use iced_x86::{Code, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};

const RSP: usize = 4;
const RBP: usize = 5;

/// What is known of a register: an unknown and a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) unknown: u32,
    pub(super) constant: i64,
}

/// The unknown part of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) base: Option<u32>,
    pub(super) index: Option<(u32, u32)>,
    pub(super) segment: Option<usize>,
    /// The block's page.
    pub(super) page: bool,
}

impl Origin {
    /// Whether it is the stack pointer at the block's start.
    pub(super) fn is_stack(&self) -> bool {
        self.base == Some(RSP as u32) && self.index.is_none()
    }
}

/// What 16 registers hold.
pub(super) type Registers = [Value; 16];

/// What is known at one place of a block.
#[derive(Debug)]
pub(super) struct Values {
    page: u64,
    unknowns: u32,
    pub(super) registers: Registers,
}

impl Values {
    /// What is known at the start of a block at the page `page`.
    pub(super) fn new(page: u64) -> Self {
        Self {
            page,
            unknowns: 16,
            registers: std::array::from_fn(|number| Value { unknown: number as u32, constant: 0 }),
        }
    }

    /// Nothing is known any more.
    pub(super) fn forget_all(&mut self) {
        for register in 0..16 {
            self.forget(register);
        }
    }

    fn forget(&mut self, register: usize) {
        self.unknowns += 1;
        self.registers[register] = Value { unknown: self.unknowns, constant: 0 };
    }

    fn add(&mut self, register: usize, constant: i64) {
        let value = &mut self.registers[register];
        value.constant = value.constant.wrapping_add(constant);
    }

    /// What an instruction does to the registers.
    pub(super) fn transfer(
        &mut self,
        instruction: &Instruction,
        action: Action,
        info: &mut InstructionInfoFactory,
    ) {
        let to = number(instruction.op0_register());
        match action {
            Action::Skip | Action::Branch => {}
            Action::Push => self.add(RSP, -8),
            Action::Pop => {
                self.add(RSP, 8);
                if let Some(to) = to {
                    self.forget(to);
                }
            }
            Action::Leave => {
                self.registers[RSP] = self.registers[RBP];
                self.add(RSP, 8);
                self.forget(RBP);
            }
            _ => match (known(instruction), to) {
                (Some(Known::Add(constant)), Some(to)) => self.add(to, constant),
                (Some(Known::Sum(from, constant)), Some(to)) => {
                    self.registers[to] = self.registers[from];
                    self.add(to, constant);
                }
                _ => {
                    for used in info.info(instruction).used_registers() {
                        let written = !matches!(
                            used.access(),
                            OpAccess::Read | OpAccess::CondRead | OpAccess::None
                        );
                        if written && used.register().is_gpr() {
                            self.forget(used.register().full_register().number());
                        }
                    }
                }
            },
        }
    }

    /// What an address is made of, and its distance from that; `None` if that is not worth a thought.
    pub(super) fn origin(&self, address: Address) -> Option<(Origin, i64)> {
        if address.narrow {
            return None;
        }
        let mut offset = address.displacement;
        let mut origin = Origin { base: None, index: None, segment: address.segment, page: false };
        if address.base == Register::RIP {
            offset = (address.displacement as u64).wrapping_sub(self.page) as i64;
            origin.page = true;
        } else {
            if let Some(base) = number(address.base) {
                let value = self.registers[base];
                origin.base = Some(value.unknown);
                offset = offset.wrapping_add(value.constant);
            }
            if let Some(index) = number(address.index) {
                let value = self.registers[index];
                origin.index = Some((value.unknown, address.scale));
                let scaled = value.constant.wrapping_mul(i64::from(address.scale));
                offset = offset.wrapping_add(scaled);
            }
        }
        i32::try_from(offset).ok()?;
        Some((origin, offset))
    }
}

fn number(register: Register) -> Option<usize> {
    register.is_gpr64().then(|| register.number())
}

/// What an instruction leaves in its first operand, if that is known.
enum Known {
    /// What was there, plus a constant.
    Add(i64),
    /// What is in another register, plus a constant.
    Sum(usize, i64),
}

fn known(instruction: &Instruction) -> Option<Known> {
    Some(match instruction.code() {
        Code::Add_rm64_imm8 | Code::Add_rm64_imm32 | Code::Add_RAX_imm32 => {
            Known::Add(instruction.immediate(1) as i64)
        }
        Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 | Code::Sub_RAX_imm32 => {
            Known::Add((instruction.immediate(1) as i64).wrapping_neg())
        }
        Code::Inc_rm64 => Known::Add(1),
        Code::Dec_rm64 => Known::Add(-1),
        Code::Mov_r64_rm64 | Code::Mov_rm64_r64
            if instruction.op0_kind() == OpKind::Register
                && instruction.op1_kind() == OpKind::Register =>
        {
            Known::Sum(number(instruction.op1_register())?, 0)
        }
        Code::Lea_r64_m if instruction.memory_index() == Register::None => Known::Sum(
            number(instruction.memory_base())?,
            instruction.memory_displacement64() as i64,
        ),
        _ => return None,
    })
}
