//! How the processor reaches the four planes through the window (IBM VGA XGA Technical Reference
//! Manual, section 2, "Graphics controller").
//!
//! The planes lie interleaved in memory: byte p of group n is byte n of plane p. Modes that chain
//! planes address the same groups densely, so that the display needs no modes of addressing.

use super::registers::{Registers, spec};
use ambos_memory::DeviceMemory;

/// Bytes of each plane.
const PLANE: usize = 0x1_0000;

/// Where an access goes: the group, and the plane if it concerns only one.
struct Place {
    group: usize,
    plane: Option<usize>,
}

/// The way through the window.
#[derive(Debug, Clone, Default)]
pub(super) struct Planes {
    /// What was read last of each plane.
    latches: [u8; 4],
}

/// The offset in the window as the graphics controller decodes it; `None` outside.
fn decode(registers: &Registers, offset: usize) -> Option<usize> {
    let (first, length) = match registers.graphics[spec::GFX_MISC] >> 2 & 3 {
        0 => (0, 0x2_0000),
        1 => (0, 0x1_0000),
        2 => (0x1_0000, 0x8000),
        _ => (0x1_8000, 0x8000),
    };
    offset.checked_sub(first).filter(|offset| *offset < length)
}

fn place(registers: &Registers, address: usize, odd_even: bool) -> Place {
    if registers.sequencer[spec::SEQ_MEMORY] & spec::CHAIN_4 != 0 {
        Place { group: address / 4 % PLANE, plane: Some(address & 3) }
    } else if odd_even {
        let high = usize::from(registers.graphics[spec::GFX_READ_MAP] & 2);
        Place { group: address / 2 % PLANE, plane: Some(high | address & 1) }
    } else {
        Place { group: address % PLANE, plane: None }
    }
}

/// All ones where a bit of `bits` is set.
fn spread(bits: u8) -> [u8; 4] {
    std::array::from_fn(|plane| if bits >> plane & 1 != 0 { 0xff } else { 0 })
}

impl Planes {
    /// Reads the byte at `offset` of the window.
    pub(super) fn read(
        &mut self,
        registers: &Registers,
        memory: &DeviceMemory,
        offset: usize,
    ) -> u8 {
        let Some(address) = decode(registers, offset) else { return 0xff };
        let odd_even = registers.graphics[spec::GFX_MODE] & spec::ODD_EVEN != 0;
        let place = place(registers, address, odd_even);
        self.latches = memory.load(place.group * 4);
        if let Some(plane) = place.plane {
            return self.latches[plane];
        }
        /// Read mode 1: compare with a colour.
        const COMPARE: u8 = 1 << 3;
        if registers.graphics[spec::GFX_MODE] & COMPARE == 0 {
            return self.latches[usize::from(registers.graphics[spec::GFX_READ_MAP] & 3)];
        }
        let colour = spread(registers.graphics[spec::GFX_COMPARE]);
        let care = spread(registers.graphics[spec::GFX_COMPARE_CARE]);
        let differs = (0..4).map(|plane| (self.latches[plane] ^ colour[plane]) & care[plane]);
        !differs.fold(0, |all, plane| all | plane)
    }

    /// Writes the byte at `offset` of the window.
    pub(super) fn write(
        &mut self,
        registers: &Registers,
        memory: &DeviceMemory,
        offset: usize,
        value: u8,
    ) {
        let Some(address) = decode(registers, offset) else { return };
        let odd_even = registers.sequencer[spec::SEQ_MEMORY] & spec::SEQUENTIAL == 0;
        let place = place(registers, address, odd_even);
        let mut planes = registers.sequencer[spec::SEQ_MAP_MASK];
        if let Some(plane) = place.plane {
            // Odd and even planes are written in pairs.
            let pair = if registers.sequencer[spec::SEQ_MEMORY] & spec::CHAIN_4 != 0 {
                1 << plane
            } else {
                5 << (plane & 1)
            };
            planes &= pair;
        }
        let new = self.compose(registers, value);
        let mut group = memory.load(place.group * 4);
        for (plane, (old, new)) in group.iter_mut().zip(new).enumerate() {
            if planes >> plane & 1 != 0 {
                *old = new;
            }
        }
        memory.store(place.group * 4, group);
    }

    /// What each plane gets for `value` of the processor.
    fn compose(&self, registers: &Registers, value: u8) -> [u8; 4] {
        let graphics = &registers.graphics;
        let set = spread(graphics[spec::GFX_SET_RESET]);
        let rotated = value.rotate_right(u32::from(graphics[spec::GFX_ROTATE] & 7));
        let mask = graphics[spec::GFX_BIT_MASK];
        let (sources, mask) = match graphics[spec::GFX_MODE] & 3 {
            0 => {
                let enabled = spread(graphics[spec::GFX_SET_RESET_ENABLE]);
                let source = |plane: usize| rotated & !enabled[plane] | set[plane] & enabled[plane];
                (std::array::from_fn(source), mask)
            }
            1 => return self.latches,
            2 => (spread(value), mask),
            // The processor's byte restricts the mask, and the set colour is drawn as it is.
            _ => return self.masked(set, rotated & mask),
        };
        let function = graphics[spec::GFX_ROTATE] >> 3 & 3;
        let result = std::array::from_fn(|plane| {
            let (source, latch) = (sources[plane], self.latches[plane]);
            match function {
                0 => source,
                1 => source & latch,
                2 => source | latch,
                _ => source ^ latch,
            }
        });
        self.masked(result, mask)
    }

    /// Bits that are not in the mask keep what was latched.
    fn masked(&self, values: [u8; 4], mask: u8) -> [u8; 4] {
        std::array::from_fn(|plane| values[plane] & mask | self.latches[plane] & !mask)
    }
}
