//! Translating one block: from the bytes of its page to code in the arena.

use crate::build::{self, Built, NoBlock, Source};
use crate::compat::unlimited;
use crate::dispatch::Translator;
use crate::finding::{CODE_SEEN, EVEN, VIEWS, without_views};
use crate::key::{Key, Place};
use crate::seeing::is_upper;
use ambos_hostcode::arena::Region;
use ambos_hostcode::mem;
use ambos_interpret::blocks;
use ambos_interpret::cpu::RIP;
use ambos_interpret::fetch::CodePage;

/// What part of the code cache's size what is known of code may take besides. It takes about a quarter of what the code
/// itself does; a guest with many pages of little code must not have it outgrow that.
const MOST_KNOWN: usize = 4;
/// Bytes of a page.
const PAGE: usize = 0x1000;
/// Most bytes of an instruction that lie in the next page, and more.
const TAIL: usize = 15;

impl Translator {
    /// Translates the block at the instruction pointer. Of two pages the second holds the end of its one
    /// instruction.
    pub(crate) fn translate(&mut self, key: Key, pages: &[(CodePage, u32)]) -> Option<u32> {
        let bytes = read(pages);
        let bytes = if pages.len() > 1 { &bytes[..] } else { &bytes[..PAGE] };
        let versions: Vec<u32> = pages.iter().map(|&(_, version)| version).collect();
        if self.cache.is_full(self.options.code_cache / MOST_KNOWN) {
            self.flush();
        }
        for attempt in 0..2 {
            let (cache, cold_places, threshold) = (&self.cache, &self.cold, self.options.threshold);
            // Where there are no views, blocks were made of what the interpreter saw.
            let plain = without_views(key);
            let path: Vec<u16> = match cache.get(plain) {
                Some(Place::Block(block)) if plain != key => {
                    cache.block(block).records().guest_offsets().collect()
                }
                _ => Vec::new(),
            };
            let likely = |target: u16, next: u16| {
                let weight = |offset: u16| {
                    let key = Key { offset, groups: true, ..key };
                    match cache.get(key) {
                        Some(Place::Block(_)) => threshold,
                        _ => cold_places.count(&key),
                    }
                };
                weight(target) > threshold / 2 && weight(target) > 4 * weight(next)
            };
            let linked = |target: u16, [backward, held]: [bool; 2]| {
                let there = Key { offset: target, groups: true, ..key };
                let Some(Place::Block(next)) = cache.get(there) else {
                    return None;
                };
                match backward {
                    true => cache.polling(next, held),
                    false => Some(cache.body(next, held)),
                }
            };
            let source = Source {
                page: bytes,
                linear: self.head.cpu.native.gpr[RIP],
                absolute: key.absolute,
                block: self.cache.len(),
                gate: self.gate,
                narrow: !self.head.cpu.is_64bit(),
                unlimited: unlimited(&self.head.cpu),
                groups: key.groups,
                views: key.mode & VIEWS != 0
                    && key.groups
                    && key.tail == 0
                    && !is_upper(self.head.cpu.native.gpr[RIP]),
                even: key.mode & EVEN != 0,
                code_seen: key.mode & CODE_SEEN != 0,
                links: !self.options.apart && self.cache.numbers.has_left(self.head.cpu.mmu_index),
                linked: if key.tail != 0 { &|_, _| None } else { &linked },
                likely: &likely,
                path: &path,
                apart: self.options.apart,
            };
            let [start, cold_start] = Region::ALL.map(|region| self.arena.next(region) as u64);
            let [code, cold] = &mut self.code.0;
            code.start(start);
            cold.start(cold_start);
            let built = build::build(
                [code, cold],
                &mut self.head.cpu,
                &mut self.statistics,
                &self.stubs,
                &self.sets,
                &source,
            );
            let built = match built {
                Ok(built) => built,
                Err(why) => {
                    let place = match why {
                        NoBlock::Straddles => Place::Straddles,
                        NoBlock::Undefined => Place::Never,
                    };
                    self.cache.add_place(key, &versions, place);
                    return None;
                }
            };
            let lengths = self.code.0.each_ref().map(|code| code.bytes.len());
            if self.arena.has_room(lengths) {
                let linear = source.linear;
                let gpa =
                    pages.first().map_or(0, |(page, _)| page.gpa_page) | u64::from(key.offset);
                let decoded = blocks::key(gpa, self.head.cpu.mode.key());
                self.head.cpu.blocks.forget(decoded);
                return Some(self.keep(key, &versions, built, linear));
            }
            if attempt == 0 {
                self.flush();
            }
        }
        None
    }

    /// Puts the code that was built into the arena, which has room, and adds the block. Returns its number.
    fn keep(&mut self, key: Key, versions: &[u32], built: Built, linear: u64) -> u32 {
        let starts = Region::ALL.map(|region| self.arena.next(region) as u64);
        let lengths = self.code.0.each_ref().map(|code| code.bytes.len());
        for (region, code) in Region::ALL.into_iter().zip(&self.code.0) {
            self.arena.push(region, &code.bytes);
        }
        self.statistics.blocks += 1;
        self.statistics.instructions += u64::from(built.instructions);
        self.statistics.guest_bytes += u64::from(built.guest_bytes);
        self.statistics.host_bytes += lengths.iter().sum::<usize>() as u64;
        if let Some(map) = &mut self.perf_map {
            for (start, length) in starts.into_iter().zip(lengths) {
                map.add(start, length, linear);
            }
        }
        self.cache.add(key, versions, (starts[0], lengths[0]), built, self.options.apart)
    }
}

/// The bytes of a page of code and, behind them, those that follow in the next one.
fn read(pages: &[(CodePage, u32)]) -> [u8; PAGE + TAIL] {
    let mut bytes = [0; PAGE + TAIL];
    let (first, tail) = bytes.split_at_mut(PAGE);
    for ((page, _), part) in pages.iter().zip([first, tail]) {
        #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
        // SAFETY: `host_page` is a mapped page of guest RAM, and at most a page is copied.
        unsafe {
            mem::copy_words_from(page.host_page, part);
        }
    }
    bytes
}
