//! The cache of decoded blocks.
//!
//! A block is a run of instructions in one page that ends at the first one that may branch. It is
//! found by the guest-physical address of its first byte and the mode it was decoded for, so it
//! survives address-space switches. A block is stale when its page's code version has moved on.

use crate::decode::MAX_INSTRUCTION;
use crate::op::Op;
use ambos_memory::GuestRam;
use rustc_hash::FxHashMap;
use std::rc::Rc;

/// A run of decoded instructions.
#[derive(Debug)]
pub struct Block {
    /// The instructions.
    pub ops: Box<[Op]>,
    /// Bytes of code.
    pub length: u16,
    key: u64,
    ram_page: usize,
    version: u32,
}

/// Slots of the direct-mapped front of the cache.
const FRONT: usize = 4096;
/// Decoded instructions after which everything is dropped, which bounds the cache to some 17 MiB.
const MAX_OPS: usize = 192 << 10;

/// Most instructions that continue on the next page.
const MAX_CROSSINGS: usize = 4096;

/// The decoded blocks of one vCPU.
#[derive(Debug)]
pub struct BlockCache {
    front: Box<[Option<Rc<Block>>]>,
    blocks: FxHashMap<u64, Rc<Block>>,
    by_page: FxHashMap<usize, Vec<u64>>,
    /// Instructions that continue on the next page, each a block of its own, with their bytes.
    crossings: FxHashMap<u64, ([u8; MAX_INSTRUCTION], Rc<Block>)>,
    ops: usize,
    /// Most decoded instructions.
    bound: usize,
}

impl Default for BlockCache {
    fn default() -> Self {
        Self::bounded(MAX_OPS)
    }
}

/// The key of a block: guest-physical addresses have at most 52 bits, modes four.
#[inline]
pub fn key(gpa: u64, mode: u64) -> u64 {
    gpa | mode << 56
}

#[inline]
fn slot(key: u64) -> usize {
    (key ^ key >> 12 ^ key >> 54) as usize & (FRONT - 1)
}

impl BlockCache {
    /// An empty cache that is emptied before it holds more than `bound` instructions, of some 90
    /// bytes each.
    pub fn bounded(bound: usize) -> Self {
        Self {
            front: (0..FRONT).map(|_| None).collect(),
            blocks: FxHashMap::default(),
            by_page: FxHashMap::default(),
            crossings: FxHashMap::default(),
            ops: 0,
            bound,
        }
    }

    /// The block of `key`, if there is one and it is current.
    #[inline]
    pub fn get(&mut self, key: u64, version: u32) -> Option<Rc<Block>> {
        if let Some(block) = &self.front[slot(key)]
            && block.key == key
            && block.version == version
        {
            return Some(Rc::clone(block));
        }
        let block = self.blocks.get(&key)?;
        if block.version != version {
            return None;
        }
        let block = Rc::clone(block);
        self.front[slot(key)] = Some(Rc::clone(&block));
        Some(block)
    }

    /// Whether `block` is one of the cache and its code has not been written to since.
    #[inline]
    pub fn is_current(&self, ram: &GuestRam, block: &Block) -> bool {
        ram.page_flags().version(block.ram_page) == block.version && block.ram_page != usize::MAX
    }

    /// Adds a block.
    pub fn insert(
        &mut self,
        key: u64,
        ram_page: usize,
        version: u32,
        ops: Vec<Op>,
        length: u16,
    ) -> Rc<Block> {
        if self.ops + ops.len() > self.bound {
            self.clear();
        }
        self.ops += ops.len();
        let block = Rc::new(Block { ops: ops.into(), length, key, ram_page, version });
        self.front[slot(key)] = Some(Rc::clone(&block));
        match self.blocks.insert(key, Rc::clone(&block)) {
            Some(old) => self.ops -= old.ops.len(),
            None => self.by_page.entry(ram_page).or_default().push(key),
        }
        block
    }

    /// Drops the block of `key`, if there is one: it is not to be run soon.
    pub fn forget(&mut self, key: u64) {
        let Some(block) = self.blocks.remove(&key) else { return };
        self.ops -= block.ops.len();
        self.drop_front(key);
        let Some(keys) = self.by_page.get_mut(&block.ram_page) else { return };
        if let Some(index) = keys.iter().position(|&other| other == key) {
            keys.swap_remove(index);
        }
    }

    fn drop_front(&mut self, key: u64) {
        let front = &mut self.front[slot(key)];
        if front.as_ref().is_some_and(|block| block.key == key) {
            *front = None;
        }
    }

    /// The instruction of `key` that continues on the next page, if it is known, and the bytes for
    /// which it is valid.
    pub fn crossing(&self, key: u64) -> Option<([u8; MAX_INSTRUCTION], Rc<Block>)> {
        self.crossings.get(&key).cloned()
    }

    /// Adds an instruction that continues on the next page. It is never found by
    /// [`BlockCache::get`], and never current after it has run.
    pub fn insert_crossing(
        &mut self,
        key: u64,
        bytes: [u8; MAX_INSTRUCTION],
        op: Op,
        length: u16,
    ) -> Rc<Block> {
        if self.crossings.len() >= MAX_CROSSINGS {
            self.crossings.clear();
        }
        let ops = vec![op].into();
        let block = Rc::new(Block { ops, length, key: u64::MAX, ram_page: usize::MAX, version: 0 });
        self.crossings.insert(key, (bytes, Rc::clone(&block)));
        block
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.front.fill(None);
        self.blocks.clear();
        self.by_page.clear();
        self.crossings.clear();
        self.ops = 0;
    }

    /// Notes that a page with cached code is about to be written to, or has just been, and drops that code. The page's version
    /// moves on, which makes the other vCPUs' blocks of it stale as well.
    pub fn written(&mut self, ram: &GuestRam, ram_page: usize) {
        ram.page_flags().note_write(ram_page);
        for key in self.by_page.remove(&ram_page).unwrap_or_default() {
            if let Some(block) = self.blocks.remove(&key) {
                self.ops -= block.ops.len();
                debug_assert_eq!(block.ram_page, ram_page);
            }
            self.drop_front(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_leaves_room() {
        let ram = GuestRam::new(0x4000).unwrap();
        let mut cache = BlockCache::bounded(4);
        let key = |offset: u64| key(0x1000 + offset, 0);
        // None of these is dropped for the next one's sake.
        for round in 0..100 {
            cache.insert(key(round), 1, 0, Vec::new(), 1);
            cache.forget(key(round));
            assert!(cache.get(key(round), 0).is_none());
        }
        assert!(cache.by_page.values().all(Vec::is_empty));
        cache.insert(key(1), 1, 0, Vec::new(), 1);
        cache.forget(key(2));
        assert!(cache.get(key(1), 0).is_some());
        cache.written(&ram, 1);
        assert!(cache.get(key(1), 0).is_none());
        assert_eq!(cache.ops, 0);
    }
}
