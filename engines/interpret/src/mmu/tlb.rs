//! Cached translations.
//!
//! Each address space in use (a process-context identifier) has a *bank* of its own, so switching
//! between address spaces flushes nothing. A bank has direct-mapped sets for each kind of access
//! with one cache for reads and one for writes, and translations of fetches. Global pages are
//! cached in every bank; whoever flushes them flushes everything.
//!
//! Banks lie in memory that generated code can address: a bank is the tail of a window
//! ([`Windows`]) whose head belongs to whoever made the windows. The layout is [`Bank`].
//! Besides translations of data a bank holds *jump caches*, which map linear addresses of
//! code to generated code. They are filled by the owner of that code ([`Tlb::set_jump`]) and
//! follow the fetch translations: a page whose fetch translation goes loses its jumps.

use ambos_hostcode::{ArenaError, Windows};
use std::mem::size_of;
use std::sync::Arc;

/// Translations in each direct-mapped cache.
pub const ENTRIES: usize = 1024;
/// Entries of a jump cache, found by the low 13 bits of the sum of the address and the address rotated right
/// by 12.
pub const JUMPS: usize = 8192;
/// Address spaces that are cached at the same time.
pub const BANKS: usize = 8;
/// Kinds of access with caches of their own.
pub const SETS: usize = 3;
/// Fetch translations for each privilege: those of a kernel's whole text, for evicting one costs the
/// jumps into its page.
const FETCHES: usize = 8192;
/// Words of the filter of large pages.
const LARGE_WORDS: usize = 64;
/// A page number that no page has.
const NO_PAGE: u64 = u64::MAX;

/// One cached translation.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// Linear address of the page. In an empty entry, that of a page which belongs elsewhere.
    pub tag: u64,
    /// Host address of the page.
    pub host: usize,
}

/// One entry of a jump cache.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Jump {
    /// The code's linear address, negated. In an empty entry, one that belongs elsewhere.
    pub negated: u64,
    /// Address of the generated code.
    pub code: usize,
}

/// The caches for one kind of access.
#[derive(Debug)]
#[repr(C)]
pub struct Set {
    /// Pages that may be read.
    pub read: [Entry; ENTRIES],
    /// Pages that may be written.
    pub write: [Entry; ENTRIES],
    /// Generated code by linear address.
    pub jumps: [Jump; JUMPS],
}

/// The caches of one address space.
#[derive(Debug)]
#[repr(C)]
pub struct Bank {
    /// By kind of access: [`Tlb::SUPERVISOR`] and so on.
    pub sets: [Set; SETS],
}

/// A fetch translation: also says which guest-physical page it is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FetchEntry {
    pub(crate) gpa_page: u64,
    pub(crate) host_page: usize,
    pub(crate) ram_page: usize,
    /// Jumps to code of the page may be cached.
    jumps: bool,
}

/// Fetch translations of one bank and privilege.
#[derive(Debug)]
struct Fetches {
    pages: Box<[u64]>,
    entries: Box<[FetchEntry]>,
}

/// What is known of a bank.
#[derive(Debug, Default)]
struct BankState {
    /// Its address space, if it belongs to one.
    pcid: Option<u16>,
    /// When it was last switched to.
    used: u64,
    /// Sets that something was entered into since they were last cleared.
    filled: [bool; SETS],
}

/// The translations of one vCPU.
#[derive(Debug)]
pub struct Tlb {
    windows: Arc<Windows>,
    banks: [BankState; BANKS],
    fetches: Vec<[Fetches; 2]>,
    /// 4 MiB regions, by a hash of their number, in which parts of 2 or 4 MiB pages are cached.
    large: Box<[u64; LARGE_WORDS]>,
    /// Parts of 1 GiB pages are cached.
    huge: bool,
    current: usize,
    switches: u64,
}

/// Word and bit of the filter of large pages.
fn large_slot(linear: u64) -> (usize, u64) {
    let region = (linear >> 22) as usize;
    (region & (LARGE_WORDS - 1), 1 << (region >> 6 & 63))
}

#[inline(always)]
fn slot(linear: u64) -> usize {
    (linear >> 12) as usize & (ENTRIES - 1)
}

/// The slot of a linear address among fetch translations. Linux has its modules at a multiple of all
/// sizes of caches behind its text, and both in use for every request to a device: bits above count.
#[inline(always)]
fn fetch_slot(linear: u64) -> usize {
    let page = linear >> 12;
    (page ^ page >> 13) as usize & (FETCHES - 1)
}

/// The slot of a linear address in a jump cache: functions begin at few offsets in their pages, so
/// the page's number counts as well.
#[inline]
fn jump_slot(linear: u64) -> usize {
    linear.wrapping_add(linear.rotate_right(12)) as usize & (JUMPS - 1)
}

/// The tag of an empty entry: a page that belongs into the next slot.
#[inline]
fn no_tag(slot: usize) -> u64 {
    if slot == 0 { 0x1000 } else { 0 }
}

impl Tlb {
    /// Set of supervisor accesses; with SMAP, user pages are not in it.
    pub const SUPERVISOR: usize = 0;
    /// Set of user accesses.
    pub const USER: usize = 1;
    /// Set of supervisor accesses while RFLAGS.AC lifts SMAP.
    pub const SUPERVISOR_AC: usize = 2;
    /// User accesses with alignment checks: never cached, so that each one is looked at.
    pub const USER_ALIGNED: usize = 3;

    /// An empty TLB in memory of its own.
    ///
    /// # Errors
    ///
    /// [`ArenaError`] if the host has no memory.
    pub fn new() -> Result<Self, ArenaError> {
        Ok(Self::in_windows(Arc::new(Windows::new(0, size_of::<Bank>(), BANKS)?)))
    }

    /// An empty TLB in the tails of `windows`, which must be [`BANKS`] of at least the size of a
    /// [`Bank`] and used by nothing else.
    pub fn in_windows(windows: Arc<Windows>) -> Self {
        let fetches = || Fetches {
            pages: vec![NO_PAGE; FETCHES].into(),
            entries: vec![FetchEntry::default(); FETCHES].into(),
        };
        let mut tlb = Self {
            windows,
            banks: Default::default(),
            fetches: (0..BANKS).map(|_| [fetches(), fetches()]).collect(),
            large: Box::new([0; LARGE_WORDS]),
            huge: false,
            current: 0,
            switches: 0,
        };
        for bank in 0..BANKS {
            tlb.banks[bank].filled = [true; SETS];
            tlb.clear(bank);
        }
        tlb.banks[0].pcid = Some(0);
        tlb
    }

    #[expect(unsafe_code, reason = "banks lie in memory shared with generated code")]
    #[inline(always)]
    fn bank(&self, bank: usize) -> &Bank {
        // SAFETY: the windows are at least BANKS tails of the size of a Bank, by `in_windows`' contract
        // used only by this TLB and, while no Rust code runs, by generated code. Every bit
        // pattern is a Bank.
        unsafe { &*(self.windows.tail(bank) as *const Bank) }
    }

    #[expect(unsafe_code, reason = "banks lie in memory shared with generated code")]
    #[inline(always)]
    fn bank_mut(&mut self, bank: usize) -> &mut Bank {
        // SAFETY: as in `bank`; `self` is borrowed exclusively.
        unsafe { &mut *(self.windows.tail(bank) as *mut Bank) }
    }

    /// The number of the bank in use.
    #[inline(always)]
    pub fn current_bank(&self) -> usize {
        self.current
    }

    /// The host address that `linear` reads from.
    #[inline(always)]
    pub fn lookup_read(&self, set: usize, linear: u64) -> Option<usize> {
        let entry = &self.bank(self.current).sets.get(set)?.read[slot(linear)];
        (entry.tag == linear & !0xfff).then(|| entry.host + (linear & 0xfff) as usize)
    }

    /// The host address that `linear` writes to.
    #[inline(always)]
    pub fn lookup_write(&self, set: usize, linear: u64) -> Option<usize> {
        let entry = &self.bank(self.current).sets.get(set)?.write[slot(linear)];
        (entry.tag == linear & !0xfff).then(|| entry.host + (linear & 0xfff) as usize)
    }

    #[inline(always)]
    pub(crate) fn lookup_fetch(&self, user: bool, linear: u64) -> Option<&FetchEntry> {
        let fetches = &self.fetches[self.current][usize::from(user)];
        let slot = fetch_slot(linear);
        (fetches.pages[slot] == linear & !0xfff).then(|| &fetches.entries[slot])
    }

    /// The guest-physical page, host page and RAM page number that `linear` is fetched from, if
    /// cached.
    pub fn fetched_from(&self, user: bool, linear: u64) -> Option<(u64, usize, usize)> {
        let entry = self.lookup_fetch(user, linear)?;
        Some((entry.gpa_page, entry.host_page, entry.ram_page))
    }

    /// Adds a translation for reads (`write` false) or writes.
    pub(crate) fn insert(&mut self, set: usize, write: bool, linear: u64, host_page: usize) {
        let current = self.current;
        if set >= SETS {
            return;
        }
        self.banks[current].filled[set] = true;
        let set = &mut self.bank_mut(current).sets[set];
        let entries = if write { &mut set.write } else { &mut set.read };
        entries[slot(linear)] = Entry { tag: linear & !0xfff, host: host_page };
    }

    pub(crate) fn insert_fetch(
        &mut self,
        user: bool,
        linear: u64,
        gpa_page: u64,
        host_page: usize,
        ram_page: usize,
    ) -> FetchEntry {
        let current = self.current;
        let slot = fetch_slot(linear);
        let fetches = &mut self.fetches[current][usize::from(user)];
        let evicted = std::mem::replace(&mut fetches.pages[slot], linear & !0xfff);
        let entry = FetchEntry { gpa_page, host_page, ram_page, jumps: false };
        let had_jumps = std::mem::replace(&mut fetches.entries[slot], entry).jumps;
        if evicted != NO_PAGE && had_jumps {
            self.drop_jumps(current, user, evicted);
        }
        entry
    }

    /// Enters generated code for `linear` into the current bank's jump cache. The page must have a
    /// fetch translation, and the next one as well if the code `straddles` into it.
    pub fn set_jump(&mut self, set: usize, linear: u64, straddles: bool, code: usize) {
        let current = self.current;
        if set >= SETS {
            return;
        }
        let pages = [Some(linear), straddles.then(|| linear.wrapping_add(0x1000))];
        for linear in pages.into_iter().flatten() {
            let fetches = &mut self.fetches[current][usize::from(set == Self::USER)];
            let slot = fetch_slot(linear);
            if fetches.pages[slot] != linear & !0xfff {
                return;
            }
            fetches.entries[slot].jumps = true;
        }
        self.banks[current].filled[set] = true;
        self.bank_mut(current).sets[set].jumps[jump_slot(linear)] =
            Jump { negated: linear.wrapping_neg(), code };
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
        let current = self.current;
        if set < SETS {
            Self::clear_jump_cache(&mut self.bank_mut(current).sets[set]);
        }
    }

    fn clear_jump_cache(set: &mut Set) {
        set.jumps.fill(no_jump(1));
        set.jumps[0] = no_jump(0);
    }

    fn clear_jumps_of(&mut self, bank: usize, user: bool) {
        for &set in Self::jump_sets(user) {
            if self.banks[bank].filled[set] {
                Self::clear_jump_cache(&mut self.bank_mut(bank).sets[set]);
            }
        }
    }

    /// Drops the cached jumps of one bank to code of the page at `page`, and to instructions that end in it.
    fn drop_jumps(&mut self, bank: usize, user: bool, page: u64) {
        const LONGEST: u64 = 15;
        let sets: &[usize] =
            if user { &[Self::USER] } else { &[Self::SUPERVISOR, Self::SUPERVISOR_AC] };
        for &set in sets {
            if !self.banks[bank].filled[set] {
                continue;
            }
            for (slot, jump) in self.bank_mut(bank).sets[set].jumps.iter_mut().enumerate() {
                let linear = jump.negated.wrapping_neg();
                if linear.wrapping_sub(page).wrapping_add(LONGEST) < 0x1000 + LONGEST {
                    *jump = no_jump(slot);
                }
            }
        }
    }

    /// Drops the write translations of a host page: writes to it must be looked at from now on.
    pub fn protect_host_page(&mut self, host_page: usize) {
        for bank in 0..BANKS {
            for set in 0..SETS {
                if !self.banks[bank].filled[set] {
                    continue;
                }
                for (slot, entry) in self.bank_mut(bank).sets[set].write.iter_mut().enumerate() {
                    if entry.host == host_page {
                        *entry = Entry { tag: no_tag(slot), host: 0 };
                    }
                }
            }
        }
    }

    /// Drops the write translation of `linear` in one set of a bank.
    pub(crate) fn drop_write(&mut self, bank: usize, set: usize, linear: u64) {
        let slot = slot(linear);
        if set < SETS && bank < BANKS {
            self.bank_mut(bank).sets[set].write[slot] = Entry { tag: no_tag(slot), host: 0 };
        }
    }

    /// Drops all write translations.
    pub fn protect_all(&mut self) {
        for bank in 0..BANKS {
            for set in &mut self.bank_mut(bank).sets {
                clear_entries(&mut set.write);
            }
        }
    }

    /// Empties a bank.
    fn clear(&mut self, bank: usize) {
        for set in 0..SETS {
            if std::mem::take(&mut self.banks[bank].filled[set]) {
                let set = &mut self.bank_mut(bank).sets[set];
                clear_entries(&mut set.read);
                clear_entries(&mut set.write);
                Self::clear_jump_cache(set);
            }
        }
        for fetches in &mut self.fetches[bank] {
            fetches.pages.fill(NO_PAGE);
        }
    }

    /// Drops every translation of every address space.
    pub fn flush_all(&mut self) {
        let current = self.current;
        for bank in (0..BANKS).filter(|&bank| bank != current) {
            // Cleared when it is used again.
            self.banks[bank].pcid = None;
        }
        self.clear(current);
        self.large.fill(0);
        self.huge = false;
    }

    /// Drops the translations of the page of `linear`, in all address spaces.
    pub fn flush_page(&mut self, linear: u64) {
        let (word, bit) = large_slot(linear);
        if self.huge || self.large[word] & bit != 0 {
            // The page may be a large one, cached in many parts.
            self.flush_all();
            return;
        }
        let page = linear & !0xfff;
        let data = slot(linear);
        let fetch = fetch_slot(linear);
        for bank in 0..BANKS {
            if self.banks[bank].pcid.is_none() {
                continue;
            }
            for set in &mut self.bank_mut(bank).sets {
                set.read[data] = Entry { tag: no_tag(data), host: 0 };
                set.write[data] = Entry { tag: no_tag(data), host: 0 };
            }
            for user in [false, true] {
                let pages = &mut self.fetches[bank][usize::from(user)].pages;
                if pages[fetch] == page {
                    pages[fetch] = NO_PAGE;
                    if self.fetches[bank][usize::from(user)].entries[fetch].jumps {
                        self.drop_jumps(bank, user, page);
                    }
                }
            }
        }
    }

    /// Notes that a part of a page larger than 4 KiB is cached.
    pub(crate) fn note_large_page(&mut self, linear: u64, page_bits: u32) {
        if page_bits > 22 {
            self.huge = true;
            return;
        }
        let (word, bit) = large_slot(linear);
        self.large[word] |= bit;
    }

    /// Drops the translations of one process-context identifier.
    pub fn flush_pcid(&mut self, pcid: u16) {
        let Some(bank) = self.banks.iter().position(|bank| bank.pcid == Some(pcid & 0xfff)) else {
            return;
        };
        if bank == self.current {
            self.clear(bank);
        } else {
            self.banks[bank].pcid = None;
        }
    }

    /// Switches to `pcid`, keeping what is cached of it.
    pub fn switch(&mut self, pcid: u16) {
        let pcid = pcid & 0xfff;
        self.switches += 1;
        let bank = match self.banks.iter().position(|bank| bank.pcid == Some(pcid)) {
            Some(bank) => bank,
            None => {
                let oldest = (0..BANKS)
                    .min_by_key(|&bank| (self.banks[bank].pcid.is_some(), self.banks[bank].used))
                    .unwrap_or(0);
                self.clear(oldest);
                self.banks[oldest].pcid = Some(pcid);
                oldest
            }
        };
        self.banks[bank].used = self.switches;
        self.current = bank;
    }
}

/// An empty entry of a jump cache: an address of zero belongs into the first one.
fn no_jump(slot: usize) -> Jump {
    Jump { negated: u64::from(slot == 0), code: 0 }
}

fn clear_entries(entries: &mut [Entry; ENTRIES]) {
    entries.fill(Entry { tag: 0, host: 0 });
    entries[0].tag = no_tag(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_spaces_do_not_see_each_other() {
        let mut tlb = Tlb::new().unwrap();
        tlb.switch(1);
        tlb.insert(Tlb::USER, false, 0x1234, 0x8_0000);
        assert_eq!(tlb.lookup_read(Tlb::USER, 0x1238), Some(0x8_0238));
        assert_eq!(tlb.lookup_write(Tlb::USER, 0x1238), None);
        tlb.switch(2);
        assert_eq!(tlb.lookup_read(Tlb::USER, 0x1238), None);
        tlb.switch(1);
        assert!(tlb.lookup_read(Tlb::USER, 0x1238).is_some());
        tlb.flush_pcid(1);
        assert_eq!(tlb.lookup_read(Tlb::USER, 0x1238), None);
    }

    #[test]
    fn more_address_spaces_than_banks_share_nothing() {
        let mut tlb = Tlb::new().unwrap();
        for pcid in 0..100 {
            tlb.switch(pcid);
            assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x5000), None);
            tlb.insert(Tlb::SUPERVISOR, true, 0x5000, 0x1000 * usize::from(pcid));
        }
        tlb.switch(99);
        assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x5000), Some(0x6_3000));
        tlb.flush_all();
        tlb.switch(98);
        assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x5000), None);
    }

    #[test]
    fn empty_entries_match_nothing() {
        let mut tlb = Tlb::new().unwrap();
        for page in 0..2 * ENTRIES as u64 {
            assert_eq!(tlb.lookup_read(Tlb::USER, page << 12), None);
        }
        tlb.insert(Tlb::USER, true, 0, 0x1000);
        tlb.flush_page(0);
        assert_eq!(tlb.lookup_write(Tlb::USER, 0), None);
        assert_eq!(tlb.lookup_write(Tlb::USER_ALIGNED, 0), None);
    }

    #[test]
    fn protecting_a_page_leaves_reads() {
        let mut tlb = Tlb::new().unwrap();
        tlb.insert(Tlb::SUPERVISOR, true, 0x5000, 0x1000);
        tlb.insert(Tlb::SUPERVISOR, false, 0x5000, 0x1000);
        tlb.protect_host_page(0x1000);
        assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x5000), None);
        assert!(tlb.lookup_read(Tlb::SUPERVISOR, 0x5000).is_some());
    }

    #[test]
    fn jumps_go_with_the_fetch_translation_of_their_page() {
        let mut tlb = Tlb::new().unwrap();
        let jump = |tlb: &Tlb| tlb.bank(tlb.current).sets[Tlb::USER].jumps[jump_slot(0x7010)];
        tlb.set_jump(Tlb::USER, 0x7010, false, 99);
        assert_eq!(jump(&tlb).code, 0);
        tlb.insert_fetch(true, 0x7000, 0, 0, 0);
        tlb.set_jump(Tlb::USER, 0x7010, false, 99);
        assert_eq!(jump(&tlb).code, 99);
        tlb.flush_page(0x9000);
        assert_eq!(jump(&tlb).code, 99);
        tlb.flush_page(0x7000);
        assert_eq!(jump(&tlb).code, 0);
    }

    #[test]
    fn an_evicted_page_takes_only_its_own_jumps_along() {
        let mut tlb = Tlb::new().unwrap();
        let evictor = (1u64..).map(|page| page << 24).find(|page| {
            fetch_slot(*page) == fetch_slot(0x7000) && jump_slot(*page) != jump_slot(0x8020)
        });
        let jump = |tlb: &Tlb, linear| {
            tlb.bank(tlb.current).sets[Tlb::SUPERVISOR].jumps[jump_slot(linear)].code
        };
        for (page, code) in [(0x7000, 1), (0x8000, 2)] {
            tlb.insert_fetch(false, page, 0, 0, 0);
            tlb.set_jump(Tlb::SUPERVISOR, page + 0x20, code);
        }
        tlb.insert_fetch(false, evictor.unwrap(), 0, 0, 0);
        assert_eq!((jump(&tlb, 0x7020), jump(&tlb, 0x8020)), (0, 2));
    }
}
