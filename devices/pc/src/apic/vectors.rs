//! Sets of interrupt vectors.

/// A set of the 256 vectors, with the greatest one at hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct VectorSet([u32; 8]);

impl VectorSet {
    pub(super) fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    pub(super) fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] & 1 << (vector & 31) != 0
    }

    /// The greatest vector.
    #[inline]
    pub(super) fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|word| *word != 0)?;
        Some((word as u8) << 5 | (31 - self.0[word].leading_zeros()) as u8)
    }

    /// 32 vectors as a register shows them; `index` is taken modulo eight.
    pub(super) fn word(&self, index: u32) -> u32 {
        self.0[(index & 7) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_member_is_found() {
        let mut set = VectorSet::default();
        assert_eq!(set.highest(), None);
        for vector in 0..=255 {
            set.insert(vector);
            assert_eq!(set.highest(), Some(vector));
        }
        for vector in (1..=255).rev() {
            assert!(set.contains(vector));
            set.remove(vector);
            assert_eq!(set.highest(), Some(vector - 1));
        }
        assert_eq!(set.word(8), 1);
    }
}
