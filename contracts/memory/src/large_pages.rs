//! Large pages under a guest's RAM.
//!
//! The host gives a memory file small pages, and each costs it some 2 µs: to find, zero and enter it. It makes one large page of 512 for a
//! tenth of that if it is asked to, and a guest finds what is there with fewer translations.
//!
//! It is asked before much is put into RAM, and for a large page of which a running guest has reached several small ones:
//! a kernel that reaches some uses nearly all around them.

use crate::{GuestRam, PageFlags, Region};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};
use vm_memory::{Bytes, GuestAddress};

/// Bytes of a large page.
pub(crate) const LARGE_PAGE: u64 = 2 << 20;
/// Small pages of a large one.
const PAGES: usize = (LARGE_PAGE >> 12) as usize;
/// So many of them a guest reaches before the host is asked for all: a sixteenth.
const SEVERAL: u16 = 32;
/// More than there are: the host is not asked for a large page any more.
const NEVER: u16 = 1 << 15;
/// The host is asked no more after it refused so often: then it has none, or does not know how.
const REFUSALS: u16 = 4;

/// What a running guest has reached.
#[derive(Debug)]
pub(crate) struct Reached {
    /// How many pages of each large page of the RAM file.
    pages: Box<[AtomicU16]>,
    /// How often the host refused.
    refusals: AtomicU16,
}

impl Reached {
    /// Nothing of RAM of so many pages.
    pub(crate) fn new(pages: usize) -> Self {
        let pages = (0..pages.div_ceil(PAGES)).map(|_| AtomicU16::new(0)).collect();
        Self { pages, refusals: AtomicU16::new(0) }
    }
}

impl GuestRam {
    /// Notes that a vCPU is about to access the page with this number within the RAM file.
    #[inline]
    pub fn note_reached(&self, ram_page: usize) {
        if self.page_flags().get(ram_page) & PageFlags::REACHED == 0 {
            self.reach(ram_page);
        }
    }

    #[cold]
    fn reach(&self, ram_page: usize) {
        let known = self.page_flags().set(ram_page, PageFlags::REACHED) & PageFlags::REACHED != 0;
        let Some(reached) = self.reached.pages.get(ram_page / PAGES).filter(|_| !known) else {
            return;
        };
        if reached.fetch_add(1, Ordering::Relaxed) + 1 == SEVERAL
            && self.reached.refusals.load(Ordering::Relaxed) < REFUSALS
            && !self.make_large(ram_page / PAGES * PAGES)
        {
            self.reached.refusals.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the host made a large page of those from `first` on, by number within the RAM file.
    fn make_large(&self, first: usize) -> bool {
        let region = self.regions().iter().find(|region| {
            let pages = (region.size >> 12) as usize;
            first.checked_sub(region.first_page).is_some_and(|within| within < pages)
        });
        let Some(region) = region else { return false };
        let address = region.start + ((first - region.first_page) << 12) as u64;
        self.collapse(address, address + LARGE_PAGE) > address
    }

    /// Leaves pages of the RAM file small of which the guest gave some back: the host would have to give them again.
    pub(crate) fn leave_small(&self, offset: u64, length: u64) {
        let large = |at: u64| (at / LARGE_PAGE) as usize;
        let last = large(offset + length.saturating_sub(1));
        for reached in self.reached.pages.iter().take(last + 1).skip(large(offset)) {
            reached.store(NEVER, Ordering::Relaxed);
        }
    }

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
        let made = self.collapse(first, last);
        if first < made { address.max(first)..end.min(made) } else { address..address }
    }

    /// Has the host make large pages of `first..last` as far as it has them at hand. Returns the end of those.
    fn collapse(&self, first: u64, last: u64) -> u64 {
        let within = |region: &&Region| {
            region.start <= first && last.saturating_sub(region.start) <= region.size
        };
        let Some(region) = self.regions().iter().find(within) else { return first };
        let host = |at: u64| region.hva + (at - region.start) as usize;
        if !host(first).is_multiple_of(LARGE_PAGE as usize) {
            return first;
        }
        let is_small = |&at: &u64| {
            // There must be something in each already.
            let found = self.memory().read_obj::<u8>(GuestAddress(at)).is_ok();
            #[expect(unsafe_code, reason = "advice on memory has no safe wrapper")]
            // SAFETY: the page lies in the mapping of one region, which exists as long as `self` does.
            let made = found && unsafe { ambos_hostcode::make_large(host(at)) };
            !made
        };
        (first..last).step_by(LARGE_PAGE as usize).find(is_small).unwrap_or(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DmaRange;

    /// How many small pages of the large page with this number the host has made.
    fn made(ram: &GuestRam, large: usize) -> usize {
        let host = ram.regions()[0].hva + large * LARGE_PAGE as usize;
        let mut resident = [0_u8; PAGES];
        #[expect(unsafe_code, reason = "there is no safe wrapper")]
        // SAFETY: the large page lies in the mapping of RAM, and there is a byte for each small one.
        let result =
            unsafe { libc::mincore(host as *mut _, LARGE_PAGE as usize, resident.as_mut_ptr()) };
        assert_eq!(result, 0);
        resident.iter().filter(|page| **page & 1 != 0).count()
    }

    #[test]
    fn a_large_page_of_which_a_guest_reaches_several_small_ones_is_made() {
        let ram = GuestRam::new(7 << 20).unwrap();
        let pages = usize::from(SEVERAL);
        let reach = |page: usize| {
            ram.note_reached(page);
            let at = GuestAddress((page as u64) << 12);
            ram.memory().write_obj(page as u64, at).unwrap();
        };
        for _ in 0..3 {
            (PAGES..PAGES + pages - 1).for_each(reach);
            assert_eq!(made(&ram, 1), pages - 1);
        }
        reach(2 * PAGES - 1);
        let all = made(&ram, 1);
        // The host may have none.
        assert!([pages, PAGES].contains(&all), "{all}");
        for page in (PAGES..PAGES + pages - 1).chain([2 * PAGES - 1]) {
            let at = GuestAddress((page as u64) << 12);
            assert_eq!(ram.memory().read_obj::<u64>(at).unwrap(), page as u64);
        }
        assert_eq!([0, 2].map(|large| made(&ram, large)), [0; 2]);
        // What a guest gave back stays away, and there is no large page at the end.
        ram.release(DmaRange { address: 2 * LARGE_PAGE - 0x1000, length: 0x2000 });
        (2 * PAGES..7 << 8).for_each(reach);
        ram.note_reached(usize::MAX);
        assert_eq!(made(&ram, 2), PAGES);
        ram.release(DmaRange { address: 5 << 20, length: 0x1000 });
        assert_eq!(made(&ram, 2), PAGES - 1);
    }

    #[test]
    fn what_a_guest_gave_back_is_not_made_again_for_what_it_reaches_around() {
        let ram = GuestRam::new(4 << 20).unwrap();
        ram.release(DmaRange { address: 5 << 20, length: 0x1000 });
        ram.release(DmaRange { address: LARGE_PAGE, length: 0x1000 });
        (PAGES..PAGES + 100).for_each(|page| ram.note_reached(page));
        assert_eq!(made(&ram, 1), 0);
    }

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
            // The host may have none, or not enough.
            let as_far = found.start == large.start && found.end <= large.end;
            assert!(found.is_empty() || as_far, "{address:x} {length:x}: {found:x?}");
            for at in written {
                assert_eq!(ram.memory().read_obj::<u64>(GuestAddress(at)).unwrap(), at);
            }
        }
    }
}
