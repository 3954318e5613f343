//! What unit tests of several back ends share.

use crate::{BlockBackend, Slice};
use ambos_memory::{Bytes, GuestMemoryBackend, GuestPhysAddr, GuestRam};

/// A small guest memory.
pub(crate) struct Memory(GuestRam);

impl Memory {
    pub(crate) fn new(size: u64) -> Self {
        Self(GuestRam::new(size).unwrap())
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.0.memory().write_slice(bytes, GuestPhysAddr(address)).unwrap();
    }

    pub(crate) fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.memory().read_slice(&mut bytes, GuestPhysAddr(address)).unwrap();
        bytes
    }

    pub(crate) fn slices(&self, pieces: &[(u64, usize)]) -> Vec<Slice<'_>> {
        let slice = |&(address, length)| self.0.memory().get_slice(GuestPhysAddr(address), length);
        pieces.iter().map(|piece| slice(piece).unwrap()).collect()
    }
}

/// Does random requests to a disk and to an array of bytes, and compares what can be read.
pub(crate) fn behaves_like_a_disk(disk: &dyn BlockBackend, seed: u64) {
    let sectors = disk.size() / 512;
    let memory = Memory::new(1 << 20);
    let mut model = vec![0; disk.size() as usize];
    disk.read(0, &memory.slices(&[(0, 512)])).unwrap();
    let mut generator = ambos_random::Random::new(seed);
    let mut random = move |limit: u64| generator.below(limit);
    for step in 0..400u64 {
        let first = random(sectors);
        let count = 1 + random((sectors - first).min(300));
        let (offset, length) = (first * 512, count * 512);
        let range = offset as usize..(offset + length) as usize;
        // Data in two pieces that are aligned to nothing.
        let cut = random(length) as usize;
        let pieces = [(3, cut), (0x8_0001, length as usize - cut)];
        match random(8) {
            0..=2 => {
                let bytes: Vec<u8> = (0..length).map(|byte| (byte * 7 + step) as u8).collect();
                memory.put(3, &bytes[..cut]);
                memory.put(0x8_0001, &bytes[cut..]);
                disk.write(offset, &memory.slices(&pieces)).unwrap();
                model[range].copy_from_slice(&bytes);
            }
            3 => {
                disk.write_zeroes(offset, length, random(2) == 0).unwrap();
                model[range].fill(0);
            }
            4 => {
                disk.discard(offset, length).unwrap();
                // It may now read as zeroes or as before: make it known again.
                disk.write_zeroes(offset, length, false).unwrap();
                model[range].fill(0);
            }
            5 => disk.flush().unwrap(),
            _ => {
                disk.read(offset, &memory.slices(&pieces)).unwrap();
                let read = [memory.get(3, cut), memory.get(0x8_0001, length as usize - cut)];
                assert!(read.concat() == model[range], "step {step}, sector {first}+{count}");
            }
        }
    }
    for (offset, length) in [(disk.size(), 512), (u64::MAX - 511, 512), (1, 512), (0, 511)] {
        let slices = memory.slices(&[(0, length)]);
        let results = [
            disk.read(offset, &slices),
            disk.write(offset, &slices),
            disk.discard(offset, length as u64),
            disk.write_zeroes(offset, length as u64, true),
        ];
        assert!(results.iter().all(Result::is_err), "{offset}+{length}");
    }
}
