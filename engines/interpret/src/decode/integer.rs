//! Instructions of ordinary programs.

use super::{Lowering, segment};
use crate::cpu::{ZERO, seg};
use crate::exec::operand::Kind;
use crate::exec::{
    alu, bits, branch, conditional, decimal, exchange, moves, muldiv, shift, stack, string,
};
use crate::op::Handler;
use crate::system::{control, segments};
use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};

impl Lowering<'_> {
    /// Instructions of ordinary programs.
    pub(super) fn integer(&mut self) -> Option<Handler> {
        let instruction = self.instruction;
        let mnemonic = instruction.mnemonic();
        Some(match mnemonic {
            M::Mov => return self.mov(),
            M::Movnti => {
                let (size, dst, src) = self.two();
                moves::mov(size, dst, src)
            }
            M::Add => self.binary::<alu::Add>(),
            M::Or => self.binary::<alu::Or>(),
            M::Adc => self.binary::<alu::Adc>(),
            M::Sbb => self.binary::<alu::Sbb>(),
            M::And => self.binary::<alu::And>(),
            M::Sub => self.binary::<alu::Sub>(),
            M::Xor => self.binary::<alu::Xor>(),
            M::Cmp => {
                let (size, dst, src) = self.two();
                alu::binary::<alu::Cmp>(size, dst, src, false)
            }
            M::Test => self.test(),
            M::Inc => self.unary::<alu::Inc>(),
            M::Dec => self.unary::<alu::Dec>(),
            M::Neg => self.unary::<alu::Neg>(),
            M::Not => self.unary::<alu::Not>(),
            M::Lea => {
                self.registers(Some(0), None);
                moves::lea(self.operand_size(0))
            }
            M::Movzx | M::Movsx | M::Movsxd => {
                self.registers(Some(0), Some(1));
                let (to, from) = (self.operand_size(0), self.operand_size(1));
                let source = self.kind(1);
                if to == from {
                    // MOVSXD with a 16- or 32-bit destination is a plain move.
                    moves::mov(to, Kind::Reg, source)
                } else {
                    moves::extend(to, from, source, mnemonic != M::Movzx)
                }
            }
            M::Push | M::Pop => return self.push_pop(mnemonic == M::Push),
            M::Pusha | M::Pushad => stack::push_all(if mnemonic == M::Pusha { 2 } else { 4 }),
            M::Popa | M::Popad => stack::pop_all(if mnemonic == M::Popa { 2 } else { 4 }),
            M::Pushf | M::Pushfd | M::Pushfq => stack::push_flags(self.stack_size()),
            M::Popf | M::Popfd | M::Popfq => stack::pop_flags(self.stack_size()),
            M::Leave => stack::leave(match instruction.code() {
                Code::Leavew => 2,
                Code::Leaved => 4,
                _ => 8,
            }),
            M::Enter => {
                self.op.imm = instruction.immediate(0) & 0xffff;
                self.op.src = instruction.immediate(1) as u8;
                stack::enter(match instruction.code() {
                    Code::Enterw_imm16_imm8 => 2,
                    Code::Enterd_imm16_imm8 => 4,
                    _ => 8,
                })
            }
            M::Jmp => match instruction.op0_kind() {
                OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                    self.near_target();
                    branch::jump
                }
                OpKind::FarBranch16 | OpKind::FarBranch32 => return None,
                _ if instruction.is_jmp_far_indirect() => return None,
                _ => {
                    let (size, operand) = self.one();
                    branch::jump_to(size, operand)
                }
            },
            M::Call => match instruction.op0_kind() {
                OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                    self.near_target();
                    branch::call(self.stack_size())
                }
                OpKind::FarBranch16 | OpKind::FarBranch32 => return None,
                _ if instruction.is_call_far_indirect() => return None,
                _ => {
                    let (size, operand) = self.one();
                    branch::call_to(size, operand)
                }
            },
            M::Ret => {
                if instruction.op_count() == 1 {
                    self.op.imm = instruction.immediate(0) & 0xffff;
                }
                branch::ret(match instruction.code() {
                    Code::Retnw | Code::Retnw_imm16 => 2,
                    Code::Retnd | Code::Retnd_imm16 => 4,
                    _ => 8,
                })
            }
            _ if instruction.is_jcc_short_or_near() => {
                self.near_target();
                conditional::jump_if(instruction.condition_code() as u8 - 1)
            }
            M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz => {
                return self.count_jump();
            }
            _ if is_setcc(mnemonic) => {
                let (_, dst) = self.one();
                self.op.imm = condition(instruction);
                conditional::set_if(dst)
            }
            _ if is_cmovcc(mnemonic) => {
                let (size, _, src) = self.two();
                self.op.imm = condition(instruction);
                conditional::move_if(size, src)
            }
            M::Rol => self.shift::<shift::Rol>(),
            M::Ror => self.shift::<shift::Ror>(),
            M::Rcl => self.shift::<shift::Rcl>(),
            M::Rcr => self.shift::<shift::Rcr>(),
            M::Shl | M::Sal => self.shift::<shift::Shl>(),
            M::Shr => self.shift::<shift::Shr>(),
            M::Sar => self.shift::<shift::Sar>(),
            M::Shld => self.double_shift(true),
            M::Shrd => self.double_shift(false),
            M::Bt => self.bit(bits::BitOp::Test),
            M::Bts => self.bit(bits::BitOp::Set),
            M::Btr => self.bit(bits::BitOp::Reset),
            M::Btc => self.bit(bits::BitOp::Complement),
            M::Bsf | M::Bsr => {
                let (size, _, src) = self.two();
                bits::scan(size, src, mnemonic == M::Bsr)
            }
            M::Mul => {
                let (size, operand) = self.one();
                muldiv::multiply(size, operand, false)
            }
            M::Imul => self.multiply_to(),
            M::Div | M::Idiv => {
                let (size, operand) = self.one();
                muldiv::divide(size, operand, mnemonic == M::Idiv)
            }
            M::Cbw | M::Cwde | M::Cdqe => {
                self.op.size = match mnemonic {
                    M::Cbw => 2,
                    M::Cwde => 4,
                    _ => 8,
                };
                moves::sign_extend_accumulator
            }
            M::Cwd | M::Cdq | M::Cqo => {
                self.op.size = match mnemonic {
                    M::Cwd => 2,
                    M::Cdq => 4,
                    _ => 8,
                };
                moves::sign_to_data
            }
            M::Xchg => {
                // Memory may be either operand; the register is the source.
                let (size, dst, _) = self.two();
                let memory = dst == Kind::Mem || self.kind(1) == Kind::Mem;
                if self.kind(1) == Kind::Mem {
                    self.op.src = self.op.dst;
                }
                exchange::exchange(size, if memory { Kind::Mem } else { Kind::Reg })
            }
            M::Xadd => {
                let (size, dst, _) = self.two();
                exchange::exchange_add(size, dst)
            }
            M::Cmpxchg => {
                let (size, dst, _) = self.two();
                exchange::compare_exchange(size, dst)
            }
            M::Cmpxchg8b => exchange::compare_exchange_8,
            M::Cmpxchg16b => exchange::compare_exchange_16,
            M::Bswap => {
                self.one();
                moves::bswap
            }
            M::Movbe => {
                let (size, dst, _) = self.two();
                moves::movbe(size, dst)
            }
            M::Xlatb => {
                self.op.address_mask = match instruction.memory_base() {
                    Register::BX => 0xffff,
                    Register::EBX => 0xffff_ffff,
                    _ => u64::MAX,
                };
                self.op.base = ambos_x86::gpr::RBX as u8;
                self.op.index = ZERO as u8;
                moves::xlat
            }
            M::Lahf => moves::lahf,
            M::Sahf => moves::sahf,
            M::Clc => self.change_flags(1, 0, 0),
            M::Stc => self.change_flags(0, 1, 0),
            M::Cmc => self.change_flags(0, 0, 1),
            M::Cld => self.change_flags(1 << 10, 0, 0),
            M::Std => self.change_flags(0, 1 << 10, 0),
            M::Movsb | M::Movsw | M::Movsq => self.string(string::movs),
            M::Movsd if instruction.is_string_instruction() => self.string(string::movs),
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => self.string(string::stos),
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => self.string(string::lods),
            M::Cmpsb | M::Cmpsw | M::Cmpsq => self.string(string::cmps),
            M::Cmpsd if instruction.is_string_instruction() => self.string(string::cmps),
            M::Scasb | M::Scasw | M::Scasd | M::Scasq => self.string(string::scas),
            M::Insb | M::Insw | M::Insd => self.string(string::ins),
            M::Outsb | M::Outsw | M::Outsd => self.string(string::outs),
            M::Daa => decimal::daa,
            M::Das => decimal::das,
            M::Aaa => decimal::aaa,
            M::Aas => decimal::aas,
            M::Aam | M::Aad => {
                self.op.imm = instruction.immediate(0) & 0xff;
                if mnemonic == M::Aam { decimal::aam } else { decimal::aad }
            }
            M::Salc => decimal::salc,
            M::Bound => {
                self.registers(Some(0), None);
                self.op.size = self.operand_size(0);
                decimal::bound
            }
            M::Arpl => {
                let (_, dst, _) = self.two();
                self.op.rep = u8::from(dst == Kind::Mem);
                decimal::arpl
            }
            M::Nop
            | M::Pause
            | M::Endbr64
            | M::Endbr32
            | M::Rdsspd
            | M::Rdsspq
            | M::Cldemote
            | M::Prefetch
            | M::Prefetchw
            | M::Prefetchwt1
            | M::Prefetchnta
            | M::Prefetchit0
            | M::Prefetchit1
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Reservednop => moves::nothing,
            M::Lfence | M::Sfence | M::Mfence | M::Serialize => moves::fence,
            M::Clflush | M::Clflushopt | M::Clwb => moves::touch,
            _ => return None,
        })
    }

    fn mov(&mut self) -> Option<Handler> {
        let instruction = self.instruction;
        let segment_operand = |index: u32| {
            instruction.op_kind(index) == OpKind::Register
                && instruction.op_register(index).is_segment_register()
        };
        if segment_operand(0) {
            self.registers(None, Some(1));
            self.op.dst = segment(instruction.op0_register());
            if self.op.dst == seg::CS as u8 {
                return Some(control::undefined);
            }
            self.ends_block = true;
            let memory = self.kind(1) == Kind::Mem;
            return Some(if memory { segments::mov_from_mem } else { segments::mov_from_reg });
        }
        if segment_operand(1) {
            self.registers(Some(0), None);
            self.op.size = self.operand_size(0);
            self.op.src = segment(instruction.op1_register());
            let memory = self.kind(0) == Kind::Mem;
            return Some(if memory { segments::mov_to_mem } else { segments::mov_to_reg });
        }
        let special = |index: u32| {
            let register = instruction.op_register(index);
            instruction.op_kind(index) == OpKind::Register
                && (register.is_cr() || register.is_dr() || register.is_tr())
        };
        if special(0) || special(1) {
            return self.mov_control();
        }
        let (size, dst, src) = self.two();
        Some(moves::mov(size, dst, src))
    }

    fn push_pop(&mut self, push: bool) -> Option<Handler> {
        let size = self.stack_size();
        self.op.size = size;
        let operand = self.instruction.op0_register();
        if self.kind(0) == Kind::Reg && operand.is_segment_register() {
            (self.op.dst, self.op.src) = (segment(operand), segment(operand));
            self.ends_block |= !push;
            return Some(if push { segments::push } else { segments::pop });
        }
        self.registers(Some(0), Some(0));
        self.immediate(0);
        Some(if push { stack::push(size, self.kind(0)) } else { stack::pop(size, self.kind(0)) })
    }

    fn count_jump(&mut self) -> Option<Handler> {
        self.near_target();
        self.op.src = match self.instruction.mnemonic() {
            M::Loop => 0,
            M::Loope => 1,
            M::Loopne => 2,
            _ => 3,
        };
        let name = format!("{:?}", self.instruction.code());
        // The counter's size is the address size, which only the code tells.
        self.op.size = if name.starts_with("Jcxz") || name.ends_with("_CX") {
            2
        } else if name.starts_with("Jecxz") || name.ends_with("_ECX") {
            4
        } else {
            8
        };
        Some(branch::count_jump)
    }
}

fn condition(instruction: &Instruction) -> u64 {
    u64::from(instruction.condition_code() as u8 - 1)
}

fn is_setcc(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Seto
            | M::Setno
            | M::Setb
            | M::Setae
            | M::Sete
            | M::Setne
            | M::Setbe
            | M::Seta
            | M::Sets
            | M::Setns
            | M::Setp
            | M::Setnp
            | M::Setl
            | M::Setge
            | M::Setle
            | M::Setg
    )
}

fn is_cmovcc(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Cmovo
            | M::Cmovno
            | M::Cmovb
            | M::Cmovae
            | M::Cmove
            | M::Cmovne
            | M::Cmovbe
            | M::Cmova
            | M::Cmovs
            | M::Cmovns
            | M::Cmovp
            | M::Cmovnp
            | M::Cmovl
            | M::Cmovge
            | M::Cmovle
            | M::Cmovg
    )
}
