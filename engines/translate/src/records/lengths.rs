//! Lengths of instructions and of their host code: some pairs of them make up most of all code.

/// How many pairs have a number. Of the code of a guest that is at work these are nine parts in ten.
pub(crate) const MOST: u8 = 160;
/// How often a pair is to be there before it gets a number.
const OFTEN: u8 = 32;
/// Bytes of an instruction and of its host code in pairs are less.
const LENGTHS: usize = 16;
const HOST_LENGTHS: usize = 256;

/// The pairs that were there often.
#[derive(Debug)]
pub(crate) struct Lengths {
    /// By number.
    pairs: Vec<(u8, u8)>,
    /// By both lengths: the pair's number, or from [`MOST`] on how often it was there.
    numbers: Box<[u8; LENGTHS * HOST_LENGTHS]>,
}

impl Default for Lengths {
    fn default() -> Self {
        Self { pairs: Vec::new(), numbers: Box::new([MOST; LENGTHS * HOST_LENGTHS]) }
    }
}

impl Lengths {
    /// Bytes in use.
    pub(crate) fn size(&self) -> usize {
        size_of_val(&self.pairs[..]) + size_of_val(&*self.numbers)
    }

    /// The number of a pair, if it has one or gets it now: those that are frequent soon do.
    pub(crate) fn number(&mut self, length: u8, host: u32) -> Option<u8> {
        let host = u8::try_from(host).ok()?;
        let number =
            self.numbers.get_mut(usize::from(length) * HOST_LENGTHS + usize::from(host))?;
        if *number >= MOST {
            if *number < MOST + OFTEN {
                *number += 1;
                return None;
            }
            let next = self.pairs.len() as u8;
            if next == MOST {
                return None;
            }
            self.pairs.push((length, host));
            *number = next;
        }
        Some(*number)
    }

    /// The pair with a number.
    #[inline]
    pub(crate) fn get(&self, number: u8) -> Option<(u8, u32)> {
        let &(length, host) = self.pairs.get(usize::from(number))?;
        Some((length, host.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back_as_they_were() {
        let mut lengths = Lengths::default();
        let mut numbered = 0;
        for _ in 0..OFTEN + 3 {
            for number in 0..1000_u32 {
                let (length, host) = ((number % 17) as u8, number % 300);
                let Some(given) = lengths.number(length, host) else { continue };
                assert_eq!(lengths.get(given), Some((length, host)));
                numbered += 1;
            }
        }
        assert_eq!(numbered, 3 * i32::from(MOST));
        assert_eq!(lengths.get(MOST), None);
        assert!(lengths.size() < 8192);
    }
}
