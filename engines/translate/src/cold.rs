//! How often places in guest code were interpreted, as a reason to translate them.

use crate::key::Key;

/// Counts: as many as a guest that boots has places. With a quarter of them a third more was translated.
const COUNTS: usize = 1 << 18;

/// Counts of interpreted places. Bounded whatever the guest runs through: places share counts by a hash,
/// so that some are translated sooner than others. Were they to displace each other instead, two that take
/// turns would never be translated.
#[derive(Debug)]
pub(crate) struct ColdPlaces {
    counts: Box<[u8]>,
}

impl Default for ColdPlaces {
    fn default() -> Self {
        Self { counts: vec![0; COUNTS].into() }
    }
}

impl ColdPlaces {
    /// How often a place was run since it was last due.
    pub(crate) fn count(&self, key: &Key) -> u32 {
        self.counts[key.hash() as usize & (COUNTS - 1)].into()
    }

    /// Counts that a place is to be run; whether it was so more than `threshold` times, so that it is
    /// to be translated. The count begins anew then.
    pub(crate) fn is_due(&mut self, key: &Key, threshold: u32) -> bool {
        let count = &mut self.counts[key.hash() as usize & (COUNTS - 1)];
        *count = count.saturating_add(1);
        let due = u32::from(*count) > threshold;
        if due {
            *count = 0;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(linear_page: u64) -> Key {
        let (absolute, groups) = (true, true);
        Key { linear_page, ram_page: 7, mode: 1, tail: 0, offset: 0, absolute, groups }
    }

    #[test]
    fn places_are_counted_apart() {
        let mut places = ColdPlaces::default();
        assert!(!places.is_due(&key(0x1000), 2));
        assert!(!places.is_due(&key(0x1003), 2));
        assert!(!places.is_due(&key(0x1000), 2));
        assert!(places.is_due(&key(0x1000), 2));
        assert!(!places.is_due(&key(0x1000), 2));
    }

    #[test]
    fn places_that_share_a_count_become_due() {
        let mut places = ColdPlaces::default();
        let due = (0..4 * COUNTS as u64).filter(|&page| places.is_due(&key(page), 1)).count();
        assert!((COUNTS..=2 * COUNTS).contains(&due), "{due}");
    }
}
