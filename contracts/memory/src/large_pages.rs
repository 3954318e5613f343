//! Large pages under a guest's RAM.
//!
//! The host gives a memory file small pages, and each costs it some 2 µs: to find, zero and enter it. It makes one large page of 512 for a
//! tenth of that if it is asked to, and a guest finds what is there with fewer translations.

use crate::GuestRam;
use std::ops::Range;
use vm_memory::{Bytes, GuestAddress};

/// Bytes of a large page.
pub(crate) const LARGE_PAGE: u64 = 2 << 20;

impl GuestRam {
    /// Has the host put large pages under what will be filled, `length` bytes from guest-physical address `address` on, as far as
    /// it can. What is there stays.
    pub fn use_large_pages(&self, address: u64, length: u64) {
        self.with_large_pages(address, length);
    }

    /// The same. Returns the part of it that is in large pages then.
    pub(crate) fn with_large_pages(&self, address: u64, length: u64) -> Range<u64> {
        let end = address.saturating_add(length);
        // Those of which at least a half will be filled.
        let half = LARGE_PAGE / 2;
        let first =
            (address.saturating_add(half) & !(LARGE_PAGE - 1)).max(address & !(LARGE_PAGE - 1));
        let last = end.saturating_add(half) & !(LARGE_PAGE - 1);
        if first < last && self.collapse(first, last) {
            address.max(first)..end.min(last)
        } else {
            address..address
        }
    }

    /// Whether the host made large pages of `first..last`.
    fn collapse(&self, first: u64, last: u64) -> bool {
        let region = self
            .regions()
            .iter()
            .find(|region| region.start <= first && last - region.start <= region.size);
        let Some(region) = region else { return false };
        let host = region.hva + (first - region.start) as usize;
        if !host.is_multiple_of(LARGE_PAGE as usize) {
            return false;
        }
        // There must be something in each already.
        for page in (first..last).step_by(LARGE_PAGE as usize) {
            if self.memory().read_obj::<u8>(GuestAddress(page)).is_err() {
                return false;
            }
        }
        #[expect(unsafe_code, reason = "advice on memory has no safe wrapper")]
        // SAFETY: the pages lie in the mapping of one region, which exists as long as `self` does; their contents stay.
        let refused = unsafe {
            libc::madvise(host as *mut libc::c_void, (last - first) as usize, libc::MADV_COLLAPSE)
        };
        refused == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_filled_by_half_are_large_and_keep_what_is_there() {
        let ram = GuestRam::new(16 << 20).unwrap();
        const MIB: u64 = 1 << 20;
        let written = [0x12_3456_u64, 7 * MIB - 8, 15 * MIB];
        for at in written {
            ram.memory().write_obj(at, GuestAddress(at)).unwrap();
        }
        for (address, length, large) in [
            (0, 16 * MIB, 0..16 * MIB),
            (0x1234, 5 * MIB, 0x1234..0x1234 + 5 * MIB),
            (MIB + 1, 4 * MIB, 2 * MIB..5 * MIB + 1),
            (3 * MIB, 2 * MIB - 1, 3 * MIB..4 * MIB),
            (5 * MIB, MIB - 1, 5 * MIB..6 * MIB - 1),
            (4 * MIB + 1, MIB - 1, 4 * MIB + 1..5 * MIB),
            (4 * MIB, MIB - 1, 0..0),
            (5 * MIB + 1, MIB, 0..0),
            (14 * MIB, 3 * MIB, 0..0),
            (u64::MAX - 5, 5, 0..0),
        ] {
            let found = ram.with_large_pages(address, length);
            // The host may have none.
            assert!(found.is_empty() || found == large, "{address:x} {length:x}: {found:x?}");
            for at in written {
                assert_eq!(ram.memory().read_obj::<u64>(GuestAddress(at)).unwrap(), at);
            }
        }
    }
}
