//! From a decoded instruction to its handler and operands.
//!
//! Common integer instructions and everything that touches system state have handlers of their own,
//! chosen here; other computing instructions get a thunk ([`crate::exec::native`]); what is left is
//! answered with #UD and noted as unserved.

use crate::cpu::{Cpu, Mode, RIP, ZERO, seg};
use crate::exec::operand::Kind;
use crate::exec::{
    alu, bits, branch, conditional, decimal, exchange, gather, moves, muldiv, native, shift, stack,
    string,
};
use crate::op::{Extra, Handler, Op};
use crate::system::{
    control, cpuid, debug, far, interrupt, io, iret, msr, segments, syscall, tables, time, xsave,
};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic as M, OpKind, Register};

/// A lowered instruction.
#[derive(Debug)]
pub struct Lowered {
    /// Handler and operands.
    pub op: Op,
    /// Nothing after it belongs to the same block.
    pub ends_block: bool,
}

/// The op of bytes that are no instruction.
pub fn undefined(mode: Mode, _bytes: &[u8]) -> Op {
    let mut op = blank(mode);
    op.run = control::undefined;
    op.end = 1;
    op
}

fn blank(mode: Mode) -> Op {
    Op {
        run: moves::nothing,
        imm: 0,
        disp: 0,
        address_mask: u64::MAX,
        base: ZERO as u8,
        index: ZERO as u8,
        scale: 0,
        seg: seg::FLAT as u8,
        dst: 0,
        src: 0,
        size: 0,
        checked: mode.code_bits != 64,
        stack: false,
        rep: 0,
        start: 0,
        end: 0,
        extra: Extra::None,
    }
}

/// The number of a general-purpose register operand.
fn register(register: Register) -> u8 {
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => {
            16 + (register as u32 - Register::AH as u32) as u8
        }
        // Byte registers are numbered apart from the wider ones of the same name.
        _ => register.full_register().number() as u8,
    }
}

fn segment(register: Register) -> u8 {
    match register {
        Register::ES => seg::ES as u8,
        Register::CS => seg::CS as u8,
        Register::SS => seg::SS as u8,
        Register::FS => seg::FS as u8,
        Register::GS => seg::GS as u8,
        _ => seg::DS as u8,
    }
}

/// Mask of addresses of `bytes` bytes.
fn mask(bytes: usize) -> u64 {
    match bytes {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// Collects what `lower` decides.
struct Lowering<'a> {
    cpu: &'a mut Cpu,
    instruction: &'a Instruction,
    op: Op,
    ends_block: bool,
}

/// Lowers one instruction that starts `start` bytes into its block.
pub fn lower(cpu: &mut Cpu, instruction: &Instruction, bytes: &[u8], start: usize) -> Lowered {
    let mode = cpu.mode;
    let mut lowering = Lowering {
        cpu,
        instruction,
        op: blank(mode),
        ends_block: instruction.flow_control() != FlowControl::Next,
    };
    lowering.op.start = start as u16;
    lowering.op.end = (start + bytes.len()) as u16;
    lowering.memory_operand();
    let handler = lowering.integer().or_else(|| lowering.system());
    match handler {
        Some(run) => lowering.op.run = run,
        None => lowering.computing(),
    }
    Lowered { op: lowering.op, ends_block: lowering.ends_block }
}

impl Lowering<'_> {
    fn kind(&self, index: u32) -> Kind {
        match self.instruction.op_kind(index) {
            OpKind::Register => Kind::Reg,
            OpKind::Memory => Kind::Mem,
            _ => Kind::Imm,
        }
    }

    /// Operand size in bytes.
    fn operand_size(&self, index: u32) -> u8 {
        match self.instruction.op_kind(index) {
            OpKind::Register => self.instruction.op_register(index).size() as u8,
            _ => self.instruction.memory_size().size() as u8,
        }
    }

    fn is_64bit(&self) -> bool {
        self.cpu.mode.code_bits == 64
    }

    /// Fills in the memory operand's address.
    fn memory_operand(&mut self) {
        let instruction = self.instruction;
        let op = &mut self.op;
        let string =
            (0..instruction.op_count()).map(|index| instruction.op_kind(index)).find_map(|kind| {
                match kind {
                    OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(2),
                    OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(4),
                    OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(8),
                    _ => None,
                }
            });
        let memory =
            (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory);
        if !memory && string.is_none() {
            return;
        }
        let number = segment(instruction.memory_segment());
        let long = self.cpu.mode.code_bits == 64;
        op.stack = long && usize::from(number) == seg::SS;
        op.seg = if long && usize::from(number) < seg::FS { seg::FLAT as u8 } else { number };
        if let Some(bytes) = string {
            op.address_mask = mask(bytes);
            let pointer_is_di = (0..instruction.op_count()).any(|index| {
                matches!(
                    instruction.op_kind(index),
                    OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI
                )
            });
            // MASKMOVDQU addresses memory by DI; the string instructions have their own cursors.
            if pointer_is_di {
                op.base = ambos_x86::gpr::RDI as u8;
            }
            return;
        }
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        op.disp = instruction.memory_displacement64();
        let address_bytes = match (base, index) {
            (Register::RIP | Register::EIP, _) => {
                op.base = RIP as u8;
                op.disp = op.disp.wrapping_sub(self.cpu.native.gpr[RIP]);
                if base == Register::RIP { 8 } else { 4 }
            }
            (Register::None, Register::None) => match instruction.memory_displ_size() {
                2 => 2,
                4 => 4,
                _ => 8,
            },
            (Register::None, index) if index.is_vector_register() => {
                if long {
                    8
                } else {
                    4
                }
            }
            (Register::None, index) => index.size(),
            (base, _) => base.size(),
        };
        op.address_mask = mask(address_bytes);
        if base.is_gpr() {
            op.base = base.number() as u8;
        }
        if index.is_gpr() {
            op.index = index.number() as u8;
            op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
        }
    }

    /// Sets register operands from operand positions.
    fn registers(&mut self, dst: Option<u32>, src: Option<u32>) {
        let number = |index: u32| match self.instruction.op_kind(index) {
            OpKind::Register => register(self.instruction.op_register(index)),
            _ => 0,
        };
        if let Some(index) = dst {
            self.op.dst = number(index);
        }
        if let Some(index) = src {
            self.op.src = number(index);
        }
    }

    /// Sets the immediate from an operand position, if it is one.
    fn immediate(&mut self, index: u32) {
        if self.kind(index) == Kind::Imm {
            self.op.imm = self.instruction.immediate(index);
        }
    }

    /// Operand size, destination kind and source kind of a two-operand instruction, with registers
    /// and immediate set.
    fn two(&mut self) -> (u8, Kind, Kind) {
        self.registers(Some(0), Some(1));
        self.immediate(1);
        let size = self.operand_size(0);
        self.op.size = size;
        (size, self.kind(0), self.kind(1))
    }

    /// Operand size and kind of a one-operand instruction; the register is both source and
    /// destination.
    fn one(&mut self) -> (u8, Kind) {
        self.registers(Some(0), Some(0));
        let size = self.operand_size(0);
        self.op.size = size;
        (size, self.kind(0))
    }

    fn binary<O: alu::Binary>(&mut self) -> Handler {
        let lock = self.instruction.has_lock_prefix();
        let (size, dst, src) = self.two();
        alu::binary::<O>(size, dst, src, lock)
    }

    /// TEST has its operands in either order.
    fn test(&mut self) -> Handler {
        let (size, dst, src) = self.two();
        alu::binary::<alu::Test>(size, dst, src, false)
    }

    fn unary<O: alu::Unary>(&mut self) -> Handler {
        let lock = self.instruction.has_lock_prefix();
        let (size, operand) = self.one();
        alu::unary::<O>(size, operand, lock)
    }

    fn shift<O: shift::Shift>(&mut self) -> Handler {
        let (size, operand) = self.one();
        self.op.imm = if self.instruction.op_kind(1) == OpKind::Register {
            shift::COUNT_IN_CL
        } else {
            self.instruction.immediate(1) & 0xff
        };
        shift::shift::<O>(size, operand)
    }

    fn double_shift(&mut self, left: bool) -> Handler {
        self.registers(Some(0), Some(1));
        let size = self.operand_size(0);
        self.op.imm = if self.instruction.op_kind(2) == OpKind::Register {
            shift::COUNT_IN_CL
        } else {
            self.instruction.immediate(2) & 0xff
        };
        shift::double_shift(size, self.kind(0), left)
    }

    fn bit(&mut self, which: bits::BitOp) -> Handler {
        let lock = self.instruction.has_lock_prefix();
        let (size, dst, offset) = self.two();
        // Only register offsets reach beyond the operand; see `bits::locate`.
        if offset == Kind::Reg {
            self.op.imm = u64::MAX;
        } else {
            self.op.imm &= 0xff;
        }
        bits::bit(which, size, dst, offset, lock)
    }

    fn multiply_to(&mut self) -> Handler {
        if self.instruction.op_count() == 1 {
            let (size, operand) = self.one();
            return muldiv::multiply(size, operand, true);
        }
        let (size, _, src) = self.two();
        let immediate = self.instruction.op_count() == 3;
        if immediate {
            self.op.imm = self.instruction.immediate(2);
        }
        muldiv::multiply_to(size, src, immediate)
    }

    /// A jump target relative to the block, truncated to the operand size.
    fn near_target(&mut self) {
        let target = self.instruction.near_branch_target();
        self.op.imm = target.wrapping_sub(self.cpu.native.gpr[RIP]);
        self.op.address_mask = match self.instruction.op0_kind() {
            OpKind::NearBranch16 => 0xffff,
            OpKind::NearBranch32 => 0xffff_ffff,
            _ => u64::MAX,
        };
    }

    /// Operand size of an instruction that moves the stack pointer.
    fn stack_size(&self) -> u8 {
        match self.instruction.stack_pointer_increment().unsigned_abs() {
            2 => 2,
            4 => 4,
            _ => 8,
        }
    }

    fn string(&mut self, pick: fn(u8) -> Handler) -> Handler {
        self.op.rep = if self.instruction.has_repne_prefix() {
            string::REP_NE
        } else if self.instruction.has_rep_prefix() {
            string::REP_E
        } else {
            string::REP_NONE
        };
        pick(self.instruction.memory_size().size() as u8)
    }

    fn change_flags(&mut self, clear: u64, set: u64, toggle: u64) -> Handler {
        (self.op.imm, self.op.disp, self.op.address_mask) = (clear, set, toggle);
        moves::change_flags
    }

    /// Instructions of ordinary programs.
    fn integer(&mut self) -> Option<Handler> {
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

    fn mov_control(&mut self) -> Option<Handler> {
        let (a, b) = (self.instruction.op0_register(), self.instruction.op1_register());
        self.ends_block = true;
        let (number, handler): (Register, Handler) = if a.is_cr() {
            (a, control::mov_to_cr)
        } else if b.is_cr() {
            (b, control::mov_from_cr)
        } else if a.is_dr() {
            (a, debug::mov_to_dr)
        } else if b.is_dr() {
            (b, debug::mov_from_dr)
        } else {
            return Some(control::undefined);
        };
        if number == a {
            (self.op.dst, self.op.src) = (number.number() as u8, register(b));
        } else {
            (self.op.dst, self.op.src) = (register(a), number.number() as u8);
        }
        Some(handler)
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

    /// Instructions of operating systems.
    fn system(&mut self) -> Option<Handler> {
        let instruction = self.instruction;
        let mnemonic = instruction.mnemonic();
        let ending: Option<Handler> = match mnemonic {
            M::Jmp | M::Call => return Some(self.far()),
            M::Retf => {
                if instruction.op_count() == 1 {
                    self.op.imm = instruction.immediate(0) & 0xffff;
                }
                self.op.size = match instruction.code() {
                    Code::Retfw | Code::Retfw_imm16 => 2,
                    Code::Retfd | Code::Retfd_imm16 => 4,
                    _ => 8,
                };
                Some(far::ret)
            }
            M::Iret | M::Iretd | M::Iretq => {
                self.op.size = match mnemonic {
                    M::Iret => 2,
                    M::Iretd => 4,
                    _ => 8,
                };
                Some(iret::iret)
            }
            M::Int | M::Int3 | M::Int1 | M::Into => {
                self.op.imm = match mnemonic {
                    M::Int => instruction.immediate(0) & 0xff,
                    M::Int3 => 3,
                    M::Int1 => 1,
                    _ => 4,
                };
                self.op.rep = u8::from(matches!(mnemonic, M::Into | M::Int1));
                Some(interrupt::software_interrupt)
            }
            M::Syscall => Some(syscall::syscall),
            M::Sysret | M::Sysretq => {
                self.op.size = if mnemonic == M::Sysretq { 8 } else { 4 };
                Some(syscall::sysret)
            }
            M::Sysenter => Some(syscall::sysenter),
            M::Sysexit | M::Sysexitq => {
                self.op.size = if mnemonic == M::Sysexitq { 8 } else { 4 };
                Some(syscall::sysexit)
            }
            M::Hlt => Some(control::hlt),
            M::Sti => Some(control::sti),
            M::Wrmsr => Some(msr::wrmsr),
            M::Invlpg => Some(control::invlpg),
            M::Invpcid => {
                self.registers(Some(0), None);
                Some(control::invpcid)
            }
            M::Lmsw => {
                let (_, operand) = self.one();
                self.op.rep = u8::from(operand == Kind::Mem);
                Some(control::lmsw)
            }
            M::Xsetbv => Some(control::xsetbv),
            M::Out => {
                self.port(0, 1);
                Some(io::output)
            }
            M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => {
                self.registers(Some(0), None);
                self.op.size = self.operand_size(0);
                self.op.src = match mnemonic {
                    M::Lds => seg::DS,
                    M::Les => seg::ES,
                    M::Lfs => seg::FS,
                    M::Lgs => seg::GS,
                    _ => seg::SS,
                } as u8;
                Some(segments::load_far_pointer)
            }
            M::Ud0 | M::Ud1 | M::Ud2 => Some(control::undefined),
            M::Xrstor | M::Xrstor64 | M::Xrstors | M::Xrstors64 => {
                let wide = matches!(mnemonic, M::Xrstor64 | M::Xrstors64);
                self.op.size = if wide { 8 } else { 4 };
                self.op.imm = u64::from(matches!(mnemonic, M::Xrstors | M::Xrstors64));
                Some(xsave::restore)
            }
            _ => None,
        };
        if ending.is_some() {
            self.ends_block = true;
            return ending;
        }
        self.inspecting()
    }

    /// System instructions after which a block goes on.
    fn inspecting(&mut self) -> Option<Handler> {
        let mnemonic = self.instruction.mnemonic();
        Some(match mnemonic {
            M::Cli => control::cli,
            M::Rdmsr => msr::rdmsr,
            M::Cpuid => cpuid::cpuid,
            M::Rdtsc | M::Rdtscp => {
                self.op.imm = u64::from(mnemonic == M::Rdtscp);
                time::rdtsc
            }
            M::Rdpid => {
                self.one();
                self.op.size = if self.is_64bit() { 8 } else { 4 };
                time::rdpid
            }
            M::Rdpmc => time::rdpmc,
            M::Swapgs => control::swapgs,
            M::Clac | M::Stac => {
                self.op.imm = u64::from(mnemonic == M::Stac);
                control::alignment_flag
            }
            M::Clts => control::clts,
            M::Wbinvd | M::Wbnoinvd | M::Invd => control::cache_control,
            M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => {
                self.one();
                let fs = matches!(mnemonic, M::Rdfsbase | M::Wrfsbase);
                self.op.src = if fs { seg::FS } else { seg::GS } as u8;
                let read = matches!(mnemonic, M::Rdfsbase | M::Rdgsbase);
                if read { control::read_base } else { control::write_base }
            }
            M::Xgetbv => control::xgetbv,
            M::In => {
                self.port(1, 0);
                io::input
            }
            M::Lgdt | M::Lidt | M::Sgdt | M::Sidt => {
                self.op.imm = u64::from(matches!(mnemonic, M::Lidt | M::Sidt));
                self.op.size = match self.instruction.code() {
                    Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 2,
                    _ => 4,
                };
                let load = matches!(mnemonic, M::Lgdt | M::Lidt);
                if load { tables::load_table } else { tables::store_table }
            }
            M::Lldt | M::Ltr => {
                let (_, operand) = self.one();
                self.op.rep = u8::from(operand == Kind::Mem);
                if mnemonic == M::Lldt { tables::lldt } else { tables::ltr }
            }
            M::Str | M::Sldt | M::Smsw => {
                let (_, operand) = self.one();
                self.op.rep = u8::from(operand == Kind::Mem);
                self.op.imm = u64::from(mnemonic == M::Sldt);
                if mnemonic == M::Smsw { control::smsw } else { tables::store_selector }
            }
            M::Lar | M::Lsl => {
                self.registers(Some(0), Some(1));
                self.op.size = self.operand_size(0);
                self.op.rep = u8::from(self.kind(1) == Kind::Mem);
                self.op.imm = u64::from(mnemonic == M::Lsl);
                tables::inspect
            }
            M::Verr | M::Verw => {
                let (_, operand) = self.one();
                self.op.rep = u8::from(operand == Kind::Mem);
                self.op.imm = if mnemonic == M::Verr { 2 } else { 3 };
                tables::inspect
            }
            M::Fxsave | M::Fxsave64 => {
                self.op.size = if mnemonic == M::Fxsave64 { 8 } else { 4 };
                xsave::fxsave
            }
            M::Fxrstor | M::Fxrstor64 => {
                self.op.size = if mnemonic == M::Fxrstor64 { 8 } else { 4 };
                xsave::fxrstor
            }
            M::Xsave | M::Xsave64 => self.xsave(xsave::Kind::Save, mnemonic == M::Xsave64),
            M::Xsaveopt | M::Xsaveopt64 => {
                self.xsave(xsave::Kind::SaveOptimized, mnemonic == M::Xsaveopt64)
            }
            M::Xsavec | M::Xsavec64 => {
                self.xsave(xsave::Kind::SaveCompacted, mnemonic == M::Xsavec64)
            }
            M::Xsaves | M::Xsaves64 => {
                self.xsave(xsave::Kind::SaveSupervisor, mnemonic == M::Xsaves64)
            }
            M::Vzeroupper | M::Vzeroall => {
                self.op.imm = u64::from(mnemonic == M::Vzeroall);
                control::vzero
            }
            _ => return None,
        })
    }

    fn xsave(&mut self, kind: xsave::Kind, wide: bool) -> Handler {
        self.op.imm = kind as u64;
        self.op.size = if wide { 8 } else { 4 };
        xsave::save
    }

    /// IN and OUT: positions of the port and of the accumulator.
    fn port(&mut self, port: u32, accumulator: u32) {
        self.op.size = self.operand_size(accumulator);
        self.op.imm = match self.instruction.op_kind(port) {
            OpKind::Register => io::PORT_IN_DX,
            _ => self.instruction.immediate(port) & 0xff,
        };
    }

    fn far(&mut self) -> Handler {
        let instruction = self.instruction;
        self.ends_block = true;
        let jump = instruction.mnemonic() == M::Jmp;
        if self.kind(0) == Kind::Mem {
            self.op.size = match instruction.code() {
                Code::Jmp_m1616 | Code::Call_m1616 => 2,
                Code::Jmp_m1632 | Code::Call_m1632 => 4,
                _ => 8,
            };
            return if jump { far::jump_mem } else { far::call_mem };
        }
        self.op.disp = u64::from(instruction.far_branch_selector());
        if instruction.op0_kind() == OpKind::FarBranch16 {
            self.op.imm = u64::from(instruction.far_branch16());
            self.op.size = 2;
        } else {
            self.op.imm = u64::from(instruction.far_branch32());
            self.op.size = 4;
        }
        if jump { far::jump_imm } else { far::call_imm }
    }

    /// Everything else: on the host if it only computes.
    fn computing(&mut self) {
        if gather::is_gather(self.instruction) {
            self.op.run = gather::gather;
            self.op.extra = Extra::Instruction(Box::new(*self.instruction));
            return;
        }
        if native::only_computes(self.instruction)
            && let Some(thunk) = self.cpu.thunks.get(self.instruction)
        {
            self.op.run = native::run;
            self.op.extra = Extra::Thunk(thunk);
            return;
        }
        self.op.run = control::unserved;
        self.op.extra = Extra::Instruction(Box::new(*self.instruction));
        self.ends_block = true;
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
