//! How often places in guest code were interpreted, as a reason to translate them.

use crate::cache::Key;

/// Places that are counted at the same time.
const PLACES: usize = 1 << 16;

/// The last place that was counted in a slot, by a part of its hash, and its count.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    tag: u16,
    count: u16,
}

/// Counts of interpreted places. Bounded whatever the guest runs through: places that share a slot
/// displace each other, and one that comes back counts anew.
#[derive(Debug)]
pub(crate) struct ColdPlaces {
    slots: Box<[Slot]>,
}

impl Default for ColdPlaces {
    fn default() -> Self {
        Self { slots: vec![Slot::default(); PLACES].into() }
    }
}

impl ColdPlaces {
    /// Counts that a place is to be run; returns how often that was so, with this time.
    pub(crate) fn count(&mut self, key: &Key) -> u32 {
        let hash = key.hash();
        let slot = &mut self.slots[hash as usize & (PLACES - 1)];
        let tag = (hash >> 48) as u16;
        if slot.tag != tag {
            *slot = Slot { tag, count: 0 };
        }
        slot.count = slot.count.saturating_add(1);
        u32::from(slot.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(gpa: u64) -> Key {
        Key { gpa, linear_page: 0, mode: 1, tail: 0, groups: true }
    }

    #[test]
    fn places_are_counted_apart() {
        let mut places = ColdPlaces::default();
        assert_eq!(places.count(&key(0x1000)), 1);
        assert_eq!(places.count(&key(0x1000)), 2);
        assert_eq!(places.count(&key(0x1003)), 1);
        assert_eq!(places.count(&key(0x1000)), 3);
    }

    #[test]
    fn a_place_that_was_displaced_counts_anew() {
        let mut places = ColdPlaces::default();
        places.count(&key(0));
        (1..4 * PLACES as u64).for_each(|gpa| _ = places.count(&key(gpa)));
        assert_eq!(places.count(&key(0)), 1);
    }
}
