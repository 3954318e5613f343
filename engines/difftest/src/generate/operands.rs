//! An instruction of a given code with random legal operands.

use super::values;
use crate::layout;
use crate::random::Random;
use ambos_x86::xstate;
use iced_x86::{
    Code, EncodingKind, Instruction, OpCodeInfo, OpCodeOperandKind as K, OpKind, Register,
    RoundingControl,
};

/// Makes instructions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operands {
    /// State components that the host has.
    pub(crate) components: u64,
}

/// A random encodable instruction, or `None` if this attempt found no legal combination. Its
/// memory operand is not placed yet.
impl Operands {
    pub(crate) fn instruction(&self, code: Code, random: &mut Random) -> Option<Instruction> {
        let info = code.op_code();
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        for (index, &kind) in info.op_kinds().iter().enumerate() {
            self.operand(&mut instruction, info, index as u32, kind, random)?;
        }
        decorate(&mut instruction, info, random);
        Some(instruction)
    }

    /// The number of a vector register.
    fn vector(&self, info: &OpCodeInfo, random: &mut Random) -> u32 {
        let wide = info.encoding() == EncodingKind::EVEX
            && self.components & xstate::AVX512 == xstate::AVX512;
        // Collisions of operands are interesting.
        if random.chance(30) {
            return random.below(3) as u32;
        }
        random.below(if wide { 32 } else { 16 }) as u32
    }

    fn operand(
        &self,
        instruction: &mut Instruction,
        info: &OpCodeInfo,
        index: u32,
        kind: K,
        random: &mut Random,
    ) -> Option<()> {
        let memory = random.chance(60);
        let register = match kind {
            K::mem | K::mem_mib | K::sibmem => return memory_operand(instruction, index, random),
            K::mem_vsib32x
            | K::mem_vsib64x
            | K::mem_vsib32y
            | K::mem_vsib64y
            | K::mem_vsib32z
            | K::mem_vsib64z => {
                memory_operand(instruction, index, random)?;
                let class = match kind {
                    K::mem_vsib32x | K::mem_vsib64x => Register::XMM0,
                    K::mem_vsib32y | K::mem_vsib64y => Register::YMM0,
                    _ => Register::ZMM0,
                };
                instruction.set_memory_base(general64(random, false));
                instruction.set_memory_index(class + self.vector(info, random));
                instruction.set_memory_index_scale(1 << random.below(4));
                return Some(());
            }
            K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
            | K::zmm_or_mem
            | K::k_or_mem
                if memory =>
            {
                return memory_operand(instruction, index, random);
            }
            K::mem_offs => {
                instruction.set_op_kind(index, OpKind::Memory);
                instruction.set_memory_displ_size(if random.chance(20) { 4 } else { 8 });
                return Some(());
            }
            K::r8_or_mem | K::r8_reg | K::r8_opcode => Register::AL + random.below(20) as u32,
            K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => {
                Register::AX + general(random)
            }
            K::r32_or_mem
            | K::r32_reg
            | K::r32_reg_mem
            | K::r32_rm
            | K::r32_opcode
            | K::r32_vvvv => Register::EAX + general(random),
            K::r64_or_mem
            | K::r64_reg
            | K::r64_reg_mem
            | K::r64_rm
            | K::r64_opcode
            | K::r64_vvvv => Register::RAX + general(random),
            K::seg_reg => Register::ES + random.below(6) as u32,
            K::k_reg | K::k_rm | K::k_vvvv | K::k_or_mem => Register::K0 + random.below(8) as u32,
            K::kp1_reg => Register::K0 + 2 * random.below(4) as u32,
            K::mm_reg | K::mm_rm | K::mm_or_mem => Register::MM0 + random.below(8) as u32,
            K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5 | K::xmm_or_mem => {
                Register::XMM0 + self.vector(info, random)
            }
            K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5 | K::ymm_or_mem => {
                Register::YMM0 + self.vector(info, random)
            }
            K::zmm_reg | K::zmm_rm | K::zmm_vvvv | K::zmm_or_mem => {
                Register::ZMM0 + self.vector(info, random)
            }
            K::xmmp3_vvvv => Register::XMM0 + 4 * random.below(4) as u32,
            K::zmmp3_vvvv => Register::ZMM0 + 4 * random.below(4) as u32,
            K::cr_reg => Register::CR0 + random.pick(&[0, 2, 3, 4, 8]),
            K::dr_reg => Register::DR0 + random.below(8) as u32,
            K::es => Register::ES,
            K::cs => Register::CS,
            K::ss => Register::SS,
            K::ds => Register::DS,
            K::fs => Register::FS,
            K::gs => Register::GS,
            K::al => Register::AL,
            K::cl => Register::CL,
            K::ax => Register::AX,
            K::dx => Register::DX,
            K::eax => Register::EAX,
            K::rax => Register::RAX,
            K::st0 => Register::ST0,
            K::sti_opcode => Register::ST0 + random.below(8) as u32,
            _ => return immediate_or_implicit(instruction, index, kind, random),
        };
        instruction.set_op_kind(index, OpKind::Register);
        instruction.set_op_register(index, register);
        Some(())
    }
}

fn immediate_or_implicit(
    instruction: &mut Instruction,
    index: u32,
    kind: K,
    random: &mut Random,
) -> Option<()> {
    let value = values::integer(random);
    let second = index > 0
        && matches!(instruction.op_kind(index - 1), OpKind::Immediate8 | OpKind::Immediate16);
    let short_address = random.chance(10);
    let op_kind = match kind {
        K::imm4_m2z => OpKind::Immediate8,
        K::imm8 if second => OpKind::Immediate8_2nd,
        K::imm8 | K::imm8_const_1 => OpKind::Immediate8,
        K::imm8sex16 => OpKind::Immediate8to16,
        K::imm8sex32 => OpKind::Immediate8to32,
        K::imm8sex64 => OpKind::Immediate8to64,
        K::imm16 => OpKind::Immediate16,
        K::imm32 => OpKind::Immediate32,
        K::imm32sex64 => OpKind::Immediate32to64,
        K::imm64 => OpKind::Immediate64,
        K::seg_rSI if short_address => OpKind::MemorySegESI,
        K::seg_rSI => OpKind::MemorySegRSI,
        K::seg_rDI if short_address => OpKind::MemorySegEDI,
        K::seg_rDI => OpKind::MemorySegRDI,
        K::es_rDI => {
            // Both operands of MOVS and CMPS have one address size.
            let other = (0..instruction.op_count())
                .any(|other| other != index && instruction.op_kind(other) == OpKind::MemorySegESI);
            let first = index == 0 && short_address;
            if other || first { OpKind::MemoryESEDI } else { OpKind::MemoryESRDI }
        }
        K::seg_rBX_al => {
            instruction.set_op_kind(index, OpKind::Memory);
            instruction.set_memory_base(Register::RBX);
            instruction.set_memory_index(Register::AL);
            instruction.set_memory_index_scale(1);
            return Some(());
        }
        K::br64_1 | K::br64_4 => {
            instruction.set_op_kind(index, OpKind::NearBranch64);
            instruction.set_near_branch64(layout::LANDING);
            return Some(());
        }
        _ => return None,
    };
    instruction.set_op_kind(index, op_kind);
    match op_kind {
        OpKind::Immediate8 => {
            let byte = match kind {
                K::imm8_const_1 => 1,
                K::imm4_m2z => value as u8 & 0xf,
                _ => value as u8,
            };
            instruction.set_immediate8(byte);
        }
        OpKind::Immediate8_2nd => instruction.set_immediate8_2nd(random.below(4) as u8),
        OpKind::Immediate8to16 => instruction.set_immediate8to16(i16::from(value as i8)),
        OpKind::Immediate8to32 => instruction.set_immediate8to32(i32::from(value as i8)),
        OpKind::Immediate8to64 => instruction.set_immediate8to64(i64::from(value as i8)),
        OpKind::Immediate16 => instruction.set_immediate16(value as u16),
        OpKind::Immediate32 => instruction.set_immediate32(value as u32),
        OpKind::Immediate32to64 => instruction.set_immediate32to64(i64::from(value as i32)),
        OpKind::Immediate64 => instruction.set_immediate64(value),
        _ => {}
    }
    Some(())
}

/// The number of a general-purpose register.
fn general(random: &mut Random) -> u32 {
    // RAX, RCX and RSP have encodings and roles of their own.
    if random.chance(20) { random.pick(&[0, 1, 4]) } else { random.below(16) as u32 }
}

fn general64(random: &mut Random, short: bool) -> Register {
    let number = general(random);
    if short { Register::EAX + number } else { Register::RAX + number }
}

/// A memory operand of any form; its address is decided later.
fn memory_operand(instruction: &mut Instruction, index: u32, random: &mut Random) -> Option<()> {
    instruction.set_op_kind(index, OpKind::Memory);
    let short = random.chance(8);
    let displacement = if random.chance(50) {
        random.bits() as i8 as i64
    } else {
        i64::from(random.bits() as i32)
    };
    match random.below(10) {
        0 => {
            let base = if short { Register::EIP } else { Register::RIP };
            instruction.set_memory_base(base);
            instruction.set_memory_displ_size(if short { 4 } else { 8 });
            instruction.set_memory_displacement64(layout::SCRATCH);
        }
        1 => {
            instruction.set_memory_displ_size(if short { 4 } else { 8 });
            instruction.set_memory_displacement64(layout::SCRATCH);
        }
        2..=4 => instruction.set_memory_base(general64(random, short)),
        5 => {
            instruction.set_memory_base(general64(random, short));
            set_displacement(instruction, short, displacement);
        }
        6..=8 => {
            instruction.set_memory_base(general64(random, short));
            index_register(instruction, short, random);
            if random.chance(70) {
                set_displacement(instruction, short, displacement);
            }
        }
        _ => {
            index_register(instruction, short, random);
            set_displacement(instruction, short, displacement);
        }
    }
    if random.chance(6) {
        instruction.set_segment_prefix(Register::GS);
    }
    Some(())
}

fn index_register(instruction: &mut Instruction, short: bool, random: &mut Random) {
    let register = general64(random, short);
    if register.number() != Register::RSP.number() {
        instruction.set_memory_index(register);
        instruction.set_memory_index_scale(1 << random.below(4));
    } else if instruction.memory_base() == Register::None {
        instruction.set_memory_base(register);
    }
}

fn set_displacement(instruction: &mut Instruction, short: bool, displacement: i64) {
    instruction.set_memory_displ_size(if short { 4 } else { 8 });
    let value = if short { displacement as u32 as u64 } else { displacement as u64 };
    instruction.set_memory_displacement64(value);
}

/// Prefixes, masks, rounding, broadcast.
fn decorate(instruction: &mut Instruction, info: &OpCodeInfo, random: &mut Random) {
    let memory =
        (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory);
    if info.can_use_lock_prefix() && instruction.op0_kind() == OpKind::Memory && random.chance(40) {
        instruction.set_has_lock_prefix(true);
    }
    if instruction.is_string_instruction() && random.chance(60) {
        if info.can_use_repne_prefix() && random.chance(50) {
            instruction.set_has_repne_prefix(true);
        } else if info.can_use_rep_prefix() {
            instruction.set_has_rep_prefix(true);
        }
    }
    if info.can_use_op_mask_register() && (info.require_op_mask_register() || random.chance(50)) {
        instruction.set_op_mask(Register::K1 + random.below(7) as u32);
        if info.can_use_zeroing_masking()
            && instruction.op0_kind() != OpKind::Memory
            && random.chance(40)
        {
            instruction.set_zeroing_masking(true);
        }
    }
    if memory && info.can_broadcast() && random.chance(30) {
        instruction.set_is_broadcast(true);
    }
    if !memory && info.can_use_rounding_control() && random.chance(30) {
        let modes = [
            RoundingControl::RoundToNearest,
            RoundingControl::RoundDown,
            RoundingControl::RoundUp,
            RoundingControl::RoundTowardZero,
        ];
        instruction.set_rounding_control(random.pick(&modes));
    } else if !memory && info.can_suppress_all_exceptions() && random.chance(30) {
        instruction.set_suppress_all_exceptions(true);
    }
}
