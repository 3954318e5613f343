//! From a decoded instruction to its handler and operands.
//!
//! Common integer instructions and everything that touches system state have handlers of their own,
//! chosen here; other computing instructions get a thunk ([`crate::exec::native`]); what is left is
//! answered with #UD and noted as unserved.
//!
//! - [`integer`]: instructions of ordinary programs.
//! - [`system`]: instructions of operating systems.
//! - This module: operands, and the choice between those.

mod integer;
mod system;

use crate::cpu::{Cpu, Mode, RIP, ZERO, seg};
use crate::exec::operand::Kind;
use crate::exec::{alu, bits, gather, moves, muldiv, native, shift, string};
use crate::op::{Extra, Handler, Op};
use crate::system::control;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};

/// A lowered instruction.
#[derive(Debug)]
pub struct Lowered {
    /// Handler and operands.
    pub op: Op,
    /// Nothing after it belongs to the same block.
    pub ends_block: bool,
}

/// Longest instruction, in bytes.
pub const MAX_INSTRUCTION: usize = 15;

/// The op of bytes that are no instruction.
///
/// `length` is how many of `bytes` were looked at.
pub fn undefined(mode: Mode, bytes: &[u8], length: usize) -> Op {
    let mut op = blank(mode);
    let too_long = length >= MAX_INSTRUCTION && !ends(mode, bytes);
    op.run = if too_long { control::too_long } else { control::undefined };
    op.end = 1;
    op
}

/// Whether `bytes` are an instruction of a legal length, were its prefixes and operands legal.
fn ends(mode: Mode, bytes: &[u8]) -> bool {
    let options = DecoderOptions::NO_INVALID_CHECK;
    let mut decoder = Decoder::new(u32::from(mode.code_bits), bytes, options);
    decoder.can_decode() && !decoder.decode().is_invalid()
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
    let exchange = disguised_exchange(instruction, bytes);
    let instruction = exchange.as_ref().unwrap_or(instruction);
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

/// `f3 41 90` and its like: with REX.B the opcode is no PAUSE but an exchange of RAX and R8, whatever
/// the decoder says.
fn disguised_exchange(instruction: &Instruction, bytes: &[u8]) -> Option<Instruction> {
    let &[.., rex, 0x90] = bytes else { return None };
    if instruction.code() != Code::Pause || rex & 0xf1 != 0x41 {
        return None;
    }
    let (code, a, b) = if rex & 8 != 0 {
        (Code::Xchg_r64_RAX, Register::R8, Register::RAX)
    } else if bytes.contains(&0x66) {
        (Code::Xchg_r16_AX, Register::R8W, Register::AX)
    } else {
        (Code::Xchg_r32_EAX, Register::R8D, Register::EAX)
    };
    Instruction::with2(code, a, b).ok()
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
        // In 64-bit mode only FS and GS prefixes count: the base decides whether it is the stack.
        let stack_base =
            matches!(instruction.memory_base().full_register(), Register::RSP | Register::RBP);
        op.stack = long && stack_base && usize::from(number) < seg::FS;
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
