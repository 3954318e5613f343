//! Numbers that look random and are the same in every run: for tests that try anything, and for
//! statistics that can be made again. Not for secrets. [`Input`] has numbers that somebody else chose.
#![forbid(unsafe_code)]

mod input;

pub use input::Input;

/// Marsaglia's xorshift64* generator.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The generator of the row of numbers that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it has no end, so it is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The upper half of a product: no division, and next to no bias for bounds that are small.
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A place in a list of `length` entries, which is not empty.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// One of a list, which is not empty.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_reproducible_and_within_bounds() {
        let row = |seed| {
            let mut random = Random::new(seed);
            (0..1000).map(move |_| random.index(10)).collect::<Vec<_>>()
        };
        assert_eq!(row(1), row(1));
        assert_ne!(row(1), row(2));
        for digit in 0..10 {
            let count = row(3).iter().filter(|&&other| other == digit).count();
            assert!((60..150).contains(&count), "{count} times {digit}");
        }
        assert_eq!(Random::new(0).below(1), 0);
    }
}
