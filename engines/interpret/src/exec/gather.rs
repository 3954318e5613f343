//! Gathers and scatters: vector instructions with one address per element.
//!
//! They are done element by element, because each element can fault; elements already done stay
//! done and their mask bits are clear, as the architecture wants it.

use super::native::Class;
use crate::cpu::Cpu;
use crate::exit::{Fault, Step};
use crate::op::Op;
use ambos_vcpu::Platform;
use iced_x86::{Code, EncodingKind, Instruction, OpKind, Register};

/// The shape of one gather or scatter.
struct Shape {
    elements: usize,
    data_bytes: usize,
    index_bytes: usize,
    data: usize,
    index: usize,
    scatter: bool,
    mask: Mask,
    /// Bytes of the data register from which on it is zeroed.
    data_end: usize,
    /// Bytes of the longer of the vectors.
    vector_bytes: usize,
}

#[derive(Clone, Copy)]
enum Mask {
    /// AVX2: sign bits of a vector register's elements.
    Vector(usize),
    /// AVX-512: bits of an opmask register.
    Opmask(usize),
}

fn shape(instruction: &Instruction) -> Option<Shape> {
    let index_register = instruction.memory_index();
    let index_bytes = if instruction.is_vsib32() { 4 } else { 8 };
    let data_bytes = instruction.memory_size().element_size();
    let evex = instruction.encoding() == EncodingKind::EVEX;
    let scatter = instruction.op0_kind() == OpKind::Memory;
    let data = if scatter { instruction.op1_register() } else { instruction.op0_register() };
    if data == Register::None {
        // Prefetches by gather: no processor in service has them.
        return None;
    }
    let mask = if evex {
        Mask::Opmask(instruction.op_mask().number())
    } else {
        Mask::Vector(instruction.op2_register().number())
    };
    let elements =
        (data.size().checked_div(data_bytes)?).min(index_register.size().checked_div(index_bytes)?);
    Some(Shape {
        elements,
        data_bytes,
        index_bytes,
        data: data.number(),
        index: index_register.number(),
        scatter,
        mask,
        data_end: elements * data_bytes,
        vector_bytes: data.size().max(index_register.size()),
    })
}

/// Whether an instruction has one address per element.
pub fn is_gather(instruction: &Instruction) -> bool {
    instruction.is_vsib() && instruction.code() != Code::INVALID
}

/// The handler of gathers and scatters.
pub fn gather(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let instruction = op.instruction()?;
    let shape = shape(instruction).ok_or(Fault::UD)?;
    cpu.check_class(match shape.mask {
        Mask::Vector(_) => Class::Avx,
        Mask::Opmask(_) => Class::Avx512,
    })?;
    let distinct = match shape.mask {
        Mask::Vector(mask) => {
            mask != shape.data && mask != shape.index && shape.data != shape.index
        }
        Mask::Opmask(mask) => mask != 0 && (shape.scatter || shape.data != shape.index),
    };
    if !distinct {
        return Err(Fault::UD.into());
    }
    let mut moved = 0;
    let step = elements(cpu, platform, op, instruction, &shape, &mut moved);
    // A gather under an opmask that faults after some elements has written its register: processors
    // zero what lies beyond the vector's length then.
    let zeroed = match (&step, shape.mask) {
        _ if shape.scatter => 64,
        (Ok(()), _) => shape.data_end,
        (Err(_), Mask::Opmask(_)) if moved > 0 => shape.vector_bytes,
        (Err(_), _) => 64,
    };
    cpu.native.vector.zmm[shape.data][zeroed..].fill(0);
    step?;
    match shape.mask {
        Mask::Vector(mask) => cpu.native.vector.zmm[mask].fill(0),
        Mask::Opmask(mask) => cpu.native.vector.k[mask] = 0,
    }
    Ok(())
}

/// Moves the elements that the mask selects; counts them.
fn elements(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
    instruction: &Instruction,
    shape: &Shape,
    moved: &mut usize,
) -> Step {
    let scale = u64::from(instruction.memory_index_scale());
    let has_base = instruction.memory_base() != Register::None;
    for element in 0..shape.elements {
        if !selected(cpu, shape, element) {
            deselect(cpu, shape, element);
            continue;
        }
        let offset = element * shape.index_bytes;
        let index = &cpu.native.vector.zmm[shape.index][offset..offset + shape.index_bytes];
        let index = if shape.index_bytes == 4 {
            i64::from(i32::from_le_bytes([index[0], index[1], index[2], index[3]])) as u64
        } else {
            le64(index)
        };
        let base = if has_base { cpu.native.gpr[usize::from(op.base) % 18] } else { 0 };
        let address = base.wrapping_add(index.wrapping_mul(scale)).wrapping_add(op.disp);
        let linear =
            op.linear_at(cpu, address & op.address_mask, shape.data_bytes, shape.scatter)?;
        let at = element * shape.data_bytes;
        if shape.scatter {
            let mut value = [0; 8];
            value[..shape.data_bytes]
                .copy_from_slice(&cpu.native.vector.zmm[shape.data][at..at + shape.data_bytes]);
            cpu.store_bytes(platform, linear, &value[..shape.data_bytes])?;
        } else {
            let mut value = [0; 8];
            cpu.load_bytes(platform, linear, &mut value[..shape.data_bytes])?;
            cpu.native.vector.zmm[shape.data][at..at + shape.data_bytes]
                .copy_from_slice(&value[..shape.data_bytes]);
        }
        deselect(cpu, shape, element);
        *moved += 1;
    }
    Ok(())
}

fn le64(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn selected(cpu: &Cpu, shape: &Shape, element: usize) -> bool {
    match shape.mask {
        Mask::Vector(mask) => {
            let sign = element * shape.data_bytes + shape.data_bytes - 1;
            cpu.native.vector.zmm[mask][sign] & 0x80 != 0
        }
        Mask::Opmask(mask) => cpu.native.vector.k[mask] >> element & 1 != 0,
    }
}

fn deselect(cpu: &mut Cpu, shape: &Shape, element: usize) {
    match shape.mask {
        Mask::Vector(mask) => {
            let at = element * shape.data_bytes;
            cpu.native.vector.zmm[mask][at..at + shape.data_bytes].fill(0);
        }
        Mask::Opmask(mask) => cpu.native.vector.k[mask] &= !(1 << element),
    }
}
