//! Cached translations.
//!
//! Direct-mapped sets, one for reads, writes and fetches in each kind of access. A tag holds the
//! page's linear address and, in its low 12 bits, an *address-space number*: a new number for a
//! process-context identifier makes all its entries stale at once, so flushing is cheap. Global
//! pages are tagged like others; whoever flushes them flushes everything.

/// Translations per set.
const ENTRIES: usize = 512;
/// Words of the filter of large pages.
const LARGE_WORDS: usize = 64;
/// An address that no page has.
const INVALID: u64 = u64::MAX;
/// The highest address-space number; past it everything is flushed and counting starts anew.
const LAST_NUMBER: u16 = 0xffe;

#[derive(Debug, Clone, Copy)]
struct Entry {
    tag: u64,
    /// Host address minus linear address.
    delta: usize,
}

/// A fetch translation: also says which guest-physical page it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchEntry {
    tag: u64,
    pub(crate) gpa_page: u64,
    pub(crate) host_page: usize,
    pub(crate) ram_page: usize,
}

const EMPTY: Entry = Entry { tag: INVALID, delta: 0 };
const EMPTY_FETCH: FetchEntry = FetchEntry { tag: INVALID, gpa_page: 0, host_page: 0, ram_page: 0 };

/// The translations of one vCPU.
#[derive(Debug)]
pub struct Tlb {
    read: [[Entry; ENTRIES]; 4],
    write: [[Entry; ENTRIES]; 4],
    fetch: [[FetchEntry; ENTRIES]; 2],
    /// 1 GiB regions, by a hash of their number, in which parts of larger pages are cached.
    large: Box<[u64; LARGE_WORDS]>,
    /// Address-space number in use, ready to be or-ed into a tag.
    number: u64,
    /// Address-space number of each process-context identifier; zero if it has none yet.
    numbers: Box<[u16; 4096]>,
    last_number: u16,
    pcid: u16,
}

impl Default for Tlb {
    fn default() -> Self {
        Self {
            read: [[EMPTY; ENTRIES]; 4],
            write: [[EMPTY; ENTRIES]; 4],
            fetch: [[EMPTY_FETCH; ENTRIES]; 2],
            large: Box::new([0; LARGE_WORDS]),
            number: 1,
            numbers: Box::new([0; 4096]),
            last_number: 1,
            pcid: 0,
        }
    }
}

/// Word and bit of the filter of large pages: by 1 GiB region, the largest page there is.
fn large_slot(linear: u64) -> (usize, u64) {
    let region = (linear >> 30) as usize;
    (region & (LARGE_WORDS - 1), 1 << (region >> 6 & 63))
}

#[inline(always)]
fn slot(linear: u64) -> usize {
    (linear >> 12) as usize & (ENTRIES - 1)
}

impl Tlb {
    /// Set of supervisor accesses; with SMAP, user pages are not in it.
    pub const SUPERVISOR: usize = 0;
    /// Set of user accesses.
    pub const USER: usize = 1;
    /// Set of supervisor accesses while RFLAGS.AC lifts SMAP.
    pub const SUPERVISOR_AC: usize = 2;
    /// Set of user accesses with alignment checks: always empty, so that each one is looked at.
    pub const USER_ALIGNED: usize = 3;

    #[inline(always)]
    fn tag(&self, linear: u64) -> u64 {
        linear & !0xfff | self.number
    }

    /// The host address that `linear` reads from.
    #[inline(always)]
    pub fn lookup_read(&self, set: usize, linear: u64) -> Option<usize> {
        let entry = &self.read[set & 3][slot(linear)];
        (entry.tag == self.tag(linear)).then(|| (linear as usize).wrapping_add(entry.delta))
    }

    /// The host address that `linear` writes to.
    #[inline(always)]
    pub fn lookup_write(&self, set: usize, linear: u64) -> Option<usize> {
        let entry = &self.write[set & 3][slot(linear)];
        (entry.tag == self.tag(linear)).then(|| (linear as usize).wrapping_add(entry.delta))
    }

    #[inline(always)]
    pub(crate) fn lookup_fetch(&self, user: bool, linear: u64) -> Option<&FetchEntry> {
        let entry = &self.fetch[usize::from(user)][slot(linear)];
        (entry.tag == self.tag(linear)).then_some(entry)
    }

    /// Adds a translation for reads (`write` false) or writes.
    pub(crate) fn insert(&mut self, set: usize, write: bool, linear: u64, host_page: usize) {
        if set == Self::USER_ALIGNED {
            return;
        }
        let entry = Entry {
            tag: self.tag(linear),
            delta: host_page.wrapping_sub((linear & !0xfff) as usize),
        };
        let sets = if write { &mut self.write } else { &mut self.read };
        sets[set & 3][slot(linear)] = entry;
    }

    pub(crate) fn insert_fetch(
        &mut self,
        user: bool,
        linear: u64,
        gpa_page: u64,
        host_page: usize,
        ram_page: usize,
    ) -> FetchEntry {
        let entry = FetchEntry { tag: self.tag(linear), gpa_page, host_page, ram_page };
        self.fetch[usize::from(user)][slot(linear)] = entry;
        entry
    }

    /// Drops the write translations of a host page: writes to it must be looked at from now on.
    pub fn protect_host_page(&mut self, host_page: usize) {
        for set in &mut self.write {
            for entry in set {
                let page = ((entry.tag & !0xfff) as usize).wrapping_add(entry.delta);
                if page == host_page {
                    *entry = EMPTY;
                }
            }
        }
    }

    /// Drops all write translations.
    pub fn protect_all(&mut self) {
        self.write = [[EMPTY; ENTRIES]; 4];
    }

    /// Drops every translation of every address space.
    pub fn flush_all(&mut self) {
        self.read = [[EMPTY; ENTRIES]; 4];
        self.write = [[EMPTY; ENTRIES]; 4];
        self.fetch = [[EMPTY_FETCH; ENTRIES]; 2];
        self.large.fill(0);
        self.numbers.fill(0);
        self.last_number = 0;
        self.renumber(self.pcid);
    }

    /// Drops the translations of the page of `linear`, in all address spaces.
    pub fn flush_page(&mut self, linear: u64) {
        let (word, bit) = large_slot(linear);
        if self.large[word] & bit != 0 {
            // The page may be a large one, cached in many parts.
            self.flush_all();
            return;
        }
        let slot = slot(linear);
        for set in self.read.iter_mut().chain(&mut self.write) {
            set[slot] = EMPTY;
        }
        for set in &mut self.fetch {
            set[slot] = EMPTY_FETCH;
        }
    }

    /// Notes that a part of a page larger than 4 KiB is cached.
    pub(crate) fn note_large_page(&mut self, linear: u64) {
        let (word, bit) = large_slot(linear);
        self.large[word] |= bit;
    }

    /// Drops the translations of one process-context identifier.
    pub fn flush_pcid(&mut self, pcid: u16) {
        self.numbers[usize::from(pcid & 0xfff)] = 0;
        if pcid == self.pcid {
            self.renumber(pcid);
        }
    }

    /// Switches to `pcid`, keeping what is cached of it.
    pub fn switch(&mut self, pcid: u16) {
        let pcid = pcid & 0xfff;
        self.pcid = pcid;
        match self.numbers[usize::from(pcid)] {
            0 => self.renumber(pcid),
            number => self.number = u64::from(number),
        }
    }

    fn renumber(&mut self, pcid: u16) {
        if self.last_number == LAST_NUMBER {
            // `flush_all` renumbers the current identifier.
            self.pcid = pcid;
            self.flush_all();
            return;
        }
        self.last_number += 1;
        self.numbers[usize::from(pcid)] = self.last_number;
        self.number = u64::from(self.last_number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_spaces_do_not_see_each_other() {
        let mut tlb = Box::<Tlb>::default();
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
    fn numbers_wrap_without_reviving_old_entries() {
        let mut tlb = Box::<Tlb>::default();
        tlb.switch(5);
        tlb.insert(Tlb::SUPERVISOR, true, 0x5000, 0x1000);
        for _ in 0..10_000 {
            tlb.flush_pcid(5);
            assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x5000), None);
        }
    }

    #[test]
    fn protecting_a_page_leaves_reads() {
        let mut tlb = Box::<Tlb>::default();
        tlb.insert(Tlb::SUPERVISOR, true, 0x5000, 0x1000);
        tlb.insert(Tlb::SUPERVISOR, false, 0x5000, 0x1000);
        tlb.protect_host_page(0x1000);
        assert_eq!(tlb.lookup_write(Tlb::SUPERVISOR, 0x5000), None);
        assert!(tlb.lookup_read(Tlb::SUPERVISOR, 0x5000).is_some());
    }
}
