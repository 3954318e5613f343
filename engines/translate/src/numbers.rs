//! Numbers of pages of code, and the jumps that are linked to the page with each: see [`crate::far`].
//!
//! A number is free again when the code of its page has changed: then no jump is linked to it any more.

use crate::far::NO_PAGE;
use ambos_interpret::mmu::{CODE_PAGES, SETS};

/// Numbers that are left for pages to which jumps lead that were translated before.
const LEFT: usize = 512;
/// Most linked jumps that are known. A guest may have the same ones linked again and again.
const MAX_LINKS: usize = 1 << 18;

/// The numbers of one set of the TLB.
#[derive(Debug, Default)]
struct OfSet {
    /// How many were given so far, and those of them that are free.
    given: u16,
    free: Vec<u16>,
    /// By number less one, where the displacements of the page's place are in jumps that are linked to it, as offsets
    /// in the code cache.
    links: Vec<Vec<u32>>,
}

/// All numbers of one vCPU.
#[derive(Debug, Default)]
pub(crate) struct PageNumbers {
    sets: [OfSet; SETS],
    /// How many are linked.
    links: usize,
}

impl PageNumbers {
    /// Bytes in use.
    pub(crate) fn size(&self) -> usize {
        let of_set = |of_set: &OfSet| {
            size_of_val(&of_set.free[..]) + of_set.links.len() * size_of::<Vec<u32>>()
        };
        self.sets.iter().map(of_set).sum::<usize>() + self.links * size_of::<u32>()
    }

    /// A number for a page, or [`NO_PAGE`] if there is none left.
    pub(crate) fn take(&mut self, set: usize) -> u16 {
        let Some(of_set) = self.sets.get_mut(set) else { return NO_PAGE };
        if let Some(number) = of_set.free.pop() {
            return number;
        }
        if usize::from(of_set.given) + 1 >= CODE_PAGES {
            return NO_PAGE;
        }
        of_set.given += 1;
        of_set.links.push(Vec::new());
        of_set.given
    }

    /// Whether pages of a set can get numbers for some time.
    pub(crate) fn has_left(&self, set: usize) -> bool {
        self.sets
            .get(set)
            .is_some_and(|of_set| CODE_PAGES - usize::from(of_set.given) + of_set.free.len() > LEFT)
    }

    /// Notes a jump that is linked to the page with a number; `false` if there are too many.
    pub(crate) fn note_link(&mut self, set: usize, number: u16, offset: u32) -> bool {
        let links = self
            .sets
            .get_mut(set)
            .and_then(|of_set| of_set.links.get_mut(usize::from(number).checked_sub(1)?));
        match links {
            Some(links) if self.links < MAX_LINKS => {
                links.push(offset);
                self.links += 1;
                true
            }
            _ => false,
        }
    }

    /// Takes a number back; returns the jumps that are linked to its page.
    pub(crate) fn give_back(&mut self, set: usize, number: u16) -> Vec<u32> {
        let Some(of_set) = self.sets.get_mut(set) else { return Vec::new() };
        let index = usize::from(number).checked_sub(1);
        let Some(links) = index.and_then(|index| of_set.links.get_mut(index)) else {
            return Vec::new();
        };
        let links = std::mem::take(links);
        self.links -= links.len();
        of_set.free.push(number);
        links
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_their_links_come_back() {
        let mut numbers = PageNumbers::default();
        let (first, second) = (numbers.take(1), numbers.take(1));
        assert_eq!((first, second, numbers.take(0)), (1, 2, 1));
        assert!(numbers.note_link(1, first, 7) && numbers.note_link(1, first, 9));
        assert!(!numbers.note_link(1, NO_PAGE, 7) && !numbers.note_link(1, 3, 7));
        assert_eq!(numbers.give_back(1, first), [7, 9]);
        assert_eq!(numbers.links, 0);
        assert_eq!(numbers.take(1), first);
        assert!(numbers.give_back(1, first).is_empty());
    }

    #[test]
    fn numbers_and_links_are_bounded() {
        let mut numbers = PageNumbers::default();
        let given = (0..2 * CODE_PAGES).filter(|_| numbers.take(1) != NO_PAGE).count();
        assert_eq!(given, CODE_PAGES - 1);
        assert!(!numbers.has_left(1) && numbers.has_left(0) && !numbers.has_left(SETS));
        let noted = (0..2 * MAX_LINKS as u32).filter(|&at| numbers.note_link(1, 1, at)).count();
        assert_eq!(noted, MAX_LINKS);
    }
}
