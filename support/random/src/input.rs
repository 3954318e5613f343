//! Numbers that somebody else chose, such as a fuzzer.

/// Takes numbers off the front of some bytes. Past their end there are zeroes.
#[derive(Debug, Clone)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// The numbers in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether all bytes were taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `length` bytes, at most eight, as a number in little-endian order.
    pub fn number(&mut self, length: usize) -> u64 {
        let (head, tail) = self.0.split_at(length.min(self.0.len()));
        self.0 = tail;
        head.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.number(1) as u8
    }

    /// The next byte as an index, or to choose by.
    pub fn choice(&mut self) -> usize {
        usize::from(self.byte())
    }

    /// The next two bytes.
    pub fn short(&mut self) -> u16 {
        self.number(2) as u16
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_from_the_front() {
        let mut input = Input::new(&[1, 2, 3, 4, 5, 6]);
        assert_eq!((input.byte(), input.short(), input.choice()), (1, 0x302, 4));
        assert!(!input.is_empty());
        assert_eq!(input.number(8), 0x605);
        assert!(input.is_empty());
        assert_eq!(input.bytes(2), [0, 0]);
    }
}
