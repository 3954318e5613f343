//! How maps by addresses and page numbers find their places.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Spreads one number over all bits of the hash: some nanoseconds faster than what is safe from chosen keys. A guest that
/// makes its own collisions waits for what it asked for; the maps are bounded.
#[derive(Debug, Default)]
pub(crate) struct SpreadHasher(u64);

impl Hasher for SpreadHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        // Tables look at both ends of the hash; what is aligned leaves the lower one of the product empty.
        let product = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

/// A map whose keys are such numbers.
pub(crate) type SpreadMap<K, V> = HashMap<K, V, BuildHasherDefault<SpreadHasher>>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn neighbours_are_told_apart_at_both_ends() {
        for step in [1, 16, 0x1000, 0x20_0000] {
            let hashes: Vec<u64> = (0..128u64)
                .map(|number| {
                    let mut hasher = SpreadHasher::default();
                    hasher.write_u64(number.wrapping_mul(step));
                    hasher.finish()
                })
                .collect();
            let [low, high] = [0, 48].map(|shift| {
                let part = |hash: &u64| hash >> shift & 0xffff;
                hashes.iter().map(part).collect::<HashSet<_>>().len()
            });
            assert!(low > 100 && high > 100, "{step:#x}: {low}, {high}");
        }
    }
}
