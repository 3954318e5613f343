//! Where in guest code there are blocks, by page.

use crate::far::NO_PAGE;
use crate::key::{Key, Place};
use crate::numbers::PageNumbers;
use hashbrown::HashTable;
use rustc_hash::FxHashMap;
use std::cell::Cell;

/// Bits of numbers of blocks and of variants: there can be no more.
pub(crate) const NUMBER_BITS: u32 = 20;
/// In place of numbers of blocks: see [`Place`].
const STRADDLES: u32 = MOST_BLOCKS as u32;
const NEVER: u32 = STRADDLES + 1;
/// So many blocks can be told apart. Their code takes more than a quarter of a gigabyte.
pub(crate) const MOST_BLOCKS: usize = (1 << NUMBER_BITS) - 2;

/// The code of one page that was translated in one way: what its blocks have in common.
#[derive(Debug)]
pub(crate) struct Variant {
    /// Linear address of the page, where it is part of the code, and flags below that.
    linear: u64,
    ram_page: u32,
    mode: u32,
    tail: u32,
    /// Its number, if it has one: see [`crate::far`].
    code_page: u16,
    /// The next variants of both pages that it lies in: see [`Member`].
    next: [u32; 2],
    /// What is known of places in the page, by offset: see [`pack`].
    places: Box<[u32]>,
}

/// What one of several for each page costs.
const _: () = assert!(size_of::<Variant>() <= 48);

/// Bits of [`Variant::linear`].
const ABSOLUTE: u64 = 1;
const GROUPS: u64 = 2;

/// A variant among those of a page of guest RAM: twice its number, and one more in the page where an instruction ends.
type Member = u32;
/// There is no other; and the variant is not among them.
const LAST: Member = u32::MAX;
const APART: Member = LAST - 1;

/// A place that is known: its offset in the page, above the number of its block or what stands for it.
fn pack(offset: u16, place: Place) -> u32 {
    let number = match place {
        Place::Block(number) => number,
        Place::Straddles => STRADDLES,
        Place::Never => NEVER,
    };
    u32::from(offset) << NUMBER_BITS | number
}

fn unpack(packed: u32) -> Place {
    match packed & NEVER {
        STRADDLES => Place::Straddles,
        NEVER => Place::Never,
        number => Place::Block(number),
    }
}

impl Variant {
    fn new(key: Key) -> Self {
        let Key { linear_page, ram_page, mode, tail, absolute, groups, .. } = key;
        let flag = |flag, set| if set { flag } else { 0 };
        let linear = linear_page | flag(ABSOLUTE, absolute) | flag(GROUPS, groups);
        let (next, places) = ([APART; 2], Box::default());
        Self { linear, ram_page, mode, tail, code_page: NO_PAGE, next, places }
    }

    /// The key of what begins with the page.
    pub(crate) fn key(&self) -> Key {
        let &Self { linear, ram_page, mode, tail, .. } = self;
        let [absolute, groups] = [ABSOLUTE, GROUPS].map(|flag| linear & flag != 0);
        Key { linear_page: linear & !0xfff, ram_page, mode, tail, offset: 0, absolute, groups }
    }

    /// The pages in guest RAM.
    fn pages(&self) -> impl Iterator<Item = u32> + use<> {
        std::iter::once(self.ram_page).chain(self.tail.checked_sub(1))
    }

    fn search(&self, offset: u16) -> Result<usize, usize> {
        self.places.binary_search_by_key(&u32::from(offset), |packed| packed >> NUMBER_BITS)
    }

    /// The number of the page.
    pub(crate) fn code_page(&self) -> Option<u16> {
        (self.code_page != NO_PAGE).then_some(self.code_page)
    }
}

/// A page of guest RAM with code that was translated.
#[derive(Debug)]
struct Page {
    version: u32,
    first: Member,
}

/// What was dropped with a page.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    /// Numbers of blocks.
    pub(crate) blocks: Vec<u32>,
    /// Numbers of pages, with the set of the TLB that each is one of.
    pub(crate) numbers: Vec<(usize, u16)>,
}

/// All places of one vCPU.
#[derive(Debug)]
pub(crate) struct Directory {
    variants: Vec<Variant>,
    /// Numbers of these, found by their keys.
    numbers: HashTable<u32>,
    /// Those found last, by a hash of the key: whatever is looked for, its page was mostly looked into before, and the
    /// table takes a cache miss more.
    found: Box<[Cell<u32>; FOUND]>,
    pages: FxHashMap<u32, Page>,
    /// How many places there are in all of them.
    places: usize,
}

/// Variants that are remembered as found last.
const FOUND: usize = 1024;

impl Default for Directory {
    fn default() -> Self {
        Self {
            variants: Vec::new(),
            numbers: HashTable::new(),
            found: Box::new([const { Cell::new(0) }; FOUND]),
            pages: FxHashMap::default(),
            places: 0,
        }
    }
}

impl Directory {
    /// What is known of the place that a key names.
    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<Place> {
        let of_page = key.at(0);
        let hash = of_page.hash();
        let found = &self.found[hash as usize % FOUND];
        let variant = match self.variants.get(found.get() as usize) {
            Some(variant) if variant.key() == of_page => variant,
            _ => {
                let number = self.number_by(of_page, hash)?;
                found.set(number);
                &self.variants[number as usize]
            }
        };
        let index = variant.search(key.offset).ok()?;
        Some(unpack(variant.places[index]))
    }

    fn number(&self, key: Key) -> Option<u32> {
        self.number_by(key, key.hash())
    }

    /// The same with the key's hash.
    fn number_by(&self, key: Key, hash: u64) -> Option<u32> {
        let same = |&number: &u32| self.variants[number as usize].key() == key;
        self.numbers.find(hash, same).copied()
    }

    /// The variant with a number that [`Directory::insert`] returned.
    pub(crate) fn variant(&self, number: u32) -> &Variant {
        &self.variants[number as usize]
    }

    /// Whether there may be no numbers left for more.
    pub(crate) fn is_full(&self) -> bool {
        self.variants.len() >= MOST_BLOCKS
    }

    /// Bytes in use.
    pub(crate) fn size(&self) -> usize {
        size_of_val(&self.variants[..])
            + self.numbers.allocation_size()
            + size_of_val(&*self.found)
            + self.pages.capacity() * (size_of::<(u32, Page)>() + 1)
            + self.places * size_of::<u32>()
    }

    /// Notes what is known of the place that a key names, until one of its pages changes, of which these versions are
    /// known. Returns the number of the variant that it belongs to.
    pub(crate) fn insert(
        &mut self,
        key: Key,
        versions: &[u32],
        place: Place,
        page_numbers: &mut PageNumbers,
    ) -> u32 {
        let number = self.number(key.at(0)).unwrap_or_else(|| self.add(key.at(0)));
        let variant = &mut self.variants[number as usize];
        match variant.search(key.offset) {
            Ok(index) => variant.places[index] = pack(key.offset, place),
            Err(index) => {
                let mut places = std::mem::take(&mut variant.places).into_vec();
                places.reserve_exact(1);
                places.insert(index, pack(key.offset, place));
                variant.places = places.into();
                self.places += 1;
            }
        }
        let numbered = key.tail == 0 && key.groups && matches!(place, Place::Block(_));
        if numbered && variant.code_page == NO_PAGE {
            variant.code_page = page_numbers.take(key.set());
        }
        for (member, (ram_page, &version)) in variant.pages().zip(versions).enumerate() {
            if variant.next[member] == APART {
                let page = self.pages.entry(ram_page).or_insert(Page { version, first: LAST });
                variant.next[member] = page.first;
                page.first = number << 1 | member as u32;
            }
        }
        number
    }

    fn add(&mut self, key: Key) -> u32 {
        let number = self.variants.len() as u32;
        self.variants.push(Variant::new(key));
        let variants = &self.variants;
        let hash = |&number: &u32| variants[number as usize].key().hash();
        self.numbers.insert_unique(key.hash(), number, hash);
        number
    }

    /// Forgets what is known of a page.
    pub(crate) fn remove(&mut self, ram_page: u32) -> Dropped {
        let mut dropped = Dropped::default();
        let mut member = self.pages.remove(&ram_page).map_or(LAST, |page| page.first);
        while member != LAST {
            let variant = &mut self.variants[(member >> 1) as usize];
            member = std::mem::replace(&mut variant.next[(member & 1) as usize], APART);
            let places = std::mem::take(&mut variant.places);
            self.places -= places.len();
            dropped.blocks.extend(places.into_iter().filter_map(|packed| match unpack(packed) {
                Place::Block(block) => Some(block),
                _ => None,
            }));
            let code_page = std::mem::replace(&mut variant.code_page, NO_PAGE);
            if code_page != NO_PAGE {
                dropped.numbers.push((variant.key().set(), code_page));
            }
        }
        dropped
    }

    /// The pages whose code version is not `version` of them any more.
    pub(crate) fn changed_pages(&self, version: impl Fn(usize) -> u32) -> Vec<usize> {
        let changed =
            self.pages.iter().filter(|&(&page, known)| version(page as usize) != known.version);
        changed.map(|(&page, _)| page as usize).collect()
    }

    /// Whether what is known of the page is of another version.
    pub(crate) fn is_outdated(&self, ram_page: u32, version: u32) -> bool {
        self.pages.get(&ram_page).is_some_and(|page| page.version != version)
    }
}
