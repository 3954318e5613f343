//! FXSAVE, FXRSTOR and the XSAVE family (SDM vol. 1, chapter 13).
//!
//! The vCPU keeps vector registers whole; here they are split into the state components of the
//! architecture and back. Offsets of the standard format are the host's, because guests learn them
//! from the host's CPUID leaf.

use crate::cpu::Cpu;
use crate::exit::{Exit, Fault, Step};
use crate::op::Op;
use ambos_hostcode::mxcsr_mask;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::Platform;
use ambos_x86::gpr::{RAX, RDX};
use ambos_x86::{Cr0, Cr4, xstate};
use std::sync::OnceLock;

/// Bytes of the legacy region and the header.
const HEADER: u64 = 512;
const EXTENDED: u32 = 576;
/// Bytes of all extended components that there are: AVX, the AVX-512 ones, protection keys.
const EXTENDED_BYTES: usize = 256 + 64 + 512 + 1024 + 8;
/// XCOMP_BV: the area is compacted.
const COMPACTED: u64 = 1 << 63;

/// Where a state component lies.
#[derive(Debug, Clone, Copy)]
struct Component {
    number: u32,
    size: u32,
    offset: u32,
    aligned: bool,
}

/// The extended components of this host, ascending.
fn components() -> &'static [Component] {
    static COMPONENTS: OnceLock<Vec<Component>> = OnceLock::new();
    COMPONENTS.get_or_init(|| {
        let mut found = Vec::new();
        for number in [2, 5, 6, 7, 9] {
            let leaf = std::arch::x86_64::__cpuid_count(0xd, number);
            if leaf.eax != 0 {
                let (size, offset, aligned) = (leaf.eax, leaf.ebx, leaf.ecx & 2 != 0);
                found.push(Component { number, size, offset, aligned });
            }
        }
        found
    })
}

/// Bytes of a standard-format area for `mask`.
pub fn standard_size(mask: u64) -> u32 {
    let ends = components().iter().filter(|c| mask >> c.number & 1 != 0);
    ends.map(|c| c.offset + c.size).max().unwrap_or(EXTENDED)
}

/// Bytes of a compacted area for `mask`.
pub fn compacted_size(mask: u64) -> u32 {
    layout(mask, true).last().map_or(EXTENDED, |(c, offset)| offset + c.size)
}

/// Components of `mask` with their offsets.
fn layout(mask: u64, compacted: bool) -> impl Iterator<Item = (Component, u32)> {
    let mut next = EXTENDED;
    let wanted = components().iter().filter(move |c| mask >> c.number & 1 != 0);
    wanted.map(move |&component| {
        if !compacted {
            return (component, component.offset);
        }
        if component.aligned {
            next = next.next_multiple_of(64);
        }
        let offset = next;
        next += component.size;
        (component, offset)
    })
}

/// Whether parts of registers are all zero.
fn all_zero(registers: &[[u8; 64]], bytes: std::ops::Range<usize>) -> bool {
    // Without a way out of the loop it is done many bytes at a time.
    let parts = registers.iter().flat_map(|register| register[bytes.clone()].as_chunks::<8>().0);
    parts.fold(0, |any, part| any | u64::from_ne_bytes(*part)) == 0
}

/// Which instruction of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// XSAVE.
    Save,
    /// XSAVEOPT.
    SaveOptimized,
    /// XSAVEC.
    SaveCompacted,
    /// XSAVES.
    SaveSupervisor,
}

impl Cpu {
    /// Components that are not in their initial configuration.
    pub(crate) fn components_in_use(&self) -> u64 {
        let vector = &self.native.vector;
        let any = |range: std::ops::Range<usize>, bytes| !all_zero(&vector.zmm[range], bytes);
        let mut used = xstate::X87 | xstate::SSE;
        for (bit, in_use) in [
            (xstate::AVX, any(0..16, 16..32)),
            (xstate::OPMASK, vector.k.iter().any(|&k| k != 0)),
            (xstate::ZMM_HI256, any(0..16, 32..64)),
            (xstate::HI16_ZMM, any(16..32, 0..64)),
            (xstate::PKRU, vector.pkru != 0),
        ] {
            if in_use {
                used |= bit;
            }
        }
        used
    }

    fn vector_registers(&self) -> usize {
        if self.is_64bit() { 16 } else { 8 }
    }

    /// The legacy x87 part: 160 bytes without MXCSR.
    fn x87_image(&self, wide: bool) -> [u8; 160] {
        let mut image = [0; 160];
        image.copy_from_slice(&self.native.vector.x87[..160]);
        if !wide {
            // Without REX.W pointers have 32 bits and selectors, which are zero here.
            image[12..16].fill(0);
            image[20..24].fill(0);
        }
        image[24..32].fill(0);
        image
    }

    fn set_x87_image(&mut self, image: &[u8; 160], wide: bool) {
        let state = &mut self.native.vector.x87;
        state[..24].copy_from_slice(&image[..24]);
        state[32..160].copy_from_slice(&image[32..160]);
        // Reserved bits of the control word are fixed.
        state[0] = state[0] & 0x7f | 0x40;
        state[1] &= 0x1f;
        // The summary bits follow from the exceptions.
        let pending = state[2] & !state[0] & 0x3f != 0;
        state[2] = state[2] & 0x7f | if pending { 0x80 } else { 0 };
        state[3] = state[3] & 0x7f | if pending { 0x80 } else { 0 };
        if !wide {
            state[12..16].fill(0);
            state[20..24].fill(0);
        }
    }

    fn reset_x87(&mut self) {
        self.native.vector.x87[..160].fill(0);
        self.native.vector.x87[..2].copy_from_slice(&xstate::FCW_RESET.to_le_bytes());
    }

    /// The bytes of an extended component.
    fn component_bytes(&self, number: u32, out: &mut [u8]) {
        let vector = &self.native.vector;
        let (registers, bytes) = match number {
            2 => (&vector.zmm[..self.vector_registers()], 16..32),
            6 => (&vector.zmm[..self.vector_registers()], 32..64),
            7 => (&vector.zmm[16..32], 0..64),
            5 => {
                for (chunk, k) in out.chunks_exact_mut(8).zip(vector.k) {
                    chunk.copy_from_slice(&k.to_le_bytes());
                }
                return;
            }
            _ => {
                out[..4].copy_from_slice(&vector.pkru.to_le_bytes());
                return;
            }
        };
        for (chunk, register) in out.chunks_exact_mut(bytes.len()).zip(registers) {
            chunk.copy_from_slice(&register[bytes.clone()]);
        }
    }

    /// Sets an extended component; `None` is its initial configuration.
    fn set_component(&mut self, number: u32, data: Option<&[u8]>) {
        let count = self.vector_registers();
        let vector = &mut self.native.vector;
        let (registers, bytes) = match number {
            2 => (&mut vector.zmm[..count], 16..32),
            6 => (&mut vector.zmm[..count], 32..64),
            7 => (&mut vector.zmm[16..32], 0..64),
            5 => {
                for (index, k) in vector.k.iter_mut().enumerate() {
                    *k = data.map_or(0, |data| le(&data[index * 8..index * 8 + 8]));
                }
                return;
            }
            _ => {
                vector.pkru = data.map_or(0, |data| le(&data[..4]) as u32);
                return;
            }
        };
        for (index, register) in registers.iter_mut().enumerate() {
            let part = &mut register[bytes.clone()];
            match data {
                Some(data) => part.copy_from_slice(&data[index * part.len()..][..part.len()]),
                None => part.fill(0),
            }
        }
    }

    fn check_extended(&self) -> Result<(), Fault> {
        if !self.cr4().contains(Cr4::OSXSAVE) {
            return Err(Fault::UD);
        }
        if self.cr0().contains(Cr0::TS) {
            return Err(Fault::NM);
        }
        Ok(())
    }

    /// The components that EDX:EAX asks for among those enabled.
    fn requested(&self, supervisor: bool) -> u64 {
        let mask =
            u64::from(self.reg::<u32>(RDX as u8)) << 32 | u64::from(self.reg::<u32>(RAX as u8));
        mask & (self.control.xcr0 | if supervisor { self.msrs.xss } else { 0 })
    }
}

fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// FXSAVE; 64-bit pointers where [`Op::size`] is 8.
pub fn fxsave(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    if cpu.cr0().intersects(Cr0::EM | Cr0::TS) {
        return Err(Fault::NM.into());
    }
    let linear = op.linear(cpu, 512, true)?;
    if !linear.is_multiple_of(16) {
        cpu.check_alignment(linear, 16, cpu.mmu_index)?;
        return Err(Fault::GP0.into());
    }
    // Some processors look at the end first.
    cpu.probe(platform, linear.wrapping_add(511), true)?;
    let mut image = [0; 416];
    image[..160].copy_from_slice(&cpu.x87_image(op.size == 8));
    let mut length = 160;
    if cpu.cr4().contains(Cr4::OSFXSR) {
        image[24..28].copy_from_slice(&cpu.native.vector.mxcsr.to_le_bytes());
        image[28..32].copy_from_slice(&mxcsr_mask().to_le_bytes());
        let count = cpu.vector_registers();
        for (index, register) in cpu.native.vector.zmm[..count].iter().enumerate() {
            image[160 + index * 16..][..16].copy_from_slice(&register[..16]);
        }
        length += count * 16;
    }
    cpu.store_bytes(platform, linear, &image[..length])
}

/// FXRSTOR; 64-bit pointers where [`Op::size`] is 8.
pub fn fxrstor(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    if cpu.cr0().intersects(Cr0::EM | Cr0::TS) {
        return Err(Fault::NM.into());
    }
    let linear = op.linear(cpu, 512, false)?;
    if !linear.is_multiple_of(16) {
        cpu.check_alignment(linear, 16, cpu.mmu_index)?;
        return Err(Fault::GP0.into());
    }
    let mut image = [0; 416];
    cpu.probe(platform, linear.wrapping_add(511), false)?;
    cpu.load_bytes(platform, linear, &mut image)?;
    if cpu.cr4().contains(Cr4::OSFXSR) {
        let mxcsr = le(&image[24..28]) as u32;
        if mxcsr & !mxcsr_mask() != 0 {
            return Err(Fault::GP0.into());
        }
        cpu.native.vector.mxcsr = mxcsr;
        let count = cpu.vector_registers();
        for (index, register) in cpu.native.vector.zmm[..count].iter_mut().enumerate() {
            register[..16].copy_from_slice(&image[160 + index * 16..][..16]);
        }
    }
    let mut x87 = [0; 160];
    x87.copy_from_slice(&image[..160]);
    cpu.set_x87_image(&x87, op.size == 8);
    Ok(())
}

/// XSAVE, XSAVEOPT, XSAVEC, XSAVES: the [`Kind`] is in [`Op::imm`].
pub fn save(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    cpu.check_extended()?;
    let supervisor = op.imm == Kind::SaveSupervisor as u64;
    if supervisor {
        cpu.require_supervisor()?;
    }
    platform.ledger().count(Intercept::Privileged(Privileged::ExtendedState));
    let compacted = supervisor || op.imm == Kind::SaveCompacted as u64;
    let requested = cpu.requested(supervisor);
    let in_use = cpu.components_in_use() & requested;
    let size = if compacted { compacted_size(requested) } else { standard_size(requested) };
    let linear = op.linear(cpu, size as usize, true)?;
    if !linear.is_multiple_of(64) {
        return Err(Fault::GP0.into());
    }
    cpu.probe_write(platform, linear, size as usize)?;
    let wide = op.size == 8;
    if requested & xstate::X87 != 0 {
        let image = cpu.x87_image(wide);
        cpu.store_bytes(platform, linear, &image[..24])?;
        cpu.store_bytes(platform, linear + 32, &image[32..])?;
    }
    if requested & (xstate::SSE | xstate::AVX) != 0 {
        let mut words = [0; 8];
        words[..4].copy_from_slice(&cpu.native.vector.mxcsr.to_le_bytes());
        words[4..].copy_from_slice(&mxcsr_mask().to_le_bytes());
        cpu.store_bytes(platform, linear + 24, &words)?;
    }
    if requested & xstate::SSE != 0 {
        let mut image = [0; 256];
        let count = cpu.vector_registers();
        for (index, register) in cpu.native.vector.zmm[..count].iter().enumerate() {
            image[index * 16..][..16].copy_from_slice(&register[..16]);
        }
        cpu.store_bytes(platform, linear + 160, &image[..count * 16])?;
    }
    for (component, offset) in layout(requested, compacted) {
        if in_use >> component.number & 1 == 0 && op.imm != Kind::Save as u64 {
            continue;
        }
        let mut bytes = [0; 1024];
        let bytes = &mut bytes[..(component.size as usize).min(1024)];
        cpu.component_bytes(component.number, bytes);
        cpu.store_bytes(platform, linear + u64::from(offset), bytes)?;
    }
    let mut header = [0; 64];
    if compacted {
        header[..8].copy_from_slice(&in_use.to_le_bytes());
        header[8..16].copy_from_slice(&(requested | COMPACTED).to_le_bytes());
        cpu.store_bytes(platform, linear + HEADER, &header[..16])
    } else {
        let old = cpu.load::<u64>(platform, linear + HEADER)?;
        cpu.store(platform, linear + HEADER, old & !requested | in_use)
    }
}

/// XRSTOR, or XRSTORS where the immediate is one.
pub fn restore(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    cpu.check_extended()?;
    let supervisor = op.imm == 1;
    if supervisor {
        cpu.require_supervisor()?;
    }
    platform.ledger().count(Intercept::Privileged(Privileged::ExtendedState));
    let requested = cpu.requested(supervisor);
    let linear = op.linear(cpu, EXTENDED as usize, false)?;
    if !linear.is_multiple_of(64) {
        return Err(Fault::GP0.into());
    }
    let mut header = [0; 64];
    cpu.load_bytes(platform, linear + HEADER, &mut header)?;
    let (present, format) = (le(&header[..8]), le(&header[8..16]));
    let compacted = format & COMPACTED != 0;
    let enabled = cpu.control.xcr0 | if supervisor { cpu.msrs.xss } else { 0 };
    let legal = present & !enabled == 0
        && (compacted || header[8..24].iter().all(|&byte| byte == 0))
        && (compacted || !supervisor)
        && (!compacted
            || present & !format == 0
                && format & !(enabled | COMPACTED) == 0
                && header[16..].iter().all(|&byte| byte == 0));
    if !legal {
        return Err(Fault::GP0.into());
    }
    // Everything is read, and checked, before anything changes.
    let mut legacy = [0; 416];
    cpu.load_bytes(platform, linear, &mut legacy)?;
    let mut extended = [0; EXTENDED_BYTES];
    let mut filled = 0;
    let mask = if compacted { format & !COMPACTED } else { requested };
    for (component, offset) in layout(mask, compacted) {
        if (present & requested) >> component.number & 1 == 0 {
            continue;
        }
        let part = &mut extended[filled..];
        let length = (component.size as usize).min(part.len());
        cpu.load_bytes(platform, linear + u64::from(offset), &mut part[..length])?;
        filled += length;
    }
    let mxcsr = if compacted {
        let loaded = requested & xstate::SSE != 0;
        loaded.then(|| {
            if present & xstate::SSE != 0 {
                le(&legacy[24..28]) as u32
            } else {
                xstate::MXCSR_RESET
            }
        })
    } else {
        (requested & (xstate::SSE | xstate::AVX) != 0).then(|| le(&legacy[24..28]) as u32)
    };
    if mxcsr.is_some_and(|mxcsr| mxcsr & !mxcsr_mask() != 0) {
        return Err(Fault::GP0.into());
    }
    if let Some(mxcsr) = mxcsr {
        cpu.native.vector.mxcsr = mxcsr;
    }
    if requested & xstate::X87 != 0 {
        if present & xstate::X87 != 0 {
            let mut image = [0; 160];
            image.copy_from_slice(&legacy[..160]);
            cpu.set_x87_image(&image, op.size == 8);
        } else {
            cpu.reset_x87();
        }
    }
    if requested & xstate::SSE != 0 {
        let count = cpu.vector_registers();
        let loaded = present & xstate::SSE != 0;
        for (index, register) in cpu.native.vector.zmm[..count].iter_mut().enumerate() {
            if loaded {
                register[..16].copy_from_slice(&legacy[160 + index * 16..][..16]);
            } else {
                register[..16].fill(0);
            }
        }
    }
    let mut rest = &extended[..];
    for component in components() {
        let bit = 1 << component.number;
        if requested & bit == 0 {
            continue;
        }
        if present & bit == 0 {
            cpu.set_component(component.number, None);
            continue;
        }
        let (data, others) = rest.split_at((component.size as usize).min(rest.len()));
        cpu.set_component(component.number, Some(data));
        rest = others;
    }
    if requested & xstate::PKRU != 0 {
        return Err(Exit::Next);
    }
    Ok(())
}
