//! Generating thunks.

use super::{Class, MAX_OPERAND, MemoryUse};
use crate::cpu::NativeState;
use ambos_hostcode::Arena;
use ambos_hostcode::arena::Region;
use ambos_vcpu::VectorState;
use iced_x86::{
    Code, CpuidFeature, Encoder, EncodingKind, Instruction, InstructionInfoFactory, MemoryOperand,
    Mnemonic, OpAccess, OpKind, Register, RflagsBits,
};
use std::mem::offset_of;
use std::sync::OnceLock;

/// Registers of the System V ABI that a function must preserve.
const PRESERVED: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// Registers that thunks use for themselves, if the instruction leaves them free.
const CANDIDATES: [Register; 14] = [
    Register::R15,
    Register::R14,
    Register::R13,
    Register::R12,
    Register::RBX,
    Register::RBP,
    Register::R11,
    Register::R10,
    Register::R9,
    Register::R8,
    Register::RSI,
    Register::RDI,
    Register::RCX,
    Register::RDX,
];

const VECTOR: usize = offset_of!(NativeState, vector);
const X87: usize = VECTOR + offset_of!(VectorState, x87);
const MXCSR: usize = VECTOR + offset_of!(VectorState, mxcsr);
const ZMM: usize = VECTOR + offset_of!(VectorState, zmm);
const K: usize = VECTOR + offset_of!(VectorState, k);
const GPR: usize = offset_of!(NativeState, gpr);
const OPERAND: usize = offset_of!(NativeState, operand);
const FLAGS: usize = offset_of!(NativeState, thunk_flags);
const HOST_MXCSR: usize = offset_of!(NativeState, host_mxcsr);

/// How wide the host's vector registers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VectorWidth {
    Xmm,
    Ymm,
    Zmm,
}

fn vector_width() -> VectorWidth {
    static WIDTH: OnceLock<VectorWidth> = OnceLock::new();
    *WIDTH.get_or_init(|| {
        if std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512bw") {
            VectorWidth::Zmm
        } else if std::is_x86_feature_detected!("avx") {
            VectorWidth::Ymm
        } else {
            VectorWidth::Xmm
        }
    })
}

/// What a thunk must do, and the instruction in the form in which the host will execute it.
pub(super) struct Plan {
    instruction: Instruction,
    key: Vec<u8>,
    pub(super) class: Class,
    pub(super) memory: Option<MemoryUse>,
    pub(super) reads_flags: bool,
    pub(super) writes_flags: u64,
    /// Guest registers used, with the host register that stands for each.
    general: Vec<(usize, Register)>,
    vectors: Vec<usize>,
    masks: Vec<usize>,
    context: Register,
    pointer: Option<Register>,
}

impl Plan {
    /// Plans a thunk; `None` if the instruction cannot be executed outside its own context.
    pub(super) fn new(original: &Instruction) -> Option<Self> {
        let class = classify(original);
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(original);
        let memory_operand = (0..original.op_count()).find(|&index| {
            matches!(
                original.op_kind(index),
                OpKind::Memory | OpKind::MemorySegRDI | OpKind::MemorySegEDI | OpKind::MemorySegDI
            )
        });
        let implicit =
            memory_operand.is_some_and(|index| original.op_kind(index) != OpKind::Memory);
        let memory = match (memory_operand, info.used_memory()) {
            (None, []) => None,
            (Some(index), _) => {
                let size = match original.memory_size().size() {
                    0 => implicit_size(original)?,
                    size => size,
                };
                let access = info.op_access(index);
                let (read, write) = match access {
                    OpAccess::None | OpAccess::NoMemAccess => (false, false),
                    OpAccess::Read | OpAccess::CondRead => (true, false),
                    OpAccess::Write => (false, true),
                    OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite => {
                        (true, true)
                    }
                };
                // What is not written keeps its value: elements that a mask leaves out, anything
                // after an unmasked x87 exception.
                let masked = implicit || is_masked(original);
                let read = read || masked || class == Class::X87;
                let write = write || implicit;
                (read || write).then_some(MemoryUse { size, read, write, masked })
            }
            (None, _) => return None,
        };
        if memory.is_some_and(|memory| memory.size > MAX_OPERAND) {
            return None;
        }
        let (mut used, mut vectors, mut masks) = ([false; 16], Vec::new(), Vec::new());
        // Registers of the address are the monitor's business, but an operand may name them too.
        for register in info.used_registers() {
            let register = register.register();
            if register.is_gpr() {
                used[register.full_register().number()] = true;
            } else if register.is_vector_register() {
                push_once(&mut vectors, register.number());
            } else if register.is_k() {
                push_once(&mut masks, register.number());
            }
        }
        let mut operands = [false; 16];
        for index in 0..original.op_count() {
            if original.op_kind(index) == OpKind::Register && original.op_register(index).is_gpr() {
                operands[original.op_register(index).full_register().number()] = true;
            }
        }
        if memory_operand.is_some() {
            for address in [original.memory_base(), original.memory_index()] {
                let number = address.full_register();
                if number.is_gpr() && !operands[number.number()] && !is_implicit(original, number) {
                    used[number.number()] = false;
                }
            }
        }
        if implicit {
            used[Register::RDI.number()] = false;
        }
        // AH and the like cannot be named together with registers that need a REX prefix.
        let mut candidates = CANDIDATES;
        if (0..original.op_count()).any(|index| is_high_byte(original.op_register(index))) {
            candidates.reverse();
        }
        let mut free = candidates.into_iter().filter(|register| {
            !(used[register.number()] || implicit && *register == Register::RDI)
        });
        let context = free.next()?;
        let pointer = match (memory_operand, implicit) {
            (None, _) => None,
            (Some(_), true) => Some(Register::RDI),
            (Some(_), false) => Some(free.next()?),
        };
        let mut instruction = *original;
        let mut general: Vec<(usize, Register)> = Vec::new();
        for (number, _) in used.iter().enumerate().filter(|(_, used)| **used) {
            let host = if number == Register::RSP.number() {
                let alias = free.next()?;
                rename(&mut instruction, Register::RSP, alias);
                alias
            } else {
                Register::RAX + number as u32
            };
            general.push((number, host));
        }
        instruction.set_segment_prefix(Register::None);
        if let Some(pointer) = pointer.filter(|_| !implicit) {
            instruction.set_memory_base(pointer);
            instruction.set_memory_index(Register::None);
            instruction.set_memory_index_scale(1);
            instruction.set_memory_displacement64(0);
            instruction.set_memory_displ_size(0);
        } else if implicit && let Some(index) = memory_operand {
            instruction.set_op_kind(index, OpKind::MemorySegRDI);
        }
        let mut encoder = Encoder::new(64);
        encoder.encode(&instruction, 0).ok()?;
        let mut key = encoder.take_buffer();
        // Two encodings alike may still differ in what stands for RSP.
        key.extend(general.iter().map(|&(number, host)| (number << 4 | host.number()) as u8));
        key.push(class as u8);
        Some(Self {
            instruction,
            key,
            class,
            memory,
            reads_flags: original.rflags_read() != RflagsBits::NONE,
            writes_flags: rflags(original.rflags_modified()),
            general,
            vectors,
            masks,
            context,
            pointer,
        })
    }

    /// What tells thunks apart.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Generates the thunk into `arena`: addresses of entry and recovery code, or `None` if the
    /// arena is full.
    pub(super) fn push(&self, arena: &mut Arena) -> Option<(usize, usize)> {
        let base = arena.next(Region::Hot);
        let mut code = Emitter { encoder: Encoder::new(64), base: base as u64, length: 0 };
        let context = self.context;
        let at = |offset: usize| MemoryOperand::with_base_displ(context, offset as i64);
        let x87 = matches!(self.class, Class::X87 | Class::Wait | Class::Mmx);
        let sse = matches!(self.class, Class::Sse | Class::Avx | Class::Avx512 | Class::Mmx);
        let flags = self.reads_flags || self.writes_flags != 0;

        for register in PRESERVED {
            code.emit(Instruction::with1(Code::Push_r64, register))?;
        }
        code.emit(Instruction::with2(Code::Mov_r64_rm64, context, Register::RDI))?;
        if x87 {
            code.emit(Instruction::with1(Code::Fxrstor64_m512byte, at(X87)))?;
        }
        if sse {
            code.emit(Instruction::with1(Code::Ldmxcsr_m32, at(MXCSR)))?;
        }
        for &number in &self.masks {
            let register = Register::K0 + number as u32;
            code.emit(Instruction::with2(Code::VEX_Kmovq_kr_km64, register, at(K + number * 8)))?;
        }
        for &number in &self.vectors {
            code.vector(number, at(ZMM + number * 64), true)?;
        }
        if let Some(pointer) = self.pointer {
            code.emit(Instruction::with2(Code::Mov_r64_rm64, pointer, at(OPERAND)))?;
        }
        if flags {
            code.emit(Instruction::with1(Code::Push_rm64, at(FLAGS)))?;
            code.emit(Instruction::with(Code::Popfq))?;
        }
        // The fault guard's contract: the context's address is on top of the stack.
        code.emit(Instruction::with1(Code::Push_r64, context))?;
        for &(number, host) in &self.general {
            code.emit(Instruction::with2(Code::Mov_r64_rm64, host, at(GPR + number * 8)))?;
        }
        code.emit(self.instruction)?;
        for &(number, host) in &self.general {
            code.emit(Instruction::with2(Code::Mov_rm64_r64, at(GPR + number * 8), host))?;
        }
        if flags {
            code.emit(Instruction::with(Code::Pushfq))?;
            code.emit(Instruction::with1(Code::Pop_rm64, at(FLAGS)))?;
        }
        for &number in &self.vectors {
            code.vector(number, at(ZMM + number * 64), false)?;
        }
        for &number in &self.masks {
            let register = Register::K0 + number as u32;
            code.emit(Instruction::with2(Code::VEX_Kmovq_m64_kr, at(K + number * 8), register))?;
        }
        let recover = base + code.length;
        // Here the fault guard resumes after a fault; only RSP is known.
        code.emit(Instruction::with1(Code::Pop_r64, Register::RDI))?;
        let at = |offset: usize| MemoryOperand::with_base_displ(Register::RDI, offset as i64);
        if x87 {
            // After a fault as well: the processor may have switched to MMX state before it.
            code.emit(Instruction::with1(Code::Fxsave64_m512byte, at(X87)))?;
        }
        if sse || x87 {
            if sse {
                code.emit(Instruction::with1(Code::Stmxcsr_m32, at(MXCSR)))?;
            }
            code.emit(Instruction::with1(Code::Ldmxcsr_m32, at(HOST_MXCSR)))?;
        }
        if x87 {
            code.emit(Instruction::with(Code::Fninit))?;
        }
        if vector_width() != VectorWidth::Xmm && !self.vectors.is_empty() {
            code.emit(Instruction::with(Code::VEX_Vzeroupper))?;
        }
        for register in PRESERVED.into_iter().rev() {
            code.emit(Instruction::with1(Code::Pop_r64, register))?;
        }
        code.emit(Instruction::with(Code::Retnq))?;
        let entry = arena.push(Region::Hot, &code.encoder.take_buffer())?;
        debug_assert_eq!(entry, base);
        Some((entry, recover))
    }
}

/// Collects encoded instructions.
struct Emitter {
    encoder: Encoder,
    base: u64,
    length: usize,
}

impl Emitter {
    fn emit<E>(&mut self, instruction: impl IntoInstruction<E>) -> Option<()> {
        let instruction = instruction.into_instruction()?;
        self.length += self.encoder.encode(&instruction, self.base + self.length as u64).ok()?;
        Some(())
    }

    /// Loads or stores a whole vector register.
    fn vector(&mut self, number: usize, at: MemoryOperand, load: bool) -> Option<()> {
        let number_u32 = number as u32;
        let (register, load_code, store_code) = match vector_width() {
            VectorWidth::Zmm => (
                Register::ZMM0 + number_u32,
                Code::EVEX_Vmovdqu64_zmm_k1z_zmmm512,
                Code::EVEX_Vmovdqu64_zmmm512_k1z_zmm,
            ),
            VectorWidth::Ymm => (
                Register::YMM0 + number_u32,
                Code::VEX_Vmovdqu_ymm_ymmm256,
                Code::VEX_Vmovdqu_ymmm256_ymm,
            ),
            VectorWidth::Xmm => {
                (Register::XMM0 + number_u32, Code::Movdqu_xmm_xmmm128, Code::Movdqu_xmmm128_xmm)
            }
        };
        if load {
            self.emit(Instruction::with2(load_code, register, at))
        } else {
            self.emit(Instruction::with2(store_code, at, register))
        }
    }
}

/// Instructions as the constructors return them: some can fail, some cannot.
trait IntoInstruction<E> {
    fn into_instruction(self) -> Option<Instruction>;
}
impl IntoInstruction<()> for Instruction {
    fn into_instruction(self) -> Option<Instruction> {
        Some(self)
    }
}
impl<E> IntoInstruction<E> for Result<Instruction, E> {
    fn into_instruction(self) -> Option<Instruction> {
        self.ok()
    }
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

fn push_once(numbers: &mut Vec<usize>, number: usize) {
    if !numbers.contains(&number) {
        numbers.push(number);
    }
}

/// Replaces a register operand of any width by another register of the same width.
fn rename(instruction: &mut Instruction, from: Register, to: Register) {
    for index in 0..instruction.op_count() {
        if instruction.op_kind(index) != OpKind::Register {
            continue;
        }
        let register = instruction.op_register(index);
        if register.is_gpr() && register.full_register() == from {
            let number = to.number() as u32;
            let renamed = match register.size() {
                8 => to,
                4 => Register::EAX + number,
                2 => Register::AX + number,
                _ if number < 4 => Register::AL + number,
                // SPL to R15L follow the four high-byte registers.
                _ => Register::SPL + (number - 4),
            };
            instruction.set_op_register(index, renamed);
        }
    }
}

/// Whether the instruction uses `register` without naming it as an operand or in an address.
fn is_implicit(instruction: &Instruction, register: Register) -> bool {
    let mut bare = *instruction;
    bare.set_memory_base(Register::None);
    bare.set_memory_index(Register::None);
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(&bare);
    info.used_registers()
        .iter()
        .any(|used| used.register().is_gpr() && used.register().full_register() == register)
}

/// Whether a mask decides which elements of the memory operand are accessed.
fn is_masked(instruction: &Instruction) -> bool {
    instruction.op_mask() != Register::None
        || matches!(
            instruction.mnemonic(),
            Mnemonic::Vmaskmovps
                | Mnemonic::Vmaskmovpd
                | Mnemonic::Vpmaskmovd
                | Mnemonic::Vpmaskmovq
        )
}

/// Operand bytes where the decoder does not tell.
fn implicit_size(instruction: &Instruction) -> Option<usize> {
    match instruction.code() {
        Code::Maskmovdqu_rDI_xmm_xmm | Code::VEX_Vmaskmovdqu_rDI_xmm_xmm => Some(16),
        Code::Maskmovq_rDI_mm_mm => Some(8),
        _ => None,
    }
}

/// Translates the decoder's flag set to RFLAGS bits.
fn rflags(bits: u32) -> u64 {
    const TABLE: [(u32, u64); 6] = [
        (RflagsBits::OF, 1 << 11),
        (RflagsBits::SF, 1 << 7),
        (RflagsBits::ZF, 1 << 6),
        (RflagsBits::AF, 1 << 4),
        (RflagsBits::CF, 1 << 0),
        (RflagsBits::PF, 1 << 2),
    ];
    TABLE.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, flag)| flag).sum()
}

/// Conversions to a general-purpose register are vector instructions even from memory.
fn converts_to_integer(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Cvtsd2si
            | M::Cvtss2si
            | M::Cvttsd2si
            | M::Cvttss2si
            | M::Vcvtsd2si
            | M::Vcvtss2si
            | M::Vcvttsd2si
            | M::Vcvttss2si
            | M::Vcvtsd2usi
            | M::Vcvtss2usi
            | M::Vcvttsd2usi
            | M::Vcvttss2usi
            | M::Vcvtsh2si
            | M::Vcvtsh2usi
            | M::Vcvttsh2si
            | M::Vcvttsh2usi
    )
}

pub(super) fn classify(instruction: &Instruction) -> Class {
    use CpuidFeature as F;
    let features = instruction.cpuid_features();
    let vector = (0..instruction.op_count()).any(|index| {
        instruction.op_kind(index) == OpKind::Register
            && (instruction.op_register(index).is_vector_register()
                || instruction.op_register(index).is_k())
    }) || converts_to_integer(instruction);
    let mmx = (0..instruction.op_count()).any(|index| {
        instruction.op_kind(index) == OpKind::Register && instruction.op_register(index).is_mm()
    });
    if instruction.code() == Code::Wait {
        return Class::Wait;
    }
    if features
        .iter()
        .any(|f| matches!(f, F::FPU | F::FPU287 | F::FPU287XL_ONLY | F::FPU387 | F::FPU387SL_ONLY))
    {
        return Class::X87;
    }
    if matches!(
        instruction.mnemonic(),
        Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr | Mnemonic::Vldmxcsr | Mnemonic::Vstmxcsr
    ) {
        let vex = instruction.encoding() == EncodingKind::VEX;
        return if vex { Class::Avx } else { Class::Sse };
    }
    if mmx || features.contains(&F::MMX) && !vector {
        return Class::Mmx;
    }
    match instruction.encoding() {
        EncodingKind::EVEX => Class::Avx512,
        EncodingKind::VEX if vector => {
            let mask = (0..instruction.op_count()).any(|index| {
                instruction.op_kind(index) == OpKind::Register
                    && instruction.op_register(index).is_k()
            });
            if mask { Class::Avx512 } else { Class::Avx }
        }
        EncodingKind::Legacy if vector => Class::Sse,
        _ => Class::General,
    }
}
