//! Cached translations.
//!
//! Each address space in use (a process-context identifier) has a *bank* of its own, so switching
//! between address spaces flushes nothing. A bank has a set of caches for each kind of access: one
//! for reads, one for writes ([`bank`] has their layout), and translations of fetches ([`fetches`]).
//! Global pages are cached in every bank. Those of the supervisor stay when a bank's address space is
//! flushed or another one gets the bank, as long as it cached few that are not global, which are dropped one by
//! one: a kernel need not be found again after each new process.
//! A deprivileged guest's kernel is a user here and has no global pages, but its supervisor knows when address spaces
//! have the same upper half; then it is the pages of the lower half that are listed and dropped.
//!
//! Banks lie in memory that generated code can address: a bank is the tail of a window
//! ([`Windows`]) whose head belongs to whoever made the windows. The layout is [`Bank`].
//! Besides translations of data a bank holds *jump caches*, which map linear addresses of
//! code to generated code. They are filled by the owner of that code ([`Tlb::set_jump`]) and
//! follow the fetch translations: a page whose fetch translation goes loses its jumps.
//!
//! The slots that were used are listed, so that emptying a cache costs what was in it.

mod bank;
mod code_pages;
mod fetches;
mod flush;
mod jumps;
mod views;
mod writers;

use ambos_hostcode::{ArenaError, Windows};
use bank::Cache;
use fetches::Fetches;
use std::sync::Arc;
use views::Views;
use writers::{Place, Writers};

pub use bank::{
    BARRED_JUMP, Bank, CODE_PAGES, ENTRIES, Entry, JUMP_SPREAD_SHIFT, JUMPS, PAGE_SPREAD_SHIFT,
    PageSlot, SECOND_ENTRIES, SECOND_JUMPS, SETS, SPREAD, Set, jump_slot, page_slots,
};
pub(crate) use fetches::FetchEntry;
pub use views::{BANK_WINDOW, BankViews, GUARD_MASK, GUARD_OFFSET, VIEW_MASK, VIEW_REGIONS};

/// Address spaces that are cached at the same time. Linux uses six process-context identifiers in turn; where it runs as a
/// Xen guest, programs and kernel have address spaces of their own, and with six banks for them fork and exec took 1.7 times
/// as long as with eight.
pub const BANKS: usize = 8;
const _: () = assert!(BANKS >= ambos_vcpu::SPACES, "a supervisor's address spaces have banks");
/// Words of the filter of large pages: so many bits that the addresses of programs, which are invalidated
/// often, seldom share one with the kernel's map of memory. With 4,096 bits that flushed everything in a
/// third of runs, and starting programs took up to twice the time.
const LARGE_WORDS: usize = 1024;
/// Words of the filter of 1 GiB pages.
const HUGE_WORDS: usize = 64;
/// Bytes of the longest instruction.
const LONGEST: u64 = 15;

/// Slots of a set's caches that were used since they were last emptied, by cache and level.
type Used = [[Vec<u16>; 2]; 3];

/// What must be dropped from a bank before it is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stale {
    /// What is not global.
    #[default]
    Local,
    /// Everything.
    All,
}

/// Some pages of an address space. A Linux kernel reaches few that are not global, but some in each: its early
/// page tables, and while it changes its own code. Under Xen it reaches few of its programs'.
#[derive(Debug, Default)]
struct LocalPages(Vec<u64>);

impl LocalPages {
    /// So many that it is better to drop everything.
    const MANY: usize = 64;

    fn add(&mut self, page: u64) {
        if !self.are_many() && !self.0.contains(&page) {
            self.0.push(page);
        }
    }

    fn are_many(&self) -> bool {
        self.0.len() >= Self::MANY
    }

    fn forget(&mut self) {
        self.0.clear();
    }
}

/// What is known of a bank.
#[derive(Debug, Default)]
struct BankState {
    /// Its address space, if it belongs to one.
    pcid: Option<u16>,
    /// What is stale while it belongs to none.
    stale: Stale,
    /// Pages of the supervisor that are cached but not global; where halves are told apart, those of the lower half.
    local: LocalPages,
    /// When it was last switched to.
    switched: u64,
    /// What was used of each set.
    used: [Used; SETS],
    /// Numbers of the pages of code that each set knows.
    code_pages: [Vec<u16>; SETS],
}

/// The translations of one vCPU.
#[derive(Debug)]
pub struct Tlb {
    windows: Arc<Windows>,
    /// Where each set lies in a bank.
    places: [usize; SETS],
    banks: [BankState; BANKS],
    fetches: Vec<[Fetches; 2]>,
    /// Where each host page may be written through: at least the write translations of all banks.
    writers: Writers,
    /// What generated code reaches without a probe.
    views: Views,
    /// 4 MiB regions, by a hash of their number, in which parts of 2 or 4 MiB pages are cached.
    large: Box<[u64; LARGE_WORDS]>,
    /// The same for parts of 1 GiB pages.
    huge: Box<[u64; HUGE_WORDS]>,
    current: usize,
    switches: u64,
    /// The lower half of an address space may be flushed alone.
    halves: bool,
    /// How often translations were dropped.
    changes: u64,
}

/// Word and bit, in a filter of so many words, for the region of `1 << bits` bytes around an address.
fn filter_slot(linear: u64, bits: u32, words: usize) -> (usize, u64) {
    let hash = ((linear >> bits).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize;
    (hash >> 6 & (words - 1), 1 << (hash & 63))
}

fn large_slot(linear: u64) -> (usize, u64) {
    filter_slot(linear, 22, LARGE_WORDS)
}

fn huge_slot(linear: u64) -> (usize, u64) {
    filter_slot(linear, 30, HUGE_WORDS)
}

/// Whether an address is in the upper half.
fn is_upper(linear: u64) -> bool {
    linear >> 63 != 0
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
        Ok(Self::in_windows(Arc::new(Windows::new(0, BANK_WINDOW, BANKS)?)))
    }

    /// An empty TLB in the tails of `windows`, which must be [`BANKS`] of at least [`BANK_WINDOW`] bytes, all zero,
    /// and used by nothing else.
    pub fn in_windows(windows: Arc<Windows>) -> Self {
        let mut tlb = Self {
            windows,
            places: std::array::from_fn(|set| set),
            banks: Default::default(),
            fetches: (0..BANKS).map(|_| [Fetches::new(), Fetches::new()]).collect(),
            writers: Writers::default(),
            views: Views::default(),
            large: Box::new([0; LARGE_WORDS]),
            huge: Box::new([0; HUGE_WORDS]),
            current: 0,
            switches: 0,
            halves: false,
            changes: 0,
        };
        for bank in 0..BANKS {
            for set in &mut tlb.bank_mut(bank).sets {
                set.code_pages.fill(bank::NO_PAGE);
                // Zero is an empty entry everywhere else.
                for cache in Cache::ALL {
                    for level in set.levels_mut(cache) {
                        for (slot, entry) in level.iter_mut().take(Cache::ZEROS).enumerate() {
                            *entry = Entry { key: Cache::no_key(slot), value: 0 };
                        }
                    }
                }
            }
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

    fn set(&self, bank: usize, set: usize) -> &Set {
        &self.bank(bank).sets[self.places[set]]
    }

    fn set_mut(&mut self, bank: usize, set: usize) -> &mut Set {
        let place = self.places[set];
        &mut self.bank_mut(bank).sets[place]
    }

    /// Where a set lies in a bank.
    pub fn place(&self, set: usize) -> usize {
        self.places[set]
    }

    /// Empties the TLB and lets the set of user accesses lie first in banks, before that of the supervisor: generated code
    /// probes with short displacements what lies there.
    pub fn put_user_first(&mut self) {
        for bank in 0..BANKS {
            self.clear(bank);
        }
        self.flush_all();
        self.places[Self::USER] = 0;
        self.places[Self::SUPERVISOR] = 1;
    }

    /// The number of the bank in use.
    #[inline(always)]
    pub fn current_bank(&self) -> usize {
        self.current
    }

    /// The host address that `linear` reads from.
    #[inline(always)]
    pub fn lookup_read(&self, set: usize, linear: u64) -> Option<usize> {
        let place = *self.places.get(set)?;
        let entry = &self.bank(self.current).sets[place].pages[bank::read_slot(set, linear)];
        if entry.key == linear & !0xfff {
            return Some(entry.value + (linear & 0xfff) as usize);
        }
        self.lookup_second(set, Cache::Read, linear)
    }

    /// The host address that `linear` writes to.
    #[inline(always)]
    pub fn lookup_write(&self, set: usize, linear: u64) -> Option<usize> {
        let place = *self.places.get(set)?;
        let entry = &self.bank(self.current).sets[place].pages[bank::write_slot(set, linear)];
        if entry.key == linear & !0xfff {
            return Some(entry.value + (linear & 0xfff) as usize);
        }
        self.lookup_second(set, Cache::Write, linear)
    }

    fn lookup_second(&self, set: usize, cache: Cache, linear: u64) -> Option<usize> {
        let [_, second] = self.set(self.current, set).levels(cache);
        let entry = second[bank::second_slot(set, linear)];
        (entry.key == linear & !0xfff).then(|| entry.value + (linear & 0xfff) as usize)
    }

    /// Whether `linear` is cached for reads (`write` false) or writes; if so it is in the first level
    /// afterwards, which is where generated code looks that cannot look into the second.
    pub fn bring_forward(&mut self, set: usize, write: bool, linear: u64) -> bool {
        let (cache, host) = match write {
            true => (Cache::Write, self.lookup_write(set, linear)),
            false => (Cache::Read, self.lookup_read(set, linear)),
        };
        let Some(host) = host else { return false };
        self.enter(set, cache, Entry { key: linear & !0xfff, value: host & !0xfff });
        true
    }

    #[inline(always)]
    pub(crate) fn lookup_fetch(&mut self, user: bool, linear: u64) -> Option<FetchEntry> {
        self.fetches[self.current][usize::from(user)].get(linear)
    }

    /// Like [`Tlb::lookup_fetch`], for a look only.
    pub(crate) fn peek_fetch(&self, user: bool, linear: u64) -> Option<FetchEntry> {
        self.fetches[self.current][usize::from(user)].peek(linear)
    }

    /// The guest-physical page, host page and RAM page number that `linear` is fetched from, if
    /// cached.
    pub fn fetched_from(&self, user: bool, linear: u64) -> Option<(u64, usize, usize)> {
        let entry = self.peek_fetch(user, linear)?;
        Some((entry.gpa_page, entry.host_page, entry.ram_page))
    }

    /// Adds a translation for reads (`write` false) or writes.
    pub(crate) fn insert(
        &mut self,
        set: usize,
        write: bool,
        global: bool,
        linear: u64,
        host_page: usize,
    ) {
        self.note_local(set == Self::SUPERVISOR && !global, linear);
        if write {
            self.note_writer(set, linear, host_page);
        }
        let cache = if write { Cache::Write } else { Cache::Read };
        self.enter(set, cache, Entry { key: linear & !0xfff, value: host_page });
    }

    /// Lists a page that is about to be cached if it goes before others of its bank; `local` says whether it
    /// is one of the supervisor that is not global.
    fn note_local(&mut self, local: bool, linear: u64) {
        let listed = if self.halves { !is_upper(linear) } else { local };
        if listed {
            self.banks[self.current].local.add(linear & !0xfff);
        }
    }

    /// Notes that a host page may be written through `linear` in the current bank.
    fn note_writer(&mut self, set: usize, linear: u64, host_page: usize) {
        if set >= SETS {
            return;
        }
        if self.writers.are_full() {
            self.protect_all();
        }
        let mut writers = std::mem::take(&mut self.writers);
        let place = Place::new(linear, self.current, set);
        writers.add(host_page, place, |place| self.is_writer(place, host_page));
        self.writers = writers;
    }

    /// Whether a host page is cached as writable at a place.
    fn is_writer(&self, place: Place, host_page: usize) -> bool {
        place.caches().any(|(bank, set)| {
            let slots = Cache::Write.slots(set, place.page());
            if set == Self::USER && self.views.is_writable(bank, place.page(), host_page) {
                return true;
            }
            let levels = self.set(bank, set).levels(Cache::Write);
            let mut entries = levels.into_iter().zip(slots).map(|(level, slot)| level[slot]);
            entries.any(|entry| entry.key == place.page() && entry.value == host_page)
        })
    }

    /// Puts an entry into both levels of a cache of the current bank.
    ///
    /// Generated code relies on it: it copies entries from the second level to the first, whose slot
    /// must be in the list of those that were used.
    fn enter(&mut self, set: usize, cache: Cache, entry: Entry) {
        if set >= SETS {
            return;
        }
        let current = self.current;
        for (level, slot) in cache.slots(set, entry.key).into_iter().enumerate() {
            if cache == Cache::Jumps && (level, slot) == (0, 0) {
                // It is barred: see `bar_jumps`.
                continue;
            }
            let place = &mut self.set_mut(current, set).levels_mut(cache)[level][slot];
            if std::mem::replace(place, entry).value == 0 {
                self.banks[current].used[set][cache as usize][level].push(slot as u16);
            }
        }
    }

    pub(crate) fn insert_fetch(
        &mut self,
        user: bool,
        global: bool,
        linear: u64,
        gpa_page: u64,
        host_page: usize,
        ram_page: usize,
    ) {
        let current = self.current;
        self.note_local(!user && !global, linear);
        if self.fetches[current][usize::from(user)].is_full() {
            self.fetches[current][usize::from(user)].clear();
            self.clear_jumps_of(current, user);
        }
        let entry = FetchEntry { gpa_page, host_page, ram_page };
        self.fetches[current][usize::from(user)].insert(linear, entry);
    }

    /// The sets of one privilege.
    fn sets_of(user: bool) -> &'static [usize] {
        if user { &[Self::USER] } else { &[Self::SUPERVISOR, Self::SUPERVISOR_AC] }
    }

    /// Notes that a part of a page larger than 4 KiB is cached.
    pub(crate) fn note_large_page(&mut self, linear: u64, page_bits: u32) {
        if page_bits > 22 {
            let (word, bit) = huge_slot(linear);
            self.huge[word] |= bit;
            return;
        }
        let (word, bit) = large_slot(linear);
        self.large[word] |= bit;
    }

    /// Switches to `pcid`, keeping what is cached of it.
    pub fn switch(&mut self, pcid: u16) {
        let pcid = pcid & 0xfff;
        self.switches += 1;
        let bank = match self.banks.iter().position(|bank| bank.pcid == Some(pcid)) {
            Some(bank) => bank,
            None => {
                let oldest = (0..BANKS)
                    .min_by_key(|&bank| {
                        (self.banks[bank].pcid.is_some(), self.banks[bank].switched)
                    })
                    .unwrap_or(0);
                let state = &self.banks[oldest];
                if state.pcid.is_none() && state.stale == Stale::All {
                    self.clear(oldest);
                } else {
                    self.clear_local(oldest);
                }
                self.banks[oldest].pcid = Some(pcid);
                oldest
            }
        };
        self.banks[bank].switched = self.switches;
        self.current = bank;
    }
}

#[cfg(test)]
mod tests;
