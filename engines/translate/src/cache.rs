//! Translated blocks: finding them, and dropping those whose code changed.

use crate::build::{Built, Mapped};
use crate::emit::relative;
use crate::site::Sites;
use ambos_hostcode::Arena;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Most places without a block that are remembered.
const MAX_OTHERS: usize = 1 << 14;

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

impl Key {
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

/// A translated block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) key: Key,
    /// Address of the first host byte and the byte after the last.
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Entry from anywhere, with the linear address in R10 and the flags in memory.
    pub(crate) external: u64,
    arrived: u64,
    /// Entry from a later place in the same page: looks whether something wants attention.
    pub(crate) polling: u64,
    /// Entry from an earlier place in the same page.
    pub(crate) body: u64,
    leave_near: u64,
    leave_far: u64,
    /// Linear address of the page, where it is part of the code.
    pub(crate) linear_page: Option<u64>,
    /// The guest code changed.
    pub(crate) stale: bool,
    /// Numbers of its sites.
    sites: std::ops::Range<usize>,
    map: Vec<Mapped>,
    live_after: Option<u8>,
}

impl Block {
    /// Offsets in their page of the block's guest instructions.
    pub(crate) fn guest_offsets(&self) -> impl Iterator<Item = u16> + '_ {
        self.map.iter().map(|mapped| mapped.guest)
    }

    /// Offset in the page of the instruction before the one at `offset`.
    pub(crate) fn offset_before(&self, offset: u16) -> Option<u16> {
        let index = self.map.iter().position(|mapped| mapped.guest == offset)?;
        Some(self.map.get(index.checked_sub(1)?)?.guest)
    }

    /// Flags needed after the first `count` instructions, as far as the block was translated with more
    /// in view.
    pub(crate) fn live_after(&self, count: usize) -> Option<u8> {
        match self.map.get(count) {
            Some(next) => Some(next.live),
            None => self.live_after,
        }
    }

    /// Offset in its page of the guest instruction that host address `pc` belongs to.
    pub(crate) fn guest_offset(&self, pc: u64) -> Option<u16> {
        let offset = u32::try_from(pc.checked_sub(self.start)?).ok()?;
        let index = self.map.partition_point(|mapped| mapped.host <= offset);
        Some(self.map.get(index.checked_sub(1)?)?.guest)
    }
}

/// The blocks of one guest page.
#[derive(Debug)]
struct Page {
    version: u32,
    blocks: Vec<u32>,
    /// Places that are known otherwise.
    places: Vec<Key>,
}

/// All blocks of one vCPU.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    places: Map<Key, Place>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) sites: Sites,
    pages: Map<usize, Page>,
}

impl Cache {
    /// No blocks, in a code cache at `base`.
    pub(crate) fn new(base: u64) -> Self {
        Self { sites: Sites::new(base), ..Self::default() }
    }

    /// What is known of `key`, whose page has code version `version`.
    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<Place> {
        self.places.get(&key).copied()
    }

    /// Notes something other than a block of a place.
    fn set(&mut self, key: Key, place: Place) {
        if self.places.len() > self.blocks.len() + MAX_OTHERS {
            // A guest may run through any number of places once.
            self.places.retain(|_, place| matches!(place, Place::Block(_)));
            for page in self.pages.values_mut() {
                page.places.clear();
            }
        }
        self.places.insert(key, place);
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
        self.blocks.push(Block {
            key,
            start,
            end: start + length as u64,
            external: built.external,
            arrived: built.arrived,
            polling: built.polling,
            body: built.body,
            leave_near: built.leave_near,
            leave_far: built.leave_far,
            linear_page: absolute.then_some(key.linear_page),
            stale: false,
            sites: self.sites.len()..self.sites.len() + built.sites.len(),
            map: built.map,
            live_after: built.live_after,
        });
        built.sites.into_iter().for_each(|site| self.sites.push(site));
        for &(ram_page, version) in pages {
            let page = self.pages.entry(ram_page).or_insert_with(|| Page {
                version,
                blocks: Vec::new(),
                places: Vec::new(),
            });
            page.blocks.push(number);
        }
        self.places.insert(key, Place::Block(number));
        number
    }

    /// Notes something else of a place of a page, until the page changes.
    pub(crate) fn add_place(&mut self, key: Key, page: (usize, u32), place: Place) {
        let (ram_page, version) = page;
        self.set(key, place);
        self.pages
            .entry(ram_page)
            .or_insert_with(|| Page { version, blocks: Vec::new(), places: Vec::new() })
            .places
            .push(key);
    }

    /// The block that host address `pc` belongs to.
    pub(crate) fn block_at(&self, pc: u64) -> Option<u32> {
        let index = self.blocks.partition_point(|block| block.start <= pc).checked_sub(1)?;
        (pc < self.blocks[index].end).then_some(index as u32)
    }

    /// Number of the site of the memory operand that goes on at `ready` with what the TLB has.
    pub(crate) fn operand_site(&self, ready: u64) -> Option<usize> {
        let block = &self.blocks[self.block_at(ready)? as usize];
        self.sites.operand_at(block.sites.clone(), ready)
    }

    /// Drops the blocks of a page; returns how many. Jumps to them from outside the page must be
    /// dropped as well.
    pub(crate) fn invalidate(&mut self, arena: &mut Arena, ram_page: usize) -> u64 {
        let Some(page) = self.pages.remove(&ram_page) else { return 0 };
        for key in &page.places {
            self.places.remove(key);
        }
        for &number in &page.blocks {
            let block = &mut self.blocks[number as usize];
            block.stale = true;
            if let Some(Place::Block(current)) = self.places.get(&block.key)
                && *current == number
            {
                self.places.remove(&block.key);
            }
            let Block { leave_near, leave_far, .. } = *block;
            let ways =
                [(block.body, leave_near), (block.polling, leave_near), (block.arrived, leave_far)];
            for (entry, leave) in ways {
                let mut jump = [0xe9, 0, 0, 0, 0];
                jump[1..].copy_from_slice(&relative(entry + 1, leave));
                let patched = arena.patch(entry as usize, &jump);
                debug_assert!(patched, "a block lies in the arena");
            }
        }
        page.blocks.len() as u64
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
