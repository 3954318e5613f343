//! Dropping translations: of a page, of an address space, of a page of the host that may not be written to any more.

use super::bank::{Cache, LISTED};
use super::writers::{Place, Places};
use super::{BANKS, Entry, SETS, Stale, Tlb, huge_slot, is_upper, large_slot};

impl Tlb {
    /// Empties a cache.
    pub(super) fn clear_cache(&mut self, bank: usize, set: usize, cache: Cache) {
        for level in 0..2 {
            let mut used = std::mem::take(&mut self.banks[bank].used[set][cache as usize][level]);
            let entries = &mut self.set_mut(bank, set).levels_mut(cache)[level];
            for slot in used.drain(..).map(usize::from) {
                entries[slot] = Entry { key: Cache::no_key(slot), value: 0 };
            }
            self.banks[bank].used[set][cache as usize][level] = used;
        }
        if cache == Cache::Jumps {
            self.drop_code_pages(bank, set, |_| true);
        } else if set == Self::USER {
            self.views.clear(bank);
        }
    }

    /// Empties the entries of a cache that `drop` says so of.
    pub(super) fn drop_entries(
        &mut self,
        bank: usize,
        set: usize,
        cache: Cache,
        drop: impl Fn(Entry) -> bool,
    ) {
        for level in 0..2 {
            let used = std::mem::take(&mut self.banks[bank].used[set][cache as usize][level]);
            let entries = &mut self.set_mut(bank, set).levels_mut(cache)[level];
            for slot in used.iter().copied().map(usize::from) {
                if entries[slot].value > LISTED && drop(entries[slot]) {
                    entries[slot] = Entry { key: Cache::no_key(slot), value: LISTED };
                }
            }
            self.banks[bank].used[set][cache as usize][level] = used;
        }
    }

    /// A number that changes whenever translations may have been dropped.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Drops the write translations of a host page: writes to it must be looked at from now on.
    pub fn protect_host_page(&mut self, host_page: usize) {
        self.changes += 1;
        match self.writers.take(host_page) {
            Places::Few(places) => {
                for place in places {
                    self.drop_place(place, host_page);
                }
            }
            Places::Many => {
                for bank in 0..BANKS {
                    self.views.hide_writable(bank, host_page);
                    for set in 0..SETS {
                        self.drop_entries(bank, set, Cache::Write, |entry| {
                            entry.value == host_page
                        });
                    }
                }
            }
        }
    }

    /// Drops the write translations of a host page at a place.
    pub(super) fn drop_place(&mut self, place: Place, host_page: usize) {
        for (bank, set) in place.caches() {
            let slots = Cache::Write.slots(set, place.page());
            if self.views.is_writable(bank, place.page(), host_page) {
                self.views.hide(bank, place.page());
            }
            let levels = self.set_mut(bank, set).levels_mut(Cache::Write);
            for (level, slot) in levels.into_iter().zip(slots) {
                if level[slot].key == place.page() && level[slot].value == host_page {
                    level[slot] = Entry { key: Cache::no_key(slot), value: LISTED };
                }
            }
        }
    }

    /// Drops the write translation of `linear` in one set of a bank.
    pub(crate) fn drop_write(&mut self, bank: usize, set: usize, linear: u64) {
        self.changes += 1;
        if set < SETS && bank < BANKS {
            self.views.hide(bank, linear & !0xfff);
            self.drop_key(bank, set, Cache::Write, linear & !0xfff);
        }
    }

    /// Drops what has a key from a cache.
    pub(super) fn drop_key(&mut self, bank: usize, set: usize, cache: Cache, key: u64) {
        // A deprivileged guest uses one set; the memory of the others is never touched.
        let unused = self.banks[bank].used[set][cache as usize].each_ref().map(Vec::is_empty);
        if unused == [true; 2] {
            return;
        }
        let slots = cache.slots(set, key);
        let levels = self.set_mut(bank, set).levels_mut(cache);
        for (level, slot) in levels.into_iter().zip(slots) {
            if level[slot].key == key {
                level[slot] = Entry { key: Cache::no_key(slot), value: LISTED };
            }
        }
    }

    /// Drops all write translations.
    pub fn protect_all(&mut self) {
        self.changes += 1;
        self.writers.clear();
        for bank in 0..BANKS {
            for set in 0..SETS {
                self.clear_cache(bank, set, Cache::Write);
            }
        }
    }

    /// Tells the halves of addresses apart from now on: [`Tlb::flush_lower_half_of`].
    pub(crate) fn tell_halves_apart(&mut self) {
        self.flush_all();
        self.halves = true;
    }

    /// Drops the translations of the lower half of addresses, of one process-context identifier.
    pub(crate) fn flush_lower_half_of(&mut self, pcid: u16) {
        let Some(bank) = self.banks.iter().position(|bank| bank.pcid == Some(pcid & 0xfff)) else {
            return;
        };
        self.changes += 1;
        if !self.halves || self.banks[bank].local.are_many() {
            self.drop_lower_half(bank);
            return;
        }
        self.drop_listed(bank);
    }

    /// Drops the pages that are listed for a bank.
    pub(super) fn drop_listed(&mut self, bank: usize) {
        while let Some(page) = self.banks[bank].local.0.pop() {
            self.drop_page_of_bank(bank, page);
        }
    }

    /// Looks through a bank for what is of the lower half of addresses, and drops it.
    pub(super) fn drop_lower_half(&mut self, bank: usize) {
        self.banks[bank].local.forget();
        self.views.clear(bank);
        for set in 0..SETS {
            for cache in Cache::ALL {
                for level in 0..2 {
                    let mut used =
                        std::mem::take(&mut self.banks[bank].used[set][cache as usize][level]);
                    let entries = &mut self.set_mut(bank, set).levels_mut(cache)[level];
                    used.retain(|&slot| {
                        let entry = &mut entries[usize::from(slot)];
                        let keep = entry.value > LISTED && is_upper(entry.key);
                        if !keep {
                            *entry = Entry { key: Cache::no_key(slot.into()), value: 0 };
                        }
                        keep
                    });
                    self.banks[bank].used[set][cache as usize][level] = used;
                }
            }
        }
        for set in 0..SETS {
            self.drop_code_pages(bank, set, |page| !is_upper(page));
        }
        for fetches in &mut self.fetches[bank] {
            fetches.retain(is_upper);
        }
    }

    /// Empties a bank.
    pub(super) fn clear(&mut self, bank: usize) {
        self.changes += 1;
        self.banks[bank].local.forget();
        for set in 0..SETS {
            for cache in Cache::ALL {
                self.clear_cache(bank, set, cache);
            }
        }
        for fetches in &mut self.fetches[bank] {
            fetches.clear();
        }
    }

    /// Drops what is not global from a bank.
    pub(super) fn clear_local(&mut self, bank: usize) {
        self.changes += 1;
        if self.halves || self.banks[bank].local.are_many() {
            self.clear(bank);
            return;
        }
        self.drop_listed(bank);
        for cache in Cache::ALL {
            self.clear_cache(bank, Self::USER, cache);
        }
        // Fetches do not depend on RFLAGS.AC: the jumps of this set are the supervisor's.
        for cache in [Cache::Read, Cache::Write] {
            self.clear_cache(bank, Self::SUPERVISOR_AC, cache);
        }
        self.fetches[bank][usize::from(true)].clear();
    }

    /// Drops every translation of every address space.
    pub fn flush_all(&mut self) {
        let current = self.current;
        for bank in (0..BANKS).filter(|&bank| bank != current) {
            // Cleared when it is used again.
            self.banks[bank].pcid = None;
            self.banks[bank].stale = Stale::All;
        }
        self.clear(current);
        self.large.fill(0);
        self.huge.fill(0);
    }

    /// Drops the translations of the page of `linear`, in all address spaces.
    pub fn flush_page(&mut self, linear: u64) {
        self.changes += 1;
        let (word, bit) = large_slot(linear);
        let (huge_word, huge_bit) = huge_slot(linear);
        if self.huge[huge_word] & huge_bit != 0 || self.large[word] & bit != 0 {
            // The page may be a large one, cached in many parts.
            self.flush_all();
            return;
        }
        for bank in 0..BANKS {
            if self.banks[bank].pcid.is_some() || self.banks[bank].stale != Stale::All {
                self.drop_page_of_bank(bank, linear & !0xfff);
            }
        }
    }

    /// Forgets the page of `linear`, of 4 KiB, in one address space.
    pub fn flush_page_of(&mut self, pcid: u16, linear: u64) {
        if let Some(bank) = self.banks.iter().position(|bank| bank.pcid == Some(pcid & 0xfff)) {
            self.changes += 1;
            self.drop_page_of_bank(bank, linear & !0xfff);
        }
    }

    pub(super) fn drop_page_of_bank(&mut self, bank: usize, page: u64) {
        self.views.hide(bank, page);
        for set in 0..SETS {
            for cache in [Cache::Read, Cache::Write] {
                self.drop_key(bank, set, cache, page);
            }
        }
        for user in [false, true] {
            if self.fetches[bank][usize::from(user)].remove(page) {
                self.drop_jumps(bank, user, page);
            }
        }
    }

    /// Drops the translations of one process-context identifier.
    pub fn flush_pcid(&mut self, pcid: u16) {
        let Some(bank) = self.banks.iter().position(|bank| bank.pcid == Some(pcid & 0xfff)) else {
            return;
        };
        if bank == self.current {
            self.clear_local(bank);
        } else {
            self.banks[bank].pcid = None;
            self.banks[bank].stale = Stale::Local;
        }
    }
}
