//! Groups of operands whose probe fails: the TLB has to be filled, or the group taken apart.
//!
//! What has no place in the TLB, or lies in two pages, is reached by code without groups, which begins at the
//! instruction that the probe stands before. Where a group does not lie in one page, the way there is made when that is
//! first seen.

use crate::dispatch::Translator;
use crate::emit::{reg, relative};
use crate::exits::{Filled, Next};
use crate::flags;
use crate::key::Key;
use crate::second::Descriptor;
use crate::site::GroupSite;
use ambos_hostcode::arena::Region;
use ambos_interpret::cpu::RIP;
use ambos_vcpu::Platform;
use std::num::NonZeroU32;

/// After so many failures for what the TLB cannot have a probe leads to code without groups at once.
const USUAL: u32 = 16;

impl Translator {
    /// Serves the probe of a group, before the instruction at an offset in a block, that the TLB does not have.
    pub(crate) fn serve_group(
        &mut self,
        platform: &mut dyn Platform,
        (block, offset): (u32, u16),
        number: u32,
        group: &GroupSite,
    ) -> Next {
        let &GroupSite { first, write, flags_kept, retry, .. } = group;
        self.statistics.tlb_misses += 1;
        let linear = self.head.slots.scratch[0];
        let changes = self.head.cpu.tlb.changes();
        let outcome = match first {
            Some((offset, size)) => {
                self.fill(platform, linear.wrapping_add(offset as u64), size, write)
            }
            None => self.fill_ahead(platform, linear, write),
        };
        let stale = self.cache.block(block).stale;
        if outcome == Filled::Yes && !stale && changes == self.head.cpu.tlb.changes() {
            return Next::Continue(retry);
        }
        if outcome == Filled::No && !stale && self.count_failure(number, group) {
            return self.go_on_apart(platform, (block, offset), number, group);
        }
        self.take_flags_from(flags_kept);
        let rip = self.page_of(block).wrapping_add(u64::from(offset));
        if let Filled::Fault(fault) = outcome {
            let size = first.map_or(0, |(_, size)| size);
            return self.deliver_of(platform, rip, fault, size);
        }
        self.head.cpu.native.gpr[RIP] = rip;
        self.take_apart(block, offset);
        Next::Boundary
    }

    /// Goes on without groups from the instruction at an offset in a block, and so will who comes there the same way.
    pub(crate) fn go_on_apart(
        &mut self,
        platform: &mut dyn Platform,
        (block, offset): (u32, u16),
        number: u32,
        group: &GroupSite,
    ) -> Next {
        let flags_kept = group.flags_kept;
        self.take_flags_from(flags_kept);
        self.head.cpu.native.gpr[RIP] = self.page_of(block).wrapping_add(u64::from(offset));
        self.take_apart(block, offset);
        if self.options.apart || !self.undisturbed() {
            return Next::Boundary;
        }
        self.keep_current();
        let Some(entry) = self.way_apart(platform, block, number, group) else {
            return Next::Boundary;
        };
        if flags_kept {
            self.head.slots.flags = self.head.slots.kept_flags;
        }
        Next::Continue(entry)
    }

    /// The entry, with the flags in the host's, of the code without groups at the instruction pointer, where a group of
    /// `block` has its probe. From now on that leads there by itself if the group does not lie in one page.
    fn way_apart(
        &mut self,
        platform: &mut dyn Platform,
        block: u32,
        number: u32,
        group: &GroupSite,
    ) -> Option<u64> {
        let flushes = self.statistics.flushes;
        let found = self.find(platform)?;
        let next = self.cache.block(found);
        let (Key { mode, tail, .. }, body) = (next.key(), next.entries().body);
        // Translation may have flushed everything, and the page's code may have changed.
        if tail != 0 || self.statistics.flushes != flushes {
            return None;
        }
        let from = self.cache.block(block);
        if from.stale || from.key().mode != mode {
            return None;
        }
        let failures = self.cache.group_state(number).failures;
        let [_, code] = &mut self.code.0;
        code.start(self.arena.next(Region::Cold) as u64);
        let start = code.here();
        if group.flags_kept {
            flags::load_kept(code, Some(reg::R11));
        }
        code.jump(body);
        // One that lies in two pages has no known address, so that the probe's registers say which it is.
        let way = match failures {
            USUAL.. => start,
            _ => code.here(),
        };
        if way != start {
            let stub = self.stubs.second.group(self.head.cpu.mmu_index, group.write, true).probed;
            Descriptor { ready: group.ready, apart: start }.lead_to(code, stub);
        }
        if self.arena.push(Region::Cold, &code.bytes).is_none() {
            self.flush();
            return None;
        }
        self.statistics.host_bytes += code.bytes.len() as u64;
        let offset = (start - self.arena.start() as u64) as u32;
        self.cache.group_state(number).apart = NonZeroU32::new(offset);
        self.arena.patch(group.patch as usize, &relative(group.patch, way));
        Some(body)
    }

    /// Has the rest of a block run without groups of operands, from the instruction at `offset` on.
    fn take_apart(&mut self, block: u32, offset: u16) {
        self.statistics.ungrouped += 1;
        self.ungrouped = true;
        self.note_before(block, offset);
    }

    /// Counts that a group was taken apart for what the TLB cannot have; whether that is usual, and the way has to be made
    /// that its probe leads to from now on.
    fn count_failure(&mut self, number: u32, group: &GroupSite) -> bool {
        let state = self.cache.group_state(number);
        state.failures += 1;
        if state.failures != USUAL {
            return false;
        }
        let Some(apart) = state.apart else { return true };
        let apart = self.arena.start() as u64 + u64::from(apart.get());
        let patch = group.patch;
        self.arena.patch(patch as usize, &relative(patch, apart));
        false
    }
}
