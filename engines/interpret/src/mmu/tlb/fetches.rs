//! Translations of fetches: which guest-physical page code comes from.

use rustc_hash::FxHashMap;

/// Slots of the direct-mapped front.
const FRONT: usize = 512;
/// Most pages before everything is dropped.
const MOST: usize = 8192;
/// A page number that no page has.
const NO_PAGE: u64 = u64::MAX;

/// A fetch translation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FetchEntry {
    pub(crate) gpa_page: u64,
    pub(crate) host_page: usize,
    pub(crate) ram_page: usize,
}

/// Fetch translations of one bank and privilege.
///
/// Nothing is evicted for another page's sake: cached jumps go with their page's translation, and
/// finding them is expensive.
#[derive(Debug)]
pub(super) struct Fetches {
    front: Box<[(u64, FetchEntry)]>,
    /// Also says whether jumps to code of the page may be cached.
    pages: FxHashMap<u64, (FetchEntry, bool)>,
}

#[inline(always)]
fn slot(page: u64) -> usize {
    let number = page >> 12;
    (number ^ number >> 9 ^ number >> 18) as usize & (FRONT - 1)
}

impl Fetches {
    pub(super) fn new() -> Self {
        Self {
            front: vec![(NO_PAGE, FetchEntry::default()); FRONT].into(),
            pages: FxHashMap::default(),
        }
    }

    /// The translation of the page of `linear`.
    #[inline(always)]
    pub(super) fn get(&mut self, linear: u64) -> Option<FetchEntry> {
        let page = linear & !0xfff;
        let (known, entry) = self.front[slot(page)];
        if known == page { Some(entry) } else { self.get_slowly(page) }
    }

    fn get_slowly(&mut self, page: u64) -> Option<FetchEntry> {
        let (entry, _) = *self.pages.get(&page)?;
        self.front[slot(page)] = (page, entry);
        Some(entry)
    }

    /// The translation of the page of `linear`, for a look only.
    pub(super) fn peek(&self, linear: u64) -> Option<FetchEntry> {
        self.pages.get(&(linear & !0xfff)).map(|&(entry, _)| entry)
    }

    /// Whether there is no room for another page.
    pub(super) fn is_full(&self) -> bool {
        self.pages.len() >= MOST
    }

    pub(super) fn insert(&mut self, linear: u64, entry: FetchEntry) {
        let page = linear & !0xfff;
        self.front[slot(page)] = (page, entry);
        self.pages.insert(page, (entry, false));
    }

    /// Notes that jumps to code of the page of `linear` are cached; `false` if the page is not known.
    pub(super) fn note_jumps(&mut self, linear: u64) -> bool {
        match self.pages.get_mut(&(linear & !0xfff)) {
            Some((_, jumps)) => {
                *jumps = true;
                true
            }
            None => false,
        }
    }

    /// Drops a page; returns whether jumps to its code may be cached.
    pub(super) fn remove(&mut self, page: u64) -> bool {
        if self.pages.is_empty() {
            return false;
        }
        let front = &mut self.front[slot(page)];
        if front.0 == page {
            front.0 = NO_PAGE;
        }
        self.pages.remove(&page).is_some_and(|(_, jumps)| jumps)
    }

    /// Drops the pages that `keep` does not hold of; jumps to their code are the caller's.
    pub(super) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.pages.retain(|&page, _| keep(page));
        for front in self.front.iter_mut().filter(|front| !keep(front.0)) {
            *front = (NO_PAGE, FetchEntry::default());
        }
    }

    pub(super) fn clear(&mut self) {
        if !self.pages.is_empty() {
            self.pages.clear();
            self.front.fill((NO_PAGE, FetchEntry::default()));
        }
    }
}
