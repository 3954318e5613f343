//! 32-bit code with flat segments, in protected and in compatibility mode.
//!
//! An instruction is decoded as 32-bit code, given a form that 64-bit code has too, and then translated as
//! that code is: addresses of 32-bit registers are computed modulo 2^32, and R8 to R15 name nothing of the
//! guest's. What is encoded differently or moves the stack pointer is seen to here. What has no form in
//! 64-bit code, 16-bit addresses and operands in segments that are not flat, or FS and GS that have a limit,
//! are the interpreter's. Blocks are always bound to their linear address, and their operands share no probes.

use crate::build::{Builder, Done, Source};
use crate::classify::{Action, classify};
use crate::emit::{Mem, reg};
use crate::layout;
use crate::memory::Operand;
use ambos_interpret::Cpu;
use ambos_interpret::cpu::seg;
use ambos_vcpu::Segment;
use ambos_x86::segment::attr;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// Bytes of a word of the stack.
const WORD: i32 = 4;

fn is_flat(segment: &Segment) -> bool {
    segment.base == 0 && segment.limit == u32::MAX
}

/// Whether a segment holds data that may be written, and grows upwards.
fn is_writable(segment: &Segment) -> bool {
    // Present, not a system segment, data, writable, and what tells these from others.
    const DATA: u32 = 0x92;
    const MASK: u32 = 0x9e | attr::UNUSABLE;
    segment.attributes & MASK == DATA
}

/// Whether the vCPU runs 32-bit code whose segments check nothing and change no address.
pub(crate) fn is_flat32(cpu: &Cpu) -> bool {
    cpu.mode.code_bits == 32
        && cpu.mode.stack_bits == 32
        && !cpu.real_mode()
        && is_flat(&cpu.segments[seg::CS])
        && [seg::SS, seg::DS, seg::ES].into_iter().all(|number| {
            let segment = &cpu.segments[number];
            is_flat(segment) && is_writable(segment)
        })
}

/// Whether each of FS and GS checks nothing, wherever it begins.
pub(crate) fn unlimited(cpu: &Cpu) -> [bool; 2] {
    [seg::FS, seg::GS].map(|number| {
        let segment = &cpu.segments[number];
        segment.limit == u32::MAX && is_writable(segment)
    })
}

impl Source<'_> {
    /// Code size in bits.
    fn bits(&self) -> u32 {
        if self.narrow { 32 } else { 64 }
    }

    /// A decoder of the block's code.
    pub(crate) fn decoder<'b>(&self, bytes: &'b [u8], linear: u64) -> Decoder<'b> {
        Decoder::with_ip(self.bits(), bytes, linear, DecoderOptions::NONE)
    }

    /// Classifies an instruction of the block and gives it the form in which it is translated.
    pub(crate) fn classify(&self, instruction: &mut Instruction) -> Action {
        if !self.narrow {
            return classify(instruction);
        }
        widen(instruction);
        if has_memory(instruction) && !self.reaches(instruction) {
            return Action::Interpret;
        }
        classify32(instruction)
    }

    /// Whether the memory operand is at a 32-bit address in a segment that checks nothing.
    fn reaches(&self, instruction: &Instruction) -> bool {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let size = match (base, index) {
            (Register::None, Register::None) => instruction.memory_displ_size() as usize,
            (Register::None, index) => index.size(),
            (base, _) => base.size(),
        };
        let [fs, gs] = self.unlimited;
        let segment = match instruction.memory_segment() {
            Register::DS | Register::ES | Register::SS => true,
            Register::FS => fs,
            Register::GS => gs,
            _ => false,
        };
        size == 4 && segment
    }

    /// A linear address, which in 32-bit code has 32 bits.
    pub(crate) fn wrap(&self, linear: u64) -> u64 {
        if self.narrow { linear & 0xffff_ffff } else { linear }
    }
}

/// Gives an instruction the form that it has in 64-bit code, where it has one.
fn widen(instruction: &mut Instruction) {
    let code = match instruction.code() {
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        code => code,
    };
    instruction.set_code(code);
    let absolute =
        instruction.memory_base() == Register::None && instruction.memory_index() == Register::None;
    if absolute && instruction.memory_displ_size() == 4 {
        let address = instruction.memory_displacement64() & 0xffff_ffff;
        instruction.set_memory_displacement64(address);
    }
}

/// Classifies an instruction of 32-bit code.
fn classify32(instruction: &Instruction) -> Action {
    match instruction.code() {
        Code::Push_r32 | Code::Push_rm32 | Code::Pushd_imm8 | Code::Pushd_imm32 => {
            return Action::Push;
        }
        Code::Pop_r32 => return Action::Pop,
        Code::Leaved => return Action::Leave,
        Code::Jmp_rel8_32 | Code::Jmp_rel32_32 => return Action::Jump,
        Code::Call_rel32_32 => return Action::Call,
        Code::Jmp_rm32 => return Action::JumpTo,
        Code::Call_rm32 => return Action::CallTo,
        Code::Retnd | Code::Retnd_imm16 => return Action::Return,
        _ => {}
    }
    if instruction.is_jcc_short_or_near() && instruction.op0_kind() == OpKind::NearBranch32 {
        return Action::Branch;
    }
    match classify(instruction) {
        action @ (Action::Skip | Action::Copy | Action::Address) => action,
        Action::System
            if matches!(
                instruction.mnemonic(),
                Mnemonic::Cli | Mnemonic::Cld | Mnemonic::Std | Mnemonic::Rdtsc
            ) =>
        {
            Action::System
        }
        _ => Action::Interpret,
    }
}

fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory)
}

impl Builder<'_> {
    /// The guest's current instruction as it is in its page.
    pub(crate) fn original(&self, bytes: &[u8], linear: u64) -> Instruction {
        self.source.decoder(bytes, linear).decode()
    }

    /// Emits the current instruction, which has no memory operand that is reached by a probe; `false` if it has
    /// no form in 64-bit code.
    pub(crate) fn emit_current(&mut self, instruction: &Instruction) -> bool {
        if self.source.narrow {
            return self.code.instruction(instruction);
        }
        let offset = usize::from(self.offset);
        self.code.raw(&self.source.page[offset..offset + instruction.len()]);
        true
    }

    /// `lea to, [base + disp]` on 32 bits.
    fn lea32(&mut self, to: u8, base: u8, disp: i32) {
        self.code.op(false, &[0x8d], to, Mem::Base(base, disp));
    }

    fn load32(&mut self, to: u8, from: Mem) {
        self.code.op(false, &[0x8b], to, from);
    }

    fn store32(&mut self, to: Mem, from: u8) {
        self.code.op(false, &[0x89], from, to);
    }

    fn store_constant32(&mut self, to: Mem, value: u32) {
        self.code.op(false, &[0xc7], 0, to);
        self.code.raw(&value.to_le_bytes());
    }

    /// Probes for the word `disp` bytes from what `register` points at.
    fn word32(&mut self, register: u8, disp: i32, write: bool, flags_live: bool) -> Mem {
        self.free_scratch();
        self.lea32(reg::R10, register, disp);
        self.probe(reg::R10, reg::R11, Operand { size: WORD as usize, write, flags_live });
        Mem::Sum(reg::R10, reg::R11)
    }

    /// PUSH of 32 bits.
    pub(crate) fn push32(&mut self, instruction: &Instruction, flags_live: bool) -> Done {
        match instruction.op0_kind() {
            OpKind::Register => {
                let to = self.word32(reg::RSP, -WORD, true, flags_live);
                self.store32(to, instruction.op0_register().number() as u8);
            }
            OpKind::Memory => {
                if !self.load_operand32(instruction, flags_live) {
                    return Done::Refused;
                }
                self.code.store(Mem::Gs(layout::WAITING), reg::R10);
                let Mem::Sum(first, second) = self.word32(reg::RSP, -WORD, true, flags_live) else {
                    return Done::Refused;
                };
                self.code.lea(first, Mem::Sum(first, second));
                self.code.load(second, Mem::Gs(layout::WAITING));
                self.store32(Mem::Base(first, 0), second);
            }
            _ => {
                let to = self.word32(reg::RSP, -WORD, true, flags_live);
                self.store_constant32(to, instruction.immediate(0) as u32);
            }
        }
        self.lea32(reg::RSP, reg::RSP, -WORD);
        Done::Next
    }

    /// POP of 32 bits into a register.
    pub(crate) fn pop32(&mut self, instruction: &Instruction, flags_live: bool) {
        let from = self.word32(reg::RSP, 0, false, flags_live);
        let to = instruction.op0_register().number() as u8;
        self.load32(to, from);
        if to != reg::RSP {
            self.lea32(reg::RSP, reg::RSP, WORD);
        }
    }

    /// LEAVE.
    pub(crate) fn leave32(&mut self, flags_live: bool) {
        let from = self.word32(reg::RBP, 0, false, flags_live);
        self.lea32(reg::RSP, reg::RBP, WORD);
        self.load32(reg::RBP, from);
    }

    /// Pushes the address of the next instruction, where the block ends.
    pub(crate) fn push_return32(&mut self, flags_live: bool) {
        let back = u64::from(self.offset) + u64::from(self.length);
        let linear = self.page_base().wrapping_add(back);
        let to = self.word32(reg::RSP, -WORD, true, flags_live);
        self.store_constant32(to, linear as u32);
        self.lea32(reg::RSP, reg::RSP, -WORD);
    }

    /// RET: takes the address to go on at and goes there.
    pub(crate) fn return32(&mut self, instruction: &Instruction, flags_live: bool) {
        let release = match instruction.op_count() {
            0 => WORD,
            _ => WORD + (instruction.immediate(0) & 0xffff) as i32,
        };
        let from = self.word32(reg::RSP, 0, false, flags_live);
        self.load32(reg::R10, from);
        self.lea32(reg::RSP, reg::RSP, release);
        self.through_jump_cache(release);
    }

    /// Loads the target of an indirect jump or call into R10; `false` if that cannot be done.
    pub(crate) fn target32(&mut self, instruction: &Instruction, flags_live: bool) -> bool {
        if instruction.op0_kind() == OpKind::Register {
            self.free_scratch();
            self.lea32(reg::R10, instruction.op0_register().number() as u8, 0);
            return true;
        }
        self.load_operand32(instruction, flags_live)
    }

    /// Loads a memory operand of 32 bits into R10; `false` if that cannot be done.
    fn load_operand32(&mut self, instruction: &Instruction, flags_live: bool) -> bool {
        if !self.linear(instruction, reg::R10, reg::R11) {
            return false;
        }
        let operand = Operand { size: WORD as usize, write: false, flags_live };
        self.probe(reg::R10, reg::R11, operand);
        self.load32(reg::R10, Mem::Sum(reg::R10, reg::R11));
        true
    }
}
