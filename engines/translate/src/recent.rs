//! Sites where code left lately: few of all leave again and again, and reading records takes longer than looking here.

use crate::site::{Kind, Site};

/// How many are remembered. A kernel that serves page faults of a program leaves at some hundred.
const PLACES: usize = 512;
/// Multiplies what is looked for, so that it is spread.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A site, and its number, with what it was looked for by: zero at first, which nothing is.
#[derive(Debug, Clone, Copy)]
struct Place {
    by: u64,
    number: u32,
    site: Site,
}

/// The sites, each at one place.
#[derive(Debug)]
pub(crate) struct Recent(Box<[Place; PLACES]>);

impl Default for Recent {
    fn default() -> Self {
        let kind = Kind::Entry { flags_kept: false };
        let site = Site { offset: 0, length: 0, next: 0, kind };
        Self(Box::new([Place { by: 0, number: 0, site }; PLACES]))
    }
}

impl Recent {
    /// Bytes that it takes.
    pub(crate) const SIZE: usize = size_of::<[Place; PLACES]>();

    fn index(by: u64) -> usize {
        (by.wrapping_mul(SPREAD) >> 32) as usize % PLACES
    }

    /// The site, with its number, that was found last by a number or an address, which is not zero.
    #[inline]
    pub(crate) fn get(&self, by: u64) -> Option<(u32, Site)> {
        let place = &self.0[Self::index(by)];
        (place.by == by).then_some((place.number, place.site))
    }

    /// Remembers what was found.
    pub(crate) fn note(&mut self, by: u64, (number, site): (u32, Site)) {
        self.0[Self::index(by)] = Place { by, number, site };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_last_is_remembered() {
        let mut recent = Recent::default();
        let site = |offset| Site { offset, length: 1, next: 2, kind: Kind::Indirect { stack: 8 } };
        assert_eq!(recent.get(1), None);
        recent.note(1, (7, site(3)));
        assert_eq!((recent.get(1), recent.get(2)), (Some((7, site(3))), None));
        for by in 1..2000 {
            let found = (by as u32, site(by as u16));
            recent.note(by + (1 << 40), found);
            assert_eq!(recent.get(by + (1 << 40)), Some(found));
        }
    }
}
