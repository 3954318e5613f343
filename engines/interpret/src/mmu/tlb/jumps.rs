//! Generated code by linear address: jumps follow the fetch translations of their pages.

use super::bank::{Cache, LISTED};
use super::{BANKS, BARRED_JUMP, Entry, LONGEST, SETS, Tlb, jump_slot};

impl Tlb {
    /// Enters generated code for `linear` into the current bank's jump cache, and the page as the one of code with a
    /// number, if it has one. The page must have a
    /// fetch translation, and the next one as well if the code `straddles` into it.
    pub fn set_jump(
        &mut self,
        set: usize,
        linear: u64,
        straddles: bool,
        code: usize,
        code_page: Option<u16>,
    ) {
        let fetches = &mut self.fetches[self.current][usize::from(set == Self::USER)];
        if fetches.note_jumps(linear)
            && (!straddles || fetches.note_jumps(linear.wrapping_add(LONGEST)))
        {
            self.enter(set, Cache::Jumps, Entry { key: linear, value: code });
            if let Some(number) = code_page {
                self.set_code_page(set, number, linear & !0xfff);
            }
        }
    }

    /// The generated code for `linear` that the current bank's jump cache has in its first level.
    #[inline]
    pub fn lookup_jump(&self, set: usize, linear: u64) -> Option<usize> {
        let place = *self.places.get(set)?;
        let entry = self.bank(self.current).sets[place].jumps[jump_slot(linear)];
        // What bars a slot is no code for the address that it has.
        (entry.key == linear && linear != BARRED_JUMP && entry.value > LISTED)
            .then_some(entry.value)
    }

    /// Drops the generated code for `linear` from the current bank's jump cache.
    pub fn forget_jump(&mut self, set: usize, linear: u64) {
        if set < SETS && linear != BARRED_JUMP {
            self.drop_key(self.current, set, Cache::Jumps, linear);
        }
    }

    /// Empties the jump caches of every bank.
    pub fn clear_all_jumps(&mut self) {
        for bank in 0..BANKS {
            for user in [false, true] {
                self.clear_jumps_of(bank, user);
            }
        }
    }

    /// Empties the jump caches of the current bank that serve accesses of one set.
    pub fn clear_jumps(&mut self, set: usize) {
        if set < SETS {
            self.clear_cache(self.current, set, Cache::Jumps);
        }
    }

    pub(super) fn clear_jumps_of(&mut self, bank: usize, user: bool) {
        for &set in Self::sets_of(user) {
            self.clear_cache(bank, set, Cache::Jumps);
        }
    }

    /// Drops the cached jumps of one bank to code of the page at `page`, and to instructions that
    /// end in it.
    pub(super) fn drop_jumps(&mut self, bank: usize, user: bool, page: u64) {
        let first = page.wrapping_sub(LONGEST);
        for &set in Self::sets_of(user) {
            self.drop_entries(bank, set, Cache::Jumps, |entry| {
                entry.key.wrapping_sub(first) < 0x1000 + LONGEST
            });
            self.drop_code_pages(bank, set, |known| known == page);
        }
    }
}
