//! Making blocks: instructions in a row with branches, stack frames and calls among them.
//!
//! A block runs on the host's own processor, in this process, so what it accesses and where it goes must
//! be certain beforehand whatever its instructions compute. Three *pointers* lead to scratch memory; they
//! change by constants only and no operand is far from one of them. RSP is changed by the stack's own
//! instructions and by constants, RBP is a pointer within a frame only, and R15 counts the rounds of a
//! block that begins again. Branches lead forward otherwise. Where a return address is on the stack nothing is
//! written to memory but what is taken from the stack again.

use super::{Generator, IMAGES, encode, place, values};
use crate::case::Case;
use crate::layout;
use crate::random::Random;
use ambos_x86::gpr::{R15, RBP, RSP};
use ambos_x86::{PAGE_SIZE, RFlags};
use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, MemoryOperand, Mnemonic as M, OpAccess,
    OpKind, Register,
};
use std::ops::Range;

/// Registers that may be pointers: no instruction changes them without naming them.
const POINTERS: [Register; 8] = [
    Register::RBX,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
];
/// How far from a pointer operands are.
const REACH: u64 = 0x180;
/// The most that a pointer changes by at once.
const STEP: u64 = 0x800;
/// Most bytes of a block's code.
const MAX_CODE: usize = 0x600;
/// Where blocks begin that lie within a page: past [`layout::LANDING`].
const START: u64 = layout::CODE + 0x600;
/// Attempts to find an instruction.
const ATTEMPTS: usize = 400;
/// What is instead of a piece of code that was taken out.
const NOP: u8 = 0x90;

/// A case of several instructions.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) case: Case,
    /// Parts of the code that can be taken out without making the rest unsafe, the larger ones first.
    pub(crate) pieces: Vec<Range<usize>>,
    /// Registers that have to keep their values, as bits.
    pub(crate) fixed: u16,
}

impl Block {
    /// Replaces a piece by instructions that do nothing.
    pub(crate) fn take_out(&mut self, piece: &Range<usize>) {
        self.case.code[piece.clone()].fill(NOP);
    }
}

/// What may be done where an instruction is to be.
#[derive(Debug, Clone, Copy, Default)]
struct Scope {
    /// RBP points to the stack.
    frame: bool,
    /// A return address is on the stack.
    call: bool,
    /// How deep branches are in one another.
    depth: u32,
}

/// A block in the making.
struct Maker<'a> {
    generator: &'a Generator,
    random: &'a mut Random,
    info: InstructionInfoFactory,
    pointers: [Register; 3],
    /// All pointers are below 4 GiB.
    low: bool,
    start: u64,
    code: Vec<u8>,
    pieces: Vec<Range<usize>>,
    /// Instructions still to be made.
    left: u64,
}

impl Generator {
    /// A block of 2 to 12 instructions, not counting those that lead to and from them; `None` if this
    /// attempt found none.
    pub(crate) fn block(&self, random: &mut Random) -> Option<Block> {
        let mut registers = self.registers(random);
        // When alignment is checked is the processor's choice for some instructions.
        registers.rflags &= !RFlags::AC.bits();
        let memory = self.images[random.below(IMAGES as u64) as usize].clone();
        let pointers = choose(random);
        for pointer in pointers {
            registers.gpr[pointer.number()] = place::target(random, 16);
        }
        registers.gpr[RSP] = if random.chance(85) {
            layout::SCRATCH + PAGE_SIZE + 0x400 + 8 * random.below(0x180)
        } else {
            place::target(random, 8)
        };
        registers.gpr[R15] = 1 + random.below(3);
        // Operands close together, also by way of two pointers.
        if random.chance(30) {
            registers.gpr[pointers[1].number()] =
                registers.gpr[pointers[0].number()].wrapping_add(random.below(64));
        }
        let start = if random.chance(15) {
            layout::CODE + PAGE_SIZE - 1 - random.below(60)
        } else {
            START + random.below(64)
        };
        values::limit(&mut registers.vector, self.operands.components);
        let mut maker = Maker {
            generator: self,
            low: pointers.iter().all(|pointer| registers.gpr[pointer.number()] >> 31 == 0),
            pointers,
            info: InstructionInfoFactory::new(),
            start,
            code: Vec::new(),
            pieces: Vec::new(),
            left: 2 + random.below(11),
            random,
        };
        while maker.left > 0 {
            maker.item(Scope::default())?;
        }
        if maker.random.chance(60) {
            maker.again()?;
        }
        let Maker { code, mut pieces, .. } = maker;
        if code.len() > MAX_CODE {
            return None;
        }
        pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
        let fixed = pointers
            .iter()
            .fold(1 << RSP | 1 << R15, |bits, pointer| bits | 1_u16 << pointer.number());
        Some(Block { case: Case { start, code, registers, memory }, pieces, fixed })
    }
}

/// Three different pointers.
fn choose(random: &mut Random) -> [Register; 3] {
    let mut all = POINTERS;
    for index in 0..3 {
        let other = index + random.below((all.len() - index) as u64) as usize;
        all.swap(index, other);
    }
    [all[0], all[1], all[2]]
}

impl Maker<'_> {
    fn here(&self) -> u64 {
        self.start + self.code.len() as u64
    }

    fn add(&mut self, instruction: Instruction) -> Option<()> {
        let bytes = encode(&instruction, self.here())?;
        self.code.extend(bytes);
        Some(())
    }

    fn emit(&mut self, instruction: Result<Instruction, iced_x86::IcedError>) -> Option<()> {
        self.add(instruction.ok()?)
    }

    /// What can be taken out as a whole.
    fn item(&mut self, scope: Scope) -> Option<()> {
        self.left = self.left.saturating_sub(1);
        let start = self.code.len();
        let nested = scope.depth < 3 && self.left > 0;
        match self.random.below(100) {
            0..10 if nested => self.skip(scope)?,
            10..15 if nested => self.call(scope)?,
            15..20 if nested && !scope.frame => self.frame(scope)?,
            20..24 => self.jump(scope)?,
            24..30 => self.pushed(scope)?,
            30..33 if !scope.call => self.stack(scope)?,
            33..37 if !scope.call => self.string()?,
            37..44 => self.pointer()?,
            44..50 => self.indexed(scope)?,
            _ => {
                let instruction = self.instruction(scope, None)?;
                self.add(instruction)?;
            }
        }
        self.pieces.push(start..self.code.len());
        Some(())
    }

    fn items(&mut self, count: u64, scope: Scope) -> Option<()> {
        for _ in 0..count {
            if self.left > 0 {
                self.item(scope)?;
            }
        }
        Some(())
    }

    /// A branch over some instructions.
    fn skip(&mut self, scope: Scope) -> Option<()> {
        let long = self.random.chance(20);
        let at = self.code.len();
        let condition = self.random.below(16) as u8;
        if long {
            self.code.extend([0x0f, 0x80 | condition, 0, 0, 0, 0]);
        } else {
            // LOOPNE, LOOPE, LOOP and JRCXZ among them.
            let other = 0xe0 + self.random.below(4) as u8;
            let opcode = if self.random.chance(12) { other } else { 0x70 | condition };
            self.code.extend([opcode, 0]);
        }
        let from = self.code.len();
        let count = 1 + self.random.below(3);
        self.items(count, Scope { depth: scope.depth + 1, ..scope })?;
        let distance = self.code.len() - from;
        if long {
            self.code[at + 2] = u8::try_from(distance).ok()?;
        } else {
            self.code[at + 1] = i8::try_from(distance).ok()? as u8;
        }
        Some(())
    }

    /// A function that is called and returns, and lies in the way.
    fn call(&mut self, scope: Scope) -> Option<()> {
        // call +5; jmp over; the function; ret
        self.code.extend([0xe8, 5, 0, 0, 0, 0xe9, 0, 0, 0, 0]);
        let from = self.code.len();
        let count = 1 + self.random.below(3);
        let inside = Scope { call: true, frame: scope.frame, depth: scope.depth + 1 };
        self.items(count, inside)?;
        self.code.push(0xc3);
        self.code[from - 4] = u8::try_from(self.code.len() - from).ok()?;
        Some(())
    }

    /// A stack frame.
    fn frame(&mut self, scope: Scope) -> Option<()> {
        let size = 8 * (1 + self.random.below(14) as i32);
        self.emit(Instruction::with1(Code::Push_r64, Register::RBP))?;
        self.emit(Instruction::with2(Code::Mov_r64_rm64, Register::RBP, Register::RSP))?;
        self.emit(Instruction::with2(Code::Sub_rm64_imm8, Register::RSP, size))?;
        let count = 1 + self.random.below(4);
        self.items(count, Scope { frame: true, depth: scope.depth + 1, ..scope })?;
        self.emit(Ok(Instruction::with(Code::Leaveq)))
    }

    /// A jump to the next instruction, by an address from somewhere.
    fn jump(&mut self, scope: Scope) -> Option<()> {
        let register = self.free(scope);
        let at = self.code.len();
        // lea register, [rip + 0], for now
        self.code.extend([0x48 | (register.number() as u8 >> 3) << 2, 0x8d]);
        self.code.extend([0x05 | (register.number() as u8 & 7) << 3, 0, 0, 0, 0]);
        let from = self.code.len();
        match self.random.below(4) {
            0 => self.emit(Instruction::with1(Code::Jmp_rm64, register))?,
            1 if !scope.call => {
                self.emit(Instruction::with1(Code::Push_r64, register))?;
                self.code.push(0xc3);
            }
            2 if !scope.call => self.emit(Instruction::with1(Code::Call_rm64, register))?,
            _ if !scope.call => {
                let memory = self.memory(scope);
                self.emit(Instruction::with2(Code::Mov_rm64_r64, memory, register))?;
                self.emit(Instruction::with1(Code::Jmp_rm64, memory))?;
            }
            _ => self.emit(Instruction::with1(Code::Jmp_rm64, register))?,
        }
        // Bytes that never run.
        for _ in 0..self.random.below(4) {
            self.code.push(0xcc);
        }
        self.code[at + 3] = u8::try_from(self.code.len() - from).ok()?;
        Some(())
    }

    /// Something is pushed and popped.
    fn pushed(&mut self, scope: Scope) -> Option<()> {
        let register = self.random.below(16) as u32;
        let memory = self.memory(scope);
        match self.random.below(5) {
            0 => self.emit(Instruction::with1(Code::Push_rm64, memory))?,
            1 => {
                let value = self.random.bits() as i32;
                self.emit(Instruction::with1(Code::Pushq_imm32, value))?;
            }
            2 => {
                self.emit(Ok(Instruction::with(Code::Pushfq)))?;
                self.emit(Ok(Instruction::with(Code::Popfq)))?;
                return Some(());
            }
            _ => self.emit(Instruction::with1(Code::Push_r64, Register::RAX + register))?,
        }
        if scope.depth < 3 && self.left > 0 && self.random.chance(50) {
            self.items(1, Scope { depth: scope.depth + 1, call: true, ..scope })?;
        }
        let to = self.free(scope);
        self.emit(Instruction::with1(Code::Pop_r64, to))
    }

    /// Something about the stack that is not made good.
    fn stack(&mut self, scope: Scope) -> Option<()> {
        let memory = self.memory(scope);
        let any = Register::RAX + self.random.below(16) as u32;
        let free = self.free(scope);
        match self.random.below(7) {
            0 => self.emit(Instruction::with1(Code::Push_r64, any)),
            1 => self.emit(Instruction::with1(Code::Pop_r64, free)),
            2 => self.emit(Instruction::with1(Code::Push_r16, sized(any, 2))),
            3 => self.emit(Instruction::with1(Code::Pop_rm64, memory)),
            4 => self.emit(Instruction::with2(Code::Add_rm64_imm8, Register::RSP, 8)),
            5 => {
                let to = MemoryOperand::with_base_displ(Register::RSP, -16);
                self.emit(Instruction::with2(Code::Lea_r64_m, Register::RSP, to))
            }
            _ => {
                let slot = 8 * self.random.below(8) as i64;
                let at = MemoryOperand::with_base_displ(Register::RSP, slot - 32);
                if self.random.chance(50) {
                    self.emit(Instruction::with2(Code::Mov_rm64_r64, at, any))
                } else {
                    self.emit(Instruction::with2(Code::Mov_r64_rm64, free, at))
                }
            }
        }
    }

    /// A string instruction.
    fn string(&mut self) -> Option<()> {
        for register in [Register::RSI, Register::RDI] {
            let base = self.random.pick(&self.pointers);
            let displacement = self.random.below(REACH) as i64;
            let from = MemoryOperand::with_base_displ(base, displacement);
            self.emit(Instruction::with2(Code::Lea_r64_m, register, from))?;
        }
        let count = self.random.below(40) as u32;
        self.emit(Instruction::with2(Code::Mov_r32_imm32, Register::ECX, count))?;
        if self.random.chance(70) {
            self.code.push(0xf3);
        }
        if self.random.chance(30) {
            self.code.push(0x48);
        }
        // MOVS, STOS, LODS
        let opcode = self.random.pick(&[0xa4, 0xaa, 0xac]);
        let wide = self.random.below(2) as u8;
        self.code.push(opcode | wide);
        Some(())
    }

    /// A change of a pointer.
    fn pointer(&mut self) -> Option<()> {
        let (to, from) = (self.random.pick(&self.pointers), self.random.pick(&self.pointers));
        let step = self.random.below(2 * STEP) as i64 - STEP as i64;
        match self.random.below(6) {
            0 => self.emit(Instruction::with2(Code::Add_rm64_imm8, to, step as i8 as i32)),
            1 => self.emit(Instruction::with2(Code::Sub_rm64_imm32, to, step as i32)),
            2 => self.emit(Instruction::with1(Code::Inc_rm64, to)),
            3 => self.emit(Instruction::with2(Code::Mov_r64_rm64, to, from)),
            4 => self.emit(Instruction::with1(Code::Dec_rm64, to)),
            _ => {
                let sum = MemoryOperand::with_base_displ(from, step);
                self.emit(Instruction::with2(Code::Lea_r64_m, to, sum))
            }
        }
    }

    /// An operand with an index register, which is made small before.
    fn indexed(&mut self, scope: Scope) -> Option<()> {
        let index = self.free(scope);
        let narrow = sized(index, 4);
        if self.random.chance(50) {
            let value = self.random.below(0x200) as u32;
            self.emit(Instruction::with2(Code::Mov_r32_imm32, narrow, value))?;
        } else {
            self.emit(Instruction::with2(Code::And_rm32_imm32, narrow, 0xff))?;
        }
        let instruction = self.instruction(scope, Some(index))?;
        self.add(instruction)
    }

    /// The block's last instructions: begin again some times.
    fn again(&mut self) -> Option<()> {
        let start = self.code.len();
        self.emit(Instruction::with1(Code::Dec_rm64, Register::R15))?;
        self.emit(Instruction::with_branch(Code::Jne_rel32_64, self.start))?;
        self.pieces.push(start..self.code.len());
        Some(())
    }

    /// A register that may take any value.
    fn free(&mut self, scope: Scope) -> Register {
        loop {
            let register = Register::RAX + self.random.below(15) as u32;
            if !self.is_kept(register, scope) {
                return register;
            }
        }
    }

    /// Whether instructions must not write a register as they like.
    fn is_kept(&self, register: Register, scope: Scope) -> bool {
        let number = register.number();
        self.pointers.contains(&register)
            || number == RSP
            || number == R15
            || scope.frame && number == RBP
    }

    /// What an operand's address begins with, and the rest of it.
    fn place(&mut self, scope: Scope) -> (Register, i64) {
        let random = &mut self.random;
        match random.below(20) {
            0 => (Register::RIP, place::low_target(random, 16) as i64),
            1 => (Register::RSP, 8 * random.below(8) as i64),
            2..8 if scope.frame => (Register::RBP, random.below(0x80) as i64 - 0x78),
            _ => {
                let base = random.pick(&self.pointers);
                let displacement = match random.below(10) {
                    0 => 0x1000 - random.below(20) as i64,
                    1 | 2 => 0,
                    3 | 4 => 8 * random.below(8) as i64,
                    _ => random.below(REACH) as i64 - 0x40,
                };
                (base, displacement)
            }
        }
    }

    /// A memory operand.
    fn memory(&mut self, scope: Scope) -> MemoryOperand {
        let (base, displacement) = self.place(scope);
        MemoryOperand::with_base_displ(base, displacement)
    }

    /// Any instruction that computes, with the memory operand that it may have in reach.
    fn instruction(&mut self, scope: Scope, index: Option<Register>) -> Option<Instruction> {
        (0..ATTEMPTS).find_map(|_| self.attempt(scope, index))
    }

    fn attempt(&mut self, scope: Scope, index: Option<Register>) -> Option<Instruction> {
        let codes =
            if self.random.chance(60) { &self.generator.common } else { &self.generator.codes };
        let code = self.random.pick(codes);
        let mut instruction = self.generator.operands.instruction(code, self.random)?;
        if instruction.flow_control() != FlowControl::Next
            || instruction.is_stack_instruction()
            || instruction.is_string_instruction()
            || instruction.is_vsib()
            || is_open(&instruction)
        {
            return None;
        }
        let operand = (0..instruction.op_count())
            .find(|&operand| instruction.op_kind(operand) == OpKind::Memory);
        if index.is_some() && operand.is_none() {
            return None;
        }
        if operand.is_some() && instruction.mnemonic() != M::Lea {
            if instruction.memory_index() == Register::AL {
                return None;
            }
            self.aim(&mut instruction, scope, index);
        }
        self.is_safe(&instruction, operand, scope).then_some(instruction)
    }

    /// Points the memory operand of an instruction at something.
    fn aim(&mut self, instruction: &mut Instruction, scope: Scope, index: Option<Register>) {
        let (mut base, displacement) = self.place(scope);
        if base == Register::RIP && index.is_some() {
            base = self.pointers[0];
        }
        let displacement =
            if base.is_gpr() && displacement.unsigned_abs() > 0x1000 { 8 } else { displacement };
        let narrow = self.low && self.pointers.contains(&base) && self.random.chance(4);
        let width = |register: Register| if narrow { sized(register, 4) } else { register };
        instruction.set_segment_prefix(Register::None);
        instruction.set_memory_base(width(base));
        instruction.set_memory_index(index.map_or(Register::None, width));
        instruction.set_memory_index_scale(if index.is_some() {
            1 << self.random.below(4)
        } else {
            1
        });
        let value = if narrow { displacement as u32 as u64 } else { displacement as u64 };
        instruction.set_memory_displacement64(value);
        let size = match (displacement, narrow) {
            (0, _) => 0,
            (_, true) => 4,
            _ => 8,
        };
        instruction.set_memory_displ_size(size);
    }

    /// Whether an instruction writes no register that is kept and accesses nothing but its operand.
    fn is_safe(&mut self, instruction: &Instruction, operand: Option<u32>, scope: Scope) -> bool {
        let reads = |access: OpAccess| {
            matches!(
                access,
                OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess | OpAccess::None
            )
        };
        let kept: Vec<Register> = (0..16)
            .map(|number| Register::RAX + number)
            .filter(|&register| self.is_kept(register, scope))
            .collect();
        let info = self.info.info(instruction);
        let registers = info.used_registers().iter().all(|used| {
            reads(used.access())
                || !used.register().is_gpr()
                || !kept.contains(&used.register().full_register())
        });
        let accessed = info.used_memory();
        let memory = accessed.iter().all(|used| {
            let own = operand.is_some()
                && used.base() == instruction.memory_base()
                && used.index() == instruction.memory_index();
            (own || reads(used.access()) && used.memory_size().size() == 0)
                && (!scope.call || reads(used.access()))
        });
        registers && memory
    }
}

/// Whether an instruction leaves something to the processor's model, or reaches further than its operand.
fn is_open(instruction: &Instruction) -> bool {
    let bits = matches!(instruction.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
        && instruction.op1_kind() == OpKind::Register
        && instruction.op0_kind() == OpKind::Memory;
    let own = matches!(
        instruction.mnemonic(),
        M::Div
            | M::Idiv
            | M::Fnstenv
            | M::Fnsave
            | M::Fldenv
            | M::Frstor
            | M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
            | M::Rdgsbase
            | M::Xlatb
            | M::Maskmovq
            | M::Maskmovdqu
            | M::Vmaskmovdqu
            | M::Cli
            | M::Sti
    );
    bits || own
}

/// The part of a 64-bit register with `bytes` bytes.
fn sized(register: Register, bytes: usize) -> Register {
    let first = if bytes == 2 { Register::AX } else { Register::EAX };
    first + register.number() as u32
}

/// Whether instructions of `code` are what programs mostly consist of.
pub(crate) fn is_common(code: Code) -> bool {
    matches!(
        code.mnemonic(),
        M::Add
            | M::Or
            | M::Adc
            | M::Sbb
            | M::And
            | M::Sub
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Lea
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Shl
            | M::Shr
            | M::Sar
            | M::Rol
            | M::Ror
            | M::Rcl
            | M::Rcr
            | M::Shld
            | M::Shrd
            | M::Imul
            | M::Mul
            | M::Cmovb
            | M::Cmovle
            | M::Cmove
            | M::Setne
            | M::Setb
            | M::Setle
            | M::Xadd
            | M::Cmpxchg
            | M::Cmpxchg16b
            | M::Xchg
            | M::Bt
            | M::Bts
            | M::Bswap
            | M::Andn
            | M::Mulx
            | M::Adcx
            | M::Shlx
            | M::Cdq
            | M::Lahf
            | M::Sahf
            | M::Movups
            | M::Movdqa
            | M::Movdqu
            | M::Movq
            | M::Vmovdqu
            | M::Paddd
    ) && !matches!(
        code.op_code().op0_kind(),
        iced_x86::OpCodeOperandKind::cr_reg | iced_x86::OpCodeOperandKind::dr_reg
    )
}
