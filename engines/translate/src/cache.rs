//! Translated blocks: finding them, and dropping those whose code changed.

use crate::build::{Built, Mapped};
use crate::emit::relative;
use crate::far::NO_PAGE;
use crate::numbers::PageNumbers;
use crate::site::Sites;
use crate::views::{ViewSite, ViewState};
use ambos_hostcode::Arena;
use hashbrown::HashTable;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::num::NonZeroI32;
use std::ops::Range;

/// Most places without a block that are remembered.
const MAX_OTHERS: usize = 1 << 14;

/// UD2.
const TRAP: [u8; 2] = [0x0f, 0x0b];

/// What identifies a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Guest-physical address of the first byte.
    pub(crate) gpa: u64,
    /// Linear address of the page, where it is part of the code.
    pub(crate) linear_page: u64,
    /// The mode that the code was translated for.
    pub(crate) mode: u32,
    /// Guest-physical address, plus one, of the page in which the instruction ends, if that is another
    /// one; else zero.
    pub(crate) tail: u64,
    /// Its memory operands may share probes.
    pub(crate) groups: bool,
}

/// The set of the TLB that code of a mode finds its operands in.
fn set_of(mode: u32) -> usize {
    (mode & 3) as usize
}

impl Key {
    fn set(&self) -> usize {
        set_of(self.mode)
    }

    /// A hash with all bits spread.
    pub(crate) fn hash(&self) -> u64 {
        let mut hasher = FoldHasher::default();
        Hash::hash(self, &mut hasher);
        hasher.finish()
    }
}

/// Multiplies and folds: keys are few words of well-spread addresses.
#[derive(Debug, Default)]
pub(crate) struct FoldHasher(u64);

impl Hasher for FoldHasher {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<FoldHasher>>;

/// What is known of a place in guest code.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// Translated, as this block.
    Block(u32),
    /// Its first instruction ends in the next page: blocks are found by both pages.
    Straddles,
    /// Cannot be translated.
    Never,
}

/// A translated block. There are many: addresses are kept as distances from the first.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) key: Key,
    /// Address of the first host byte, which is the entry from anywhere, with the linear address in
    /// R10 and the flags in memory.
    pub(crate) start: u64,
    /// Host bytes on the straight path.
    length: u32,
    arrived: i32,
    far: i32,
    polling: Option<NonZeroI32>,
    body: i32,
    /// The first of its sites, and of its places in the map, and how many these are.
    first_site: u32,
    sites: u32,
    first_mapped: u32,
    mapped: u32,
    live_after: Option<u8>,
    /// What enters it must leave the flags as they are.
    pub(crate) needs_flags: bool,
    /// The straight path has the flags in memory: what enters from the same page saves them first.
    saves_flags: bool,
    /// The number of its page, if it has one.
    code_page: u16,
    /// The linear address of its page is part of the code.
    absolute: bool,
    /// The guest code changed.
    pub(crate) stale: bool,
}

impl Block {
    fn at(&self, distance: i32) -> u64 {
        self.start.wrapping_add_signed(i64::from(distance))
    }

    /// Address of the byte after the last.
    pub(crate) fn end(&self) -> u64 {
        self.start + u64::from(self.length)
    }

    /// Entry from another page, with the flags in memory.
    pub(crate) fn far(&self) -> u64 {
        self.at(self.far)
    }

    /// The number of its page.
    pub(crate) fn code_page(&self) -> Option<u16> {
        (self.code_page != NO_PAGE).then_some(self.code_page)
    }

    /// The set of the TLB that it belongs to.
    pub(crate) fn set(&self) -> usize {
        self.key.set()
    }

    /// Entry from a later place in the same page, if it has been made: looks whether something wants attention.
    pub(crate) fn polling(&self) -> Option<u64> {
        Some(self.at(self.polling?.get()))
    }

    /// Notes that entry, which is not the block's first byte.
    pub(crate) fn set_polling(&mut self, address: u64) {
        self.polling = NonZeroI32::new(address.wrapping_sub(self.start) as i32);
    }

    /// Entry from an earlier place in the same page.
    pub(crate) fn body(&self) -> u64 {
        self.at(self.body)
    }

    /// Where the first instruction begins, with the flags in memory or in the host's.
    fn first(&self) -> u64 {
        if self.saves_flags { self.far() } else { self.body() }
    }

    /// Whether the host address `pc` is where the block is entered, so that it traps there when it is stale: then, whether
    /// the flags are in memory.
    pub(crate) fn traps_at(&self, pc: u64) -> Option<bool> {
        match pc {
            _ if !self.stale => None,
            _ if pc == self.first() => Some(self.saves_flags),
            _ if pc == self.at(self.arrived) => Some(true),
            _ => None,
        }
    }

    /// Linear address of the page, where it is part of the code.
    pub(crate) fn linear_page(&self) -> Option<u64> {
        self.absolute.then_some(self.key.linear_page)
    }

    fn sites(&self) -> Range<usize> {
        self.first_site as usize..(self.first_site + self.sites) as usize
    }
}

/// The blocks of one guest page.
#[derive(Debug)]
struct Page {
    version: u32,
    blocks: Vec<u32>,
    /// Places that are known otherwise.
    places: Vec<Key>,
    /// Its numbers, by linear address (where that is part of the code) and mode.
    numbers: Vec<(u64, u32, u16)>,
}

impl Page {
    fn new(version: u32) -> Self {
        Self { version, blocks: Vec::new(), places: Vec::new(), numbers: Vec::new() }
    }

    /// The page's number for code like that of `key`, if one is left.
    fn number(&mut self, key: Key, numbers: &mut PageNumbers) -> u16 {
        let known = |&&(linear, mode, _): &&_| (linear, mode) == (key.linear_page, key.mode);
        if let Some(&(_, _, number)) = self.numbers.iter().find(known) {
            return number;
        }
        let number = numbers.take(key.set());
        if number != NO_PAGE {
            self.numbers.push((key.linear_page, key.mode, number));
        }
        number
    }
}

/// All blocks of one vCPU.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// Numbers of current blocks, found by their keys.
    current: HashTable<u32>,
    /// What is known of places without a block.
    others: Map<Key, Place>,
    pub(crate) blocks: Vec<Block>,
    /// Where the instructions of all blocks are.
    map: Vec<Mapped>,
    pub(crate) sites: Sites,
    /// Accesses to what is seen, by address; that of the code cache.
    views: Vec<ViewSite>,
    base: u64,
    pages: Map<usize, Page>,
    pub(crate) numbers: PageNumbers,
}

impl Cache {
    /// No blocks, in a code cache at `base`.
    pub(crate) fn new(base: u64) -> Self {
        Self { sites: Sites::new(base), base, ..Self::default() }
    }

    /// What is known of `key`.
    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<Place> {
        let found = self.current.find(key.hash(), |&block| self.blocks[block as usize].key == key);
        match found {
            Some(&block) => Some(Place::Block(block)),
            None => self.others.get(&key).copied(),
        }
    }

    /// The places of a block's instructions.
    fn map(&self, block: u32) -> &[Mapped] {
        let Block { first_mapped, mapped, .. } = self.blocks[block as usize];
        self.map.get(first_mapped as usize..(first_mapped + mapped) as usize).unwrap_or_default()
    }

    /// Offsets in their page of a block's guest instructions.
    pub(crate) fn guest_offsets(&self, block: u32) -> impl Iterator<Item = u16> + '_ {
        self.map(block).iter().map(|mapped| mapped.guest)
    }

    /// Offset in the page of a block's instruction before the one at `offset`.
    pub(crate) fn offset_before(&self, block: u32, offset: u16) -> Option<u16> {
        let map = self.map(block);
        let index = map.iter().position(|mapped| mapped.guest == offset)?;
        Some(map.get(index.checked_sub(1)?)?.guest)
    }

    /// Flags needed after the first `count` instructions of a block, as far as it was translated with more
    /// in view.
    pub(crate) fn live_after(&self, block: u32, count: usize) -> Option<u8> {
        match self.map(block).get(count) {
            Some(next) => Some(next.live),
            None => self.blocks[block as usize].live_after,
        }
    }

    /// Offset in its page of the guest instruction of a block that host address `pc` belongs to.
    pub(crate) fn guest_offset(&self, block: u32, pc: u64) -> Option<u16> {
        let map = self.map(block);
        let offset = u32::try_from(pc.checked_sub(self.blocks[block as usize].start)?).ok()?;
        let index = map.partition_point(|mapped| mapped.host <= offset);
        Some(map.get(index.checked_sub(1)?)?.guest)
    }

    /// Adds a block whose code lies at `start`; returns its number.
    pub(crate) fn add(
        &mut self,
        key: Key,
        absolute: bool,
        pages: &[(usize, u32)],
        start: u64,
        length: usize,
        built: Built,
    ) -> u32 {
        let number = self.blocks.len() as u32;
        let distance = |address: u64| address.wrapping_sub(start) as i32;
        self.blocks.push(Block {
            key,
            start,
            length: length as u32,
            arrived: distance(built.arrived),
            far: distance(built.far),
            polling: built.polling.and_then(|address| NonZeroI32::new(distance(address))),
            needs_flags: built.needs_flags,
            body: distance(built.body),
            saves_flags: built.saves_flags,
            first_site: self.sites.len() as u32,
            sites: built.sites.len() as u32,
            first_mapped: self.map.len() as u32,
            mapped: built.map.len() as u32,
            live_after: built.live_after,
            code_page: NO_PAGE,
            absolute,
            stale: false,
        });
        built.sites.into_iter().for_each(|site| self.sites.push(site));
        self.map.extend(built.map);
        self.views.extend(built.views);
        for &(ram_page, version) in pages {
            let page = self.pages.entry(ram_page).or_insert_with(|| Page::new(version));
            page.blocks.push(number);
            if key.tail == 0 && key.groups {
                let code_page = page.number(key, &mut self.numbers);
                self.blocks[number as usize].code_page = code_page;
            }
        }
        let blocks = &self.blocks;
        let same = |&block: &u32| blocks[block as usize].key == key;
        let hash = |&block: &u32| blocks[block as usize].key.hash();
        self.current.entry(key.hash(), same, hash).insert(number);
        number
    }

    /// Notes something else of a place of a page, until the page changes.
    pub(crate) fn add_place(&mut self, key: Key, page: (usize, u32), place: Place) {
        let (ram_page, version) = page;
        if self.others.len() >= MAX_OTHERS {
            // A guest may have any number of them.
            self.others.clear();
            for page in self.pages.values_mut() {
                page.places.clear();
            }
        }
        self.others.insert(key, place);
        self.pages.entry(ram_page).or_insert_with(|| Page::new(version)).places.push(key);
    }

    /// The block that host address `pc` belongs to.
    pub(crate) fn block_at(&self, pc: u64) -> Option<u32> {
        let index = self.blocks.partition_point(|block| block.start <= pc).checked_sub(1)?;
        (pc < self.blocks[index].end()).then_some(index as u32)
    }

    /// Where the guest's state is while the access at host address `pc` to what is seen runs; `None` if that is none.
    pub(crate) fn view_state(&self, pc: u64) -> Option<ViewState> {
        let code = u32::try_from(pc.checked_sub(self.base)?).ok()?;
        let index = self.views.binary_search_by_key(&code, |site| site.code).ok()?;
        Some(self.views.get(index)?.state)
    }

    /// Number of the site of the memory operand that goes on at `ready` with what the TLB has.
    pub(crate) fn operand_site(&self, ready: u64) -> Option<usize> {
        let block = &self.blocks[self.block_at(ready)? as usize];
        self.sites.operand_at(block.sites(), ready)
    }

    /// Drops the blocks of a page; returns how many, and the numbers that it had in which sets. Jumps to them
    /// from outside the page must be dropped as well. What comes to them from anywhere goes to `elsewhere`, with the linear
    /// address in R10 and the flags in memory; what comes from the page itself traps: that costs more, but is rare, and
    /// ways out of all blocks would be a tenth of the code.
    pub(crate) fn invalidate(
        &mut self,
        arena: &mut Arena,
        elsewhere: u64,
        ram_page: usize,
    ) -> (u64, impl Iterator<Item = (usize, u16)> + use<>) {
        let page = self.pages.remove(&ram_page).unwrap_or_else(|| Page::new(0));
        for key in &page.places {
            self.others.remove(key);
        }
        for &number in &page.blocks {
            let block = &mut self.blocks[number as usize];
            block.stale = true;
            if let Ok(entry) = self.current.find_entry(block.key.hash(), |&block| block == number) {
                entry.remove();
            }
            let arrived = block.at(block.arrived);
            let mut jump = [0xe9, 0, 0, 0, 0];
            jump[1..].copy_from_slice(&relative(arrived + 1, elsewhere));
            let ways = [
                (block.first(), &TRAP[..]),
                // Who comes from anywhere has the address in a register, unless that is part of the code.
                (arrived, if block.absolute { &TRAP[..] } else { &jump[..] }),
            ];
            for (entry, bytes) in ways {
                let patched = arena.patch(entry as usize, bytes);
                debug_assert!(patched, "a block lies in the arena");
            }
        }
        let numbers = page.numbers.into_iter();
        (page.blocks.len() as u64, numbers.map(|(_, mode, number)| (set_of(mode), number)))
    }

    /// The pages whose code version is not `version` of them any more.
    pub(crate) fn changed_pages(&self, version: impl Fn(usize) -> u32) -> Vec<usize> {
        self.pages
            .iter()
            .filter(|&(&ram_page, page)| version(ram_page) != page.version)
            .map(|(&ram_page, _)| ram_page)
            .collect()
    }

    /// Whether the page has blocks, or knowledge of places, from another version.
    pub(crate) fn is_outdated(&self, ram_page: usize, version: u32) -> bool {
        self.pages.get(&ram_page).is_some_and(|page| page.version != version)
    }

    /// Forgets everything. The code cache is at `base`.
    pub(crate) fn clear(&mut self, base: u64) {
        *self = Self::new(base);
    }
}
