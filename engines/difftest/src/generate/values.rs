//! Values that make bugs visible.

use crate::case::{MEMORY_SIZE, Memory};
use crate::random::Random;
use ambos_vcpu::VectorState;
use ambos_x86::xstate;

const EDGES: [u64; 20] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ff80,
    0xffff_ffff_ffff_ffff,
    0x5555_5555_5555_5555,
    0xaaaa_aaaa_aaaa_aaaa,
];

/// Single-precision zeros, ones, denormals, infinities, quiet and signalling NaNs, limits.
const SINGLES: [u32; 16] = [
    0,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    1,
    0x807f_ffff,
    0x0080_0000,
    0x7f7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0001,
    0xff80_0001,
    0x4f00_0000,
    0x5f00_0000,
    0x3eaa_aaab,
    0xcb00_0001,
];

const DOUBLES: [u64; 16] = [
    0,
    1 << 63,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    1,
    0x800f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0001,
    0xfff0_0000_0000_0001,
    0x41e0_0000_0000_0000,
    0x43e0_0000_0000_0000,
    0x3fd5_5555_5555_5555,
    0xc340_0000_0000_0001,
];

/// A general-purpose register.
pub(crate) fn integer(random: &mut Random) -> u64 {
    match random.below(8) {
        0..=2 => random.pick(&EDGES),
        3 => random.below(64),
        4 => random.pick(&EDGES).wrapping_add(random.below(5)).wrapping_sub(2),
        5 => random.bits() >> random.below(64),
        6 => (random.bits() as i64 >> random.below(64)) as u64,
        _ => random.bits(),
    }
}

/// Eight bytes of a vector register or of memory.
pub(crate) fn lane(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => integer(random),
        1 | 2 => u64::from(random.pick(&SINGLES)) | u64::from(random.pick(&SINGLES)) << 32,
        3 | 4 => random.pick(&DOUBLES),
        5 => {
            // Ordinary numbers: exponents near zero.
            let sign_and_fraction = random.bits() & 0x800f_ffff_ffff_ffff;
            sign_and_fraction | (1020 + random.below(8)) << 52
        }
        6 => {
            let number = |random: &mut Random| {
                random.bits() as u32 & 0x807f_ffff | (124 + random.below(8) as u32) << 23
            };
            u64::from(number(random)) | u64::from(number(random)) << 32
        }
        _ => random.bits(),
    }
}

/// Arithmetic flags at random, sometimes with direction and alignment check.
pub(crate) fn flags(random: &mut Random) -> u64 {
    let mut flags = 0x202 | random.bits() & 0x8d5;
    if random.chance(20) {
        flags |= 1 << 10;
    }
    if random.chance(2) {
        flags |= 1 << 18;
    }
    flags
}

/// How many vector registers there are and their size in bytes.
fn registers(components: u64) -> (usize, usize) {
    if components & xstate::AVX512 == xstate::AVX512 {
        (32, 64)
    } else if components & xstate::AVX != 0 {
        (16, 32)
    } else {
        (16, 16)
    }
}

/// Clears what the processor does not have.
pub(crate) fn limit(state: &mut VectorState, components: u64) {
    let (count, bytes) = registers(components);
    for (number, register) in state.zmm.iter_mut().enumerate() {
        register[if number < count { bytes } else { 0 }..].fill(0);
    }
}

/// Vector and x87 registers, as far as `components` exist.
pub(crate) fn vector(random: &mut Random, components: u64) -> VectorState {
    let mut state = VectorState::default();
    let (registers, bytes) = registers(components);
    for register in &mut state.zmm[..registers] {
        for lane_bytes in register[..bytes].chunks_exact_mut(8) {
            lane_bytes.copy_from_slice(&lane(random).to_le_bytes());
        }
    }
    if bytes == 64 {
        state.k = std::array::from_fn(|_| integer(random));
    }
    // Mostly masked exceptions; any rounding, flushing and sticky flags.
    let masks = if random.chance(85) { 0x1f80 } else { random.bits() as u32 & 0x1f80 };
    let modes = if random.chance(50) { 0 } else { random.bits() as u32 & 0xe040 };
    state.mxcsr = masks | modes | random.bits() as u32 & 0x3f;
    x87(random, &mut state.x87);
    state
}

fn x87(random: &mut Random, image: &mut [u8; 512]) {
    let control: u16 = match random.below(4) {
        0 => 0x37f,
        1 => 0x27f,
        2 => random.bits() as u16 & 0x0f00 | 0x7f,
        _ => random.bits() as u16 & 0x0f3f | 0x40,
    };
    let exceptions = random.bits() as u16 & 0x7f;
    let mut status = random.bits() as u16 & 0x4700 | (random.below(8) as u16) << 11;
    if random.chance(30) {
        status |= exceptions;
    }
    // The summary bit says whether an unmasked exception is pending.
    if status & !control & 0x3f != 0 {
        if random.chance(70) {
            status &= !0x3f;
        } else {
            status |= 0x8080;
        }
    }
    let tags: u8 = match random.below(4) {
        0 => 0,
        1 => random.bits() as u8,
        _ => 0xff,
    };
    image[..2].copy_from_slice(&control.to_le_bytes());
    image[2..4].copy_from_slice(&status.to_le_bytes());
    image[4] = tags;
    for register in image[32..160].chunks_exact_mut(16) {
        let (significand, exponent): (u64, u16) = match random.below(8) {
            0 => (0, 0),
            1 => (1 << 63, 0x3fff),
            2 => (1 << 63, 0x7fff),
            3 => (random.bits() | 1 << 63, 0x7fff),
            4 => (random.bits() >> 1, 0),
            5 => (random.bits(), random.bits() as u16 & 0x7fff),
            _ => (random.bits() | 1 << 63, 0x3ff0 + random.below(0x30) as u16),
        };
        let sign = if random.chance(50) { 0x8000 } else { 0 };
        register[..8].copy_from_slice(&significand.to_le_bytes());
        register[8..10].copy_from_slice(&(exponent | sign).to_le_bytes());
    }
}

/// A memory image.
pub(crate) fn memory(random: &mut Random) -> Memory {
    let mut memory = Memory(Box::new([0; MEMORY_SIZE]));
    for bytes in memory.0.chunks_exact_mut(8) {
        bytes.copy_from_slice(&lane(random).to_le_bytes());
    }
    memory
}
