//! Placing memory operands: giving address registers values that lead to scratch memory.

use crate::case::{Memory, Registers};
use crate::layout;
use crate::random::Random;
use ambos_x86::gpr::{RBP, RCX, RDI, RSI, RSP};
use ambos_x86::{PAGE_SIZE, RFlags};
use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic as M, OpKind, Register};

/// Where to point an operand of `size` bytes.
pub(super) fn target(random: &mut Random, size: u64) -> u64 {
    let page = |number: u64| layout::SCRATCH + number * PAGE_SIZE;
    // So that the operand lies across the page boundary at `at`.
    let across = |random: &mut Random, at: u64| {
        if size > 1 { at - 1 - random.below(size - 1) } else { at - 1 }
    };
    let inside = |random: &mut Random, start: u64| {
        let room = PAGE_SIZE.saturating_sub(size).max(1);
        let at = random.below(room);
        let aligned = match random.below(4) {
            0 => at,
            1 => at & !15,
            _ => at & !63,
        };
        start + aligned
    };
    match random.below(100) {
        0..60 => {
            let number = 1 + random.below(2);
            inside(random, page(number))
        }
        60..68 => across(random, page(2)),
        68..75 => inside(random, page(5)),
        75..77 => across(random, page(5)),
        77..79 => across(random, page(6)),
        79..83 => {
            let number = random.pick(&[4, 6]);
            inside(random, page(number))
        }
        83..88 => across(random, page(3)),
        88..90 => across(random, page(1)),
        90..92 => across(random, page(4)),
        92..94 => across(random, page(7)),
        94..98 => {
            let number = random.pick(&[0, 3, 7]);
            inside(random, page(number))
        }
        _ => random.bits() & 0x7fff_ffff_ffff | 1 << 62 | random.bits() & 1 << 63,
    }
}

/// A target that also 32-bit addresses and displacements reach.
pub(super) fn low_target(random: &mut Random, size: u64) -> u64 {
    loop {
        let at = target(random, size);
        if at >> 31 == 0 {
            return at;
        }
    }
}

/// Bytes of the memory operand.
fn operand_size(instruction: &Instruction) -> u64 {
    match instruction.memory_size().size() as u64 {
        0 => 16,
        size => size,
    }
}

/// Gives the registers that `instruction` addresses memory by values that lead to scratch memory,
/// and memory content that the instruction needs. False if that cannot be done.
pub(crate) fn place(
    instruction: &mut Instruction,
    registers: &mut Registers,
    memory: &mut Memory,
    random: &mut Random,
) -> bool {
    let kinds: Vec<OpKind> =
        (0..instruction.op_count()).map(|index| instruction.op_kind(index)).collect();
    if leaves_alignment_open(instruction) {
        registers.rflags &= !RFlags::AC.bits();
    }
    let gpr = &mut registers.gpr;
    if instruction.is_stack_instruction() {
        gpr[RSP] = target(random, 8);
        if matches!(instruction.mnemonic(), M::Leave | M::Enter) {
            gpr[RBP] = target(random, 8);
        }
    }
    if kinds.contains(&OpKind::Memory) && !explicit(instruction, registers, random) {
        return false;
    }
    let gpr = &mut registers.gpr;
    let size = operand_size(instruction);
    for kind in &kinds {
        let (register, short) = match kind {
            OpKind::MemorySegRSI => (RSI, false),
            OpKind::MemorySegESI => (RSI, true),
            OpKind::MemorySegRDI | OpKind::MemoryESRDI => (RDI, false),
            OpKind::MemorySegEDI | OpKind::MemoryESEDI => (RDI, true),
            _ => continue,
        };
        let segment = matches!(kind, OpKind::MemorySegRSI | OpKind::MemorySegESI)
            && instruction.memory_segment() == Register::GS;
        let base = if segment { layout::GS_BASE } else { 0 };
        let at = if short { low_target(random, size) } else { target(random, size) };
        let upper = if short { random.bits() << 32 } else { 0 };
        gpr[register] =
            if short { at.wrapping_sub(base) & 0xffff_ffff | upper } else { at.wrapping_sub(base) };
        // Overlapping source and destination.
        if register == RDI && random.chance(20) && kinds.len() > 1 {
            gpr[RDI] = gpr[RSI].wrapping_add(random.below(40)).wrapping_sub(20);
        }
    }
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        gpr[RCX] = match random.below(10) {
            0..=6 => random.below(20),
            7 | 8 => random.below(0x1800),
            _ => random.bits(),
        };
    }
    contents(instruction, registers, memory, random)
}

/// Whether the processor chooses which alignment is checked, and when. Of operands under a mask, and of
/// those that a mask makes shorter, some check what is accessed, others all, and others nothing.
fn leaves_alignment_open(instruction: &Instruction) -> bool {
    instruction.op_mask() != Register::None
        || matches!(
            instruction.mnemonic(),
            M::Enter
                | M::Vcompresspd
                | M::Vcompressps
                | M::Vpcompressb
                | M::Vpcompressd
                | M::Vpcompressq
                | M::Vpcompressw
                | M::Vexpandpd
                | M::Vexpandps
                | M::Vpexpandb
                | M::Vpexpandd
                | M::Vpexpandq
                | M::Vpexpandw
                | M::Maskmovq
                | M::Maskmovdqu
                | M::Vmaskmovdqu
                | M::Fxsave
                | M::Fxsave64
                | M::Fxrstor
                | M::Fxrstor64
        )
}

/// The explicit memory operand.
fn explicit(instruction: &mut Instruction, registers: &mut Registers, random: &mut Random) -> bool {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let size = operand_size(instruction);
    let segment_base =
        if instruction.memory_segment() == Register::GS { layout::GS_BASE } else { 0 };
    if matches!(base, Register::RIP | Register::EIP)
        || (base, index) == (Register::None, Register::None)
    {
        let at = low_target(random, size).wrapping_sub(segment_base);
        if at >> 31 != 0 {
            return false;
        }
        instruction.set_memory_displacement64(at);
        return true;
    }
    let short = base.size() == 4 && base != Register::None || index.is_gpr32();
    let at = if short || index.is_gpr() && base == Register::None {
        low_target(random, size)
    } else {
        target(random, size)
    };
    let at = at.wrapping_sub(segment_base);
    let rest = at.wrapping_sub(instruction.memory_displacement64());
    let scale = u64::from(instruction.memory_index_scale());
    let before = registers.gpr;
    let mut set = |register: Register, value: u64| {
        let upper = if short { random.bits() << 32 } else { 0 };
        let value = if short { value & 0xffff_ffff | upper } else { value };
        registers.gpr[register.number()] = value;
    };
    if index.is_vector_register() {
        if !base.is_gpr() {
            return false;
        }
        set(base, rest);
        let wide = !instruction.is_vsib32();
        let reach = random.pick(&[4, 64, 64, 1000]);
        let lanes = &mut registers.vector.zmm[index.number()][..index.size()];
        for lane in lanes.chunks_exact_mut(if wide { 8 } else { 4 }) {
            let offset = random.below(2 * reach) as i64 - reach as i64;
            lane.copy_from_slice(&offset.to_le_bytes()[..lane.len()]);
        }
        return true;
    }
    let full = |register: Register| register.full_register();
    match (base, index) {
        (base, Register::None) => set(base, rest),
        (Register::RBX | Register::EBX, Register::AL) => {
            let al = before[0] & 0xff;
            set(base, rest.wrapping_sub(al));
        }
        (Register::None, index) => set(index, rest / scale),
        (base, index) if full(base) == full(index) => {
            let value = match scale {
                1 => rest >> 1,
                // The inverse of 3, 5 or 9 modulo 2^64.
                2 => rest.wrapping_mul(0xaaaa_aaaa_aaaa_aaab),
                4 => rest.wrapping_mul(0xcccc_cccc_cccc_cccd),
                _ => rest.wrapping_mul(0x8e38_e38e_38e3_8e39),
            };
            set(base, value);
        }
        (base, index) => {
            let offset = before[index.full_register().number()];
            set(base, rest.wrapping_sub(offset.wrapping_mul(scale)));
        }
    }
    bit_offset(instruction, registers, random)
}

/// The register offset of a bit instruction reaches far beyond the operand.
fn bit_offset(instruction: &Instruction, registers: &mut Registers, random: &mut Random) -> bool {
    let bits = matches!(instruction.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc);
    if !bits || instruction.op1_kind() != OpKind::Register {
        return true;
    }
    let register = instruction.op1_register().full_register();
    let addresses = [instruction.memory_base(), instruction.memory_index()];
    if addresses.iter().any(|address| address.full_register() == register) {
        return instruction.op1_register().size() == 2;
    }
    let reach = random.pick(&[32, 256, 70_000]);
    let offset = (random.below(2 * reach) as i64 - reach as i64) as u64;
    let slot = &mut registers.gpr[register.number()];
    *slot = match instruction.op1_register().size() {
        2 => *slot & !0xffff | offset & 0xffff,
        4 => *slot & !0xffff_ffff | offset & 0xffff_ffff,
        _ => offset,
    };
    true
}

/// Memory content without which an instruction would do nothing worth testing, or too much.
fn contents(
    instruction: &Instruction,
    registers: &mut Registers,
    memory: &mut Memory,
    random: &mut Random,
) -> bool {
    let operand = operand_address(instruction, registers);
    let landing = layout::LANDING.to_le_bytes();
    match instruction.flow_control() {
        FlowControl::Return => memory.write(registers.gpr[RSP], &landing),
        FlowControl::IndirectBranch | FlowControl::IndirectCall => {
            if instruction.op0_kind() == OpKind::Register {
                registers.gpr[instruction.op0_register().number()] = layout::LANDING;
            } else if let Some(at) = operand {
                memory.write(at, &landing);
                // Processors disagree on what comes first, the bad target or the bad stack.
                if (0..8).any(|offset| memory.read(at.wrapping_add(offset)).is_some())
                    && (0..8).any(|offset| {
                        memory.read(at.wrapping_add(offset)) != Some(landing[offset as usize])
                    })
                {
                    return false;
                }
            }
        }
        _ => {}
    }
    let mode_bits = random.bits();
    match instruction.mnemonic() {
        // Neither single steps nor nested tasks.
        M::Popf | M::Popfq => {
            let flags = mode_bits & 0x0024_8ed5;
            memory.write(registers.gpr[RSP], &flags.to_le_bytes());
            let second = registers.gpr[RSP].wrapping_add(1);
            return memory.read(second).is_none_or(|byte| byte & 0x41 == 0);
        }
        M::Ldmxcsr | M::Vldmxcsr if random.chance(80) => {
            if let Some(at) = operand {
                memory.write(at, &(mode_bits as u32 & 0xffff).to_le_bytes());
            }
        }
        M::Fxrstor | M::Fxrstor64 if random.chance(80) => {
            if let Some(at) = operand {
                memory.write(at.wrapping_add(24), &(mode_bits as u32 & 0xffff).to_le_bytes());
            }
        }
        _ => {}
    }
    true
}

/// The value of a register as the address of a memory operand sees it.
fn value(registers: &Registers, register: Register, element: usize, size: usize) -> Option<u64> {
    match register {
        Register::ES | Register::CS | Register::SS | Register::DS => Some(0),
        Register::GS => Some(layout::GS_BASE),
        Register::AH | Register::CH | Register::DH | Register::BH => None,
        _ if register.is_gpr() => {
            let value = registers.gpr[register.full_register().number()];
            Some(match register.size() {
                1 => value & 0xff,
                2 => value & 0xffff,
                4 => value & 0xffff_ffff,
                _ => value,
            })
        }
        _ if register.is_vector_register() => {
            let lanes = &registers.vector.zmm[register.number()];
            let lane = lanes.get(element * size..(element + 1) * size)?;
            Some(lane.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
        }
        _ => None,
    }
}

/// Address of the explicit memory operand.
pub(crate) fn operand_address(instruction: &Instruction, registers: &Registers) -> Option<u64> {
    let index =
        (0..instruction.op_count()).find(|&index| instruction.op_kind(index) == OpKind::Memory)?;
    instruction.virtual_address(index, 0, |register, element, size| {
        value(registers, register, element, size)
    })
}

/// Address and size of everything in memory that an instruction accesses.
/// `None` if that cannot be told.
pub(crate) fn addresses(
    instruction: &Instruction,
    registers: &Registers,
) -> Option<Vec<(u64, u64)>> {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let mut list = Vec::new();
    let offset_reach = match instruction.mnemonic() {
        M::Bt | M::Bts | M::Btr | M::Btc if instruction.op1_kind() == OpKind::Register => {
            let register = instruction.op1_register();
            let bits = value(registers, register, 0, 0)?;
            let bits = match register.size() {
                2 => i64::from(bits as i16),
                4 => i64::from(bits as i32),
                _ => bits as i64,
            };
            bits.unsigned_abs() / 8 + 8
        }
        _ => 0,
    };
    if offset_reach > layout::BELT / 2 {
        return None;
    }
    for used in info.used_memory() {
        let elements =
            if used.vsib_size() == 0 { 1 } else { used.index().size() / used.vsib_size() as usize };
        for element in 0..elements {
            let address = used.virtual_address(element, |register, element, size| {
                value(registers, register, element, size)
            })?;
            let size = match used.memory_size().size() as u64 {
                0 => 512,
                size => size,
            };
            list.push((address, size));
        }
    }
    Some(list)
}

/// Whether everything that an instruction accesses may be accessed natively.
pub(crate) fn is_safe(instruction: &Instruction, registers: &Registers) -> bool {
    addresses(instruction, registers)
        .is_some_and(|list| list.iter().all(|&(address, size)| layout::is_safe(address, size)))
}
