//! Where in guest code there are blocks, by page.

use crate::far::NO_PAGE;
use crate::key::{Key, Map, Place};
use crate::numbers::PageNumbers;
use hashbrown::HashTable;

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
    /// The key of what begins with the page.
    pub(crate) key: Key,
    /// The linear address of the page is part of the code.
    pub(crate) absolute: bool,
    /// Its number, if it has one: see [`crate::far`].
    code_page: u16,
    /// The pages of guest RAM whose changes matter.
    pages: [usize; 2],
    /// What is known of places in the page, by offset: see [`pack`].
    places: Vec<u32>,
}

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
    const NO_PAGE: usize = usize::MAX;

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
    /// Numbers of its variants.
    variants: Vec<u32>,
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
#[derive(Debug, Default)]
pub(crate) struct Directory {
    variants: Vec<Variant>,
    /// Numbers of these, found by their keys.
    numbers: HashTable<u32>,
    pages: Map<usize, Page>,
    /// For how many places there is room in all of them.
    room: usize,
}

impl Directory {
    /// What is known of the place that a key names.
    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<Place> {
        let variant = &self.variants[self.number(key.of_page())? as usize];
        let index = variant.search(key.offset()).ok()?;
        Some(unpack(variant.places[index]))
    }

    fn number(&self, key: Key) -> Option<u32> {
        self.numbers.find(key.hash(), |&number| self.variants[number as usize].key == key).copied()
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
        let page = size_of::<(usize, Page)>() + 1 + 2 * size_of::<u32>();
        size_of_val(&self.variants[..])
            + self.numbers.allocation_size()
            + self.pages.capacity() * page
            + self.room * size_of::<u32>()
    }

    /// Notes what is known of the place that a key names, until one of these pages of guest RAM, with the version that it
    /// is known of, changes. Returns the number of the variant that it
    /// belongs to.
    pub(crate) fn insert(
        &mut self,
        key: Key,
        absolute: bool,
        pages: &[(usize, u32)],
        place: Place,
        page_numbers: &mut PageNumbers,
    ) -> u32 {
        let of_page = key.of_page();
        let number = self.number(of_page).unwrap_or_else(|| self.add(of_page, absolute));
        let variant = &mut self.variants[number as usize];
        let before = variant.places.capacity();
        match variant.search(key.offset()) {
            Ok(index) => variant.places[index] = pack(key.offset(), place),
            Err(index) => {
                if variant.places.len() == before {
                    variant.places.reserve_exact(2 + before / 2);
                }
                variant.places.insert(index, pack(key.offset(), place));
            }
        }
        self.room += variant.places.capacity() - before;
        if variant.code_page == NO_PAGE
            && key.tail == 0
            && key.groups
            && matches!(place, Place::Block(_))
        {
            variant.code_page = page_numbers.take(key.set());
        }
        for (known, &(ram_page, version)) in variant.pages.iter_mut().zip(pages) {
            if *known != ram_page {
                *known = ram_page;
                let page = self.pages.entry(ram_page);
                page.or_insert_with(|| Page { version, variants: Vec::new() })
                    .variants
                    .push(number);
            }
        }
        number
    }

    fn add(&mut self, key: Key, absolute: bool) -> u32 {
        let number = self.variants.len() as u32;
        let pages = [Variant::NO_PAGE; 2];
        self.variants.push(Variant {
            key,
            absolute,
            code_page: NO_PAGE,
            pages,
            places: Vec::new(),
        });
        let variants = &self.variants;
        let hash = |&number: &u32| variants[number as usize].key.hash();
        self.numbers.insert_unique(key.hash(), number, hash);
        number
    }

    /// Forgets what is known of a page.
    pub(crate) fn remove(&mut self, ram_page: usize) -> Dropped {
        let mut dropped = Dropped::default();
        let page = self.pages.remove(&ram_page);
        for number in page.map(|page| page.variants).unwrap_or_default() {
            let variant = &mut self.variants[number as usize];
            for known in &mut variant.pages {
                if *known == ram_page {
                    *known = Variant::NO_PAGE;
                }
            }
            let places = std::mem::take(&mut variant.places);
            self.room -= places.capacity();
            dropped.blocks.extend(places.into_iter().filter_map(|packed| match unpack(packed) {
                Place::Block(block) => Some(block),
                _ => None,
            }));
            let code_page = std::mem::replace(&mut variant.code_page, NO_PAGE);
            if code_page != NO_PAGE {
                dropped.numbers.push((variant.key.set(), code_page));
            }
        }
        dropped
    }

    /// The pages whose code version is not `version` of them any more.
    pub(crate) fn changed_pages(&self, version: impl Fn(usize) -> u32) -> Vec<usize> {
        self.pages
            .iter()
            .filter(|&(&ram_page, page)| version(ram_page) != page.version)
            .map(|(&ram_page, _)| ram_page)
            .collect()
    }

    /// Whether what is known of the page is of another version.
    pub(crate) fn is_outdated(&self, ram_page: usize, version: u32) -> bool {
        self.pages.get(&ram_page).is_some_and(|page| page.version != version)
    }
}
