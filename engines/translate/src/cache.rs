//! Translated blocks: finding them, and dropping those whose code changed.

use crate::apart::Steps;
use crate::block::{Block, Entries, MOST_BYTES, Packed};
use crate::build::Built;
use crate::directory::{Directory, MOST_BLOCKS};
use crate::emit::relative;
use crate::key::{Key, Place};
use crate::numbers::PageNumbers;
use crate::ops::Ops;
use crate::recent::Recent;
use crate::records::{self, Forms, Noted};
use crate::site::{self, GroupState, Kind, Site};
use crate::views::ViewState;
use ambos_hostcode::Arena;
use rustc_hash::FxHashMap;

/// UD2.
const TRAP: [u8; 2] = [0x0f, 0x0b];
/// Bytes that one block adds to the tables at most, with some to spare.
const MOST_OF_ONE: usize = 1 << 20;

/// All blocks of one vCPU, numbered in the order of their addresses.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    blocks: Vec<Packed>,
    /// Where they are in guest code.
    directory: Directory,
    /// Entries and records of all blocks, and the forms that they name.
    bytes: Vec<u8>,
    forms: Forms,
    /// Sites that were looked for, by number and by address: no address is as low as a number.
    recent: Recent,
    /// Instructions for the interpreter.
    pub(crate) ops: Ops,
    /// Groups whose probes failed, by site.
    groups: FxHashMap<u32, GroupState>,
    /// Entries from later places in the same page that were made after their blocks, as offsets in the code cache.
    polling: FxHashMap<u32, u32>,
    /// Where blocks run apart, what is asked each time.
    pub(crate) steps: Steps,
    /// Address of the code cache, and of the end of the last block.
    base: u64,
    end: u64,
    pub(crate) numbers: PageNumbers,
}

impl Cache {
    /// No blocks, in a code cache at `base`.
    pub(crate) fn new(base: u64) -> Self {
        Self { base, ..Self::default() }
    }

    /// What is known of `key`.
    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<Place> {
        self.directory.get(key)
    }

    /// How many blocks there are, current or not.
    pub(crate) fn len(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// A block.
    #[inline]
    pub(crate) fn block(&self, number: u32) -> Block<'_> {
        let index = number as usize;
        let packed = &self.blocks[index];
        let end = self.blocks.get(index + 1).map_or(self.bytes.len(), Packed::bytes);
        Block {
            start: self.base + u64::from(packed.start()),
            offset: packed.offset(),
            stale: packed.is_stale(),
            variant: self.directory.variant(packed.variant()),
            bytes: self.bytes.get(packed.bytes()..end).unwrap_or_default(),
            forms: &self.forms,
        }
    }

    /// The same, if there is one with the number.
    pub(crate) fn known_block(&self, number: u32) -> Option<Block<'_>> {
        (number < self.len()).then(|| self.block(number))
    }

    /// The site with a number, and that.
    #[inline]
    pub(crate) fn site(&mut self, number: u32) -> Option<(u32, Site)> {
        let by = u64::from(number) + 1;
        if let Some(known) = self.recent.get(by) {
            return Some(known);
        }
        let (block, index) = site::parts(number);
        let found = (number, self.known_block(block)?.records().site(index)?);
        self.recent.note(by, found);
        Some(found)
    }

    /// Number, and the rest, of the site of the memory operand that goes on at `ready` with what the TLB has.
    #[inline]
    pub(crate) fn operand_site(&mut self, ready: u64) -> Option<(u32, Site)> {
        if let Some(known) = self.recent.get(ready) {
            return Some(known);
        }
        let block = self.block_at(ready)?;
        let (index, site) = self.block(block).records().operand_at(ready)?;
        let found = (site::number(block, index), site);
        self.recent.note(ready, found);
        Some(found)
    }

    /// What became of the group of operands at a site.
    pub(crate) fn group_state(&mut self, site: u32) -> &mut GroupState {
        self.groups.entry(site).or_default()
    }

    /// Entry of a block from a later place in the same page, where the vector state is `held` or may not be, if it has been
    /// made: looks whether something wants attention.
    pub(crate) fn polling(&self, block: u32, held: bool) -> Option<u64> {
        let entries = self.block(block).entries();
        let own = entries.polling.filter(|_| held || entries.ready.is_none());
        own.or_else(|| self.polling.get(&block).map(|&offset| self.base + u64::from(offset)))
    }

    /// Entry of a block from an earlier place in the same page, where the vector state is `held` or may not be.
    pub(crate) fn body(&self, block: u32, held: bool) -> u64 {
        let Entries { body, ready, .. } = self.block(block).entries();
        ready.filter(|_| held).unwrap_or(body)
    }

    /// Notes that entry, which the block was made without.
    pub(crate) fn set_polling(&mut self, block: u32, address: u64) {
        self.polling.insert(block, (address - self.base) as u32);
    }

    /// Offset in the page of a block's instruction before the one at `offset`.
    pub(crate) fn offset_before(&self, block: u32, offset: u16) -> Option<u16> {
        let mut before = None;
        for next in self.block(block).records().guest_offsets() {
            if next == offset {
                return before;
            }
            before = Some(next);
        }
        None
    }

    /// Adds a block whose code of `length` bytes lies at `start`, behind that of all others; returns its number. Where
    /// blocks run `apart`, more is known of it.
    pub(crate) fn add(
        &mut self,
        key: Key,
        versions: &[u32],
        (start, length): (u64, usize),
        built: Built,
        apart: bool,
    ) -> u32 {
        let number = self.len();
        let place = Place::Block(number);
        let variant = self.directory.insert(key, versions, place, &mut self.numbers);
        let offset = (start - self.base) as u32;
        self.blocks.push(Packed::new(offset, self.bytes.len(), variant, key.offset));
        self.end = start + length as u64;
        if apart {
            self.steps.add(&built.parts, built.live_after);
        }
        built.entries.write(&mut self.bytes, &mut self.forms, start);
        let ops: Vec<u32> =
            built.ops.into_iter().map(|decoded| self.ops.number(decoded, key.mode)).collect();
        let mut sites = built.sites;
        for site in &mut sites {
            if let Kind::Interpret { op, .. } = &mut site.kind
                && let Some(&number) = ops.get(*op as usize)
            {
                *op = number;
            }
        }
        let (parts, sites, views) = (&built.parts[..], &sites[..], &built.views[..]);
        let noted = Noted { start, length: length as u32, parts, sites, views };
        records::write(&mut self.bytes, &mut self.forms, noted);
        number
    }

    /// Notes something else of a place of a page, until the page changes.
    pub(crate) fn add_place(&mut self, key: Key, versions: &[u32], place: Place) {
        self.directory.insert(key, versions, place, &mut self.numbers);
    }

    /// Bytes of what is known of blocks and of places without one.
    pub(crate) fn size(&self) -> usize {
        size_of_val(&self.blocks[..])
            + self.directory.size()
            + self.bytes.len()
            + self.forms.size()
            + self.ops.size()
            + self.groups.capacity() * (size_of::<(u32, GroupState)>() + 1)
            + self.polling.capacity() * (size_of::<(u32, u32)>() + 1)
            + self.steps.size()
            + self.numbers.size()
            + Recent::SIZE
    }

    /// Whether another block might need numbers that there are not, or have all of this take more than `most` bytes.
    pub(crate) fn is_full(&self, most: usize) -> bool {
        self.blocks.len() >= MOST_BLOCKS
            || self.directory.is_full()
            || self.bytes.len() > MOST_BYTES - MOST_OF_ONE
            || self.size() > most
    }

    /// The block that host address `pc` belongs to.
    pub(crate) fn block_at(&self, pc: u64) -> Option<u32> {
        let offset = u32::try_from(pc.checked_sub(self.base)?).ok()?;
        let behind = self.blocks.partition_point(|block| block.start() <= offset);
        Some(behind.checked_sub(1)? as u32).filter(|_| pc < self.end)
    }

    /// Where the guest's state is while the access at host address `pc` to what is seen runs; `None` if that is none.
    pub(crate) fn view_state(&self, pc: u64) -> Option<ViewState> {
        self.block(self.block_at(pc)?).records().view_at(pc)
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
    ) -> (u64, Vec<(usize, u16)>) {
        let dropped = u32::try_from(ram_page).map(|page| self.directory.remove(page));
        let dropped = dropped.unwrap_or_default();
        for &number in &dropped.blocks {
            self.blocks[number as usize].set_stale();
            let block = self.block(number);
            let entries = block.entries();
            let arrived = entries.arrived;
            let mut jump = [0xe9, 0, 0, 0, 0];
            jump[1..].copy_from_slice(&relative(arrived + 1, elsewhere));
            let ways = [(entries.first(), &TRAP[..]), (arrived, &jump[..])];
            let ready = entries.ready.map(|ready| (ready, &TRAP[..]));
            for (entry, bytes) in ways.into_iter().chain(ready) {
                let patched = arena.patch(entry as usize, bytes);
                debug_assert!(patched, "a block lies in the arena");
            }
        }
        (dropped.blocks.len() as u64, dropped.numbers)
    }

    /// The pages whose code version is not `version` of them any more.
    pub(crate) fn changed_pages(&self, version: impl Fn(usize) -> u32) -> Vec<usize> {
        self.directory.changed_pages(version)
    }

    /// Whether the page has blocks, or knowledge of places, from another version.
    pub(crate) fn is_outdated(&self, ram_page: usize, version: u32) -> bool {
        u32::try_from(ram_page).is_ok_and(|page| self.directory.is_outdated(page, version))
    }

    /// Forgets everything. The code cache is at `base`.
    pub(crate) fn clear(&mut self, base: u64) {
        *self = Self::new(base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Part, Placed};
    use ambos_hostcode::arena::Region;

    const LENGTH: usize = 16;

    fn key(gpa: u64) -> Key {
        let (ram_page, offset) = ((gpa >> 12) as u32, (gpa & 0xfff) as u16);
        Key { linear_page: 0, ram_page, mode: 1, tail: 0, offset, absolute: true, groups: true }
    }

    /// Adds a block of some code, behind that of the last one, that leaves at a jump.
    fn add(cache: &mut Cache, arena_start: u64, gpa: u64) -> u32 {
        let start = arena_start + LENGTH as u64 * u64::from(cache.len());
        let guest = key(gpa).offset;
        let kind = Kind::Link { patch: start + 7, target: 0x20 };
        let part = Part { host: 5, guest, length: 2, live: 0, goes_on: false, after: false };
        let built = Built {
            entries: Entries {
                arrived: start,
                far: start + 5,
                body: start + 5,
                ready: (guest == 0x800).then_some(start + 11),
                ..Entries::default()
            },
            parts: vec![part],
            sites: vec![Placed { part: 0, offset: guest, kind }],
            ..Built::default()
        };
        cache.add(key(gpa), &[7], (start, LENGTH), built, false)
    }

    #[test]
    fn blocks_are_found_until_their_page_changes() {
        let mut arena = Arena::new(4096).unwrap();
        let base = arena.start() as u64;
        let mut cache = Cache::new(base);
        let gpas = [0x1000, 0x1ffe, 0x1800, 0x5000];
        let blocks = gpas.map(|gpa| add(&mut cache, base, gpa));
        for (gpa, block) in gpas.into_iter().zip(blocks) {
            arena.push(Region::Hot, &[0x90; LENGTH]).unwrap();
            assert_eq!(cache.get(key(gpa)), Some(Place::Block(block)));
            let start = cache.block(block).start;
            assert_eq!([start, start + 15].map(|pc| cache.block_at(pc)), [Some(block); 2]);
            for _ in 0..2 {
                let (_, site) = cache.site(site::number(block, 0)).unwrap();
                assert_eq!(site.kind, Kind::Link { patch: start + 7, target: 0x20 });
                assert_eq!(u64::from(site.offset), gpa & 0xfff);
            }
            assert_eq!(cache.site(site::number(block, 1)), None);
        }
        assert_eq!([base - 1, base + 64].map(|pc| cache.block_at(pc)), [None; 2]);
        assert_eq!([0x1001, 0x2000].map(|gpa| cache.get(key(gpa))), [None; 2]);
        cache.add_place(key(0x1004), &[7], Place::Straddles);
        cache.add_place(key(0x1008), &[7], Place::Never);
        assert_eq!(cache.get(key(0x1004)), Some(Place::Straddles));
        assert_eq!(cache.get(key(0x1008)), Some(Place::Never));
        assert!(cache.is_outdated(1, 8) && !cache.is_outdated(1, 7) && !cache.is_outdated(2, 8));
        assert_eq!(cache.changed_pages(|page| if page == 1 { 8 } else { 7 }), [1]);
        let number = cache.block(blocks[0]).variant.code_page().unwrap();
        assert_eq!(cache.invalidate(&mut arena, base, 1), (3, vec![(1, number)]));
        for (gpa, block) in gpas.into_iter().zip(blocks) {
            let changed = gpa < 0x5000;
            assert_eq!(cache.block(block).stale, changed);
            assert_eq!(cache.get(key(gpa)).is_none(), changed);
            let trap = cache.block(block).start + 5;
            assert_eq!(arena.bytes(trap as usize, 2).unwrap() == TRAP, changed);
            assert_eq!(cache.block(block).traps_at(trap), changed.then_some(false));
            // Where the vector state is held, it may be entered further on.
            let held = cache.body(block, true);
            assert_eq!((cache.body(block, false), held == trap), (trap, gpa != 0x1800));
            assert_eq!(arena.bytes(held as usize, 2).unwrap() == TRAP, changed);
            assert_eq!(cache.block(block).traps_at(held), changed.then_some(false));
        }
        assert_eq!([0x1004, 0x1008].map(|gpa| cache.get(key(gpa))), [None; 2]);
        let again = add(&mut cache, base, gpas[0]);
        assert_eq!(cache.get(key(gpas[0])), Some(Place::Block(again)));
        assert!(!cache.block(again).stale && cache.block(blocks[0]).stale);
    }

    #[test]
    fn an_instruction_on_the_border_goes_with_either_page() {
        let mut arena = Arena::new(4096).unwrap();
        for changed in [3, 4] {
            let mut cache = Cache::new(arena.start() as u64);
            let key = Key { tail: 5, ..key(0x3ffe) };
            for _ in 0..2 {
                cache.add_place(key, &[0, 0], Place::Never);
                assert_eq!(cache.get(key), Some(Place::Never));
                cache.invalidate(&mut arena, 0, changed);
                assert_eq!(cache.get(key), None);
            }
            cache.add_place(key, &[0, 0], Place::Never);
            cache.invalidate(&mut arena, 0, 7 - changed);
            assert_eq!(cache.get(key), None);
        }
    }

    #[test]
    fn what_is_known_is_bounded() {
        const MOST: usize = 1 << 18;
        let base = 0x7000_0000_0000;
        // Many blocks in few pages, few in many, and pages without any.
        for (step, blocks) in [(2, true), (0x1000, true), (0x1000, false)] {
            let mut cache = Cache::new(base);
            let mut gpa = 0;
            while !cache.is_full(MOST) {
                match blocks {
                    true => _ = add(&mut cache, base, gpa),
                    false => cache.add_place(key(gpa), &[0], Place::Never),
                }
                gpa += step;
                // Tables that are full are doubled.
                assert!(cache.size() < 2 * MOST, "{gpa:#x}");
            }
            assert!(gpa / step > 500, "{gpa:#x}");
            cache.clear(base);
            assert!(cache.size() < MOST / 2 && cache.get(key(0)).is_none());
        }
    }
}
