//! Through which linear addresses each host page may be written: finding the write translations of a page
//! would else be a search of every cache.
//!
//! A guest under Xen makes thousands of page tables, each of which must not be written any more, and code is
//! found in as many pages.

use super::{BANKS, SETS};
use rustc_hash::FxHashMap;

/// Addresses that are kept for a page: often those of a kernel's map of memory and of one program.
const PLACES: usize = 2;
/// Most pages; 3 MiB of memory.
const MOST: usize = 1 << 16;

/// A linear page with the banks and sets in which it is, or was, cached as writable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place(u64);

const _: () = assert!(BANKS + SETS < 12, "they lie where the offset in the page would");

impl Place {
    pub(super) fn new(linear: u64, bank: usize, set: usize) -> Self {
        Self(linear & !0xfff | 1 << bank | 1 << (BANKS + set))
    }

    pub(super) fn page(self) -> u64 {
        self.0 & !0xfff
    }

    /// Banks and sets; of a place that was seen in several, some may never have had it.
    pub(super) fn caches(self) -> impl Iterator<Item = (usize, usize)> {
        let banks = (0..BANKS).filter(move |bank| self.0 & 1 << bank != 0);
        banks.flat_map(move |bank| {
            let sets = (0..SETS).filter(move |set| self.0 & 1 << (BANKS + set) != 0);
            sets.map(move |set| (bank, set))
        })
    }
}

/// The places of a page; those that are zero are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Places {
    Few([Place; PLACES]),
    /// More than are kept.
    Many,
}

/// What is known of all pages.
#[derive(Debug, Default)]
pub(super) struct Writers(FxHashMap<usize, Places>);

impl Writers {
    /// Whether there is no room for another page.
    pub(super) fn are_full(&self) -> bool {
        self.0.len() >= MOST
    }

    /// Adds a place. Where there is no room, one takes its place of which `is_cached` says that it holds no more.
    pub(super) fn add(
        &mut self,
        host_page: usize,
        place: Place,
        is_cached: impl Fn(Place) -> bool,
    ) {
        let places = self.0.entry(host_page).or_insert(Places::Few(Default::default()));
        let Places::Few(few) = places else { return };
        if let Some(same) = few.iter_mut().find(|kept| kept.0 != 0 && kept.page() == place.page()) {
            same.0 |= place.0;
        } else if let Some(free) = few.iter_mut().find(|kept| kept.0 == 0) {
            *free = place;
        } else if let Some(old) = few.iter_mut().find(|kept| !is_cached(**kept)) {
            *old = place;
        } else {
            *places = Places::Many;
        }
    }

    /// Forgets and returns the places of a page.
    pub(super) fn take(&mut self, host_page: usize) -> Places {
        self.0.remove(&host_page).unwrap_or(Places::Few(Default::default()))
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_merged_and_given_up_when_nothing_is_cached() {
        let mut writers = Writers::default();
        let places = [Place::new(0, 0, 0), Place::new(0x5000, 7, 2), Place::new(!0xfff, 3, 1)];
        writers.add(0x1000, places[0], |_| true);
        writers.add(0x1000, Place::new(0xabc, 2, 1), |_| true);
        writers.add(0x1000, places[1], |_| true);
        writers.add(0x1000, places[2], |place| place.page() != 0x5000);
        let Places::Few([first, second]) = writers.take(0x1000) else { panic!("two fit") };
        assert_eq!(first.page(), 0);
        assert!(first.caches().eq([(0, 0), (0, 1), (2, 0), (2, 1)]));
        assert_eq!(second, places[2]);
        assert!(second.caches().eq([(3, 1)]));
        assert_eq!(writers.take(0x1000), Places::Few(Default::default()));
        for place in places {
            writers.add(0x1000, place, |_| true);
        }
        assert_eq!(writers.take(0x1000), Places::Many);
    }
}
