//! A ring of descriptors in guest memory.

use super::spec::DESCRIPTOR;
use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};
use std::sync::atomic::Ordering;

/// Where a ring is, and how far either side has come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ring {
    pub(super) base_low: u32,
    pub(super) base_high: u32,
    /// Bytes.
    pub(super) length: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl Ring {
    /// Bits of the length that count: whole lines of eight descriptors.
    pub(super) const LENGTH: u32 = 0x000f_ff80;
    /// Bits of the lower half of the base that count.
    pub(super) const BASE: u32 = !0xf;

    /// How many descriptors there are.
    pub(super) fn entries(&self) -> u32 {
        self.length / DESCRIPTOR as u32
    }

    /// Descriptors that the driver has handed over, from the head to the tail.
    pub(super) fn available(&self) -> u32 {
        let entries = self.entries();
        if self.head >= entries || self.tail >= entries {
            return 0;
        }
        if self.tail >= self.head { self.tail - self.head } else { entries - self.head + self.tail }
    }

    /// The index that follows `index`.
    pub(super) fn after(&self, index: u32) -> u32 {
        if index + 1 >= self.entries() { 0 } else { index + 1 }
    }

    /// The address of descriptor `index`.
    pub(super) fn address(&self, index: u32) -> u64 {
        let base = u64::from(self.base_high) << 32 | u64::from(self.base_low);
        base.wrapping_add(u64::from(index) * DESCRIPTOR)
    }

    /// Reads descriptor `index`; zeroes where there is no memory.
    pub(super) fn read(&self, ram: &GuestRam, index: u32) -> [u32; 4] {
        let mut bytes = [0; DESCRIPTOR as usize];
        if ram.memory().read_slice(&mut bytes, GuestPhysAddr(self.address(index))).is_err() {
            return [0; 4];
        }
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        words
    }

    /// Writes the upper half of descriptor `index`, in one piece and after all that was written
    /// before.
    pub(super) fn write_back(&self, ram: &GuestRam, index: u32, value: u64) {
        let place = GuestPhysAddr(self.address(index).wrapping_add(8));
        // A ring that is not in memory is the driver's mistake; a card would abort the cycle.
        let _ = ram.memory().store(value.to_le(), place, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_wrap_and_bad_indices_hand_nothing_over() {
        let mut ring = Ring { length: 128, head: 6, tail: 2, ..Ring::default() };
        assert_eq!((ring.entries(), ring.available(), ring.after(7)), (8, 4, 0));
        ring.tail = 8;
        assert_eq!(ring.available(), 0);
        ring = Ring::default();
        assert_eq!((ring.available(), ring.after(0)), (0, 0));
    }
}
