//! How blocks go on: to places that are known by a jump that is linked when it is first taken ([`crate::far`] has those
//! to other pages), elsewhere through the jump cache.

use crate::build::{Builder, ColdKind, Far};
use crate::emit::{Mem, reg};
use crate::flags::FlagsIn;
use crate::layout;
use crate::second;
use crate::site::Kind;
use ambos_interpret::mmu::{Entry, jump_slot};

impl Builder<'_> {
    /// Goes on at `target`, relative to the page, if the condition holds.
    pub(crate) fn edge(&mut self, target: u64, condition: Option<u8>, stack: i32) {
        let inside = self.source.inside(target);
        match condition {
            Some(condition) => {
                self.want_flags(self.idle());
                if let Some(entry) = inside.and_then(|target| self.linked(target)) {
                    self.code.jump_if(condition, entry);
                    return;
                }
                let displacement = self.code.jump_if(condition, 0);
                if let Some(target) = inside {
                    let site = self.site(Kind::Link { patch: displacement, target });
                    self.cold(displacement, site, ColdKind::Leave);
                } else {
                    let (offset, flags, set) = (self.offset, self.flags, self.set_number);
                    self.fars.push(Far { displacement, target, offset, flags, set });
                }
            }
            None => match inside {
                Some(target) => {
                    if self.flags == FlagsIn::Memory
                        && self.source.peek(self.page_base() | u64::from(target)) != 0
                    {
                        self.want_flags(self.idle());
                    }
                    if let Some(entry) = self.linked(target) {
                        self.code.jump(entry);
                        return;
                    }
                    let displacement = self.code.jump(0);
                    let site = self.site(Kind::Link { patch: displacement, target });
                    self.cold(displacement, site, ColdKind::Leave);
                }
                None => self.far_edge(target, stack),
            },
        }
    }

    /// The entry of a block in the same page that a jump from the current instruction can lead to from the beginning.
    fn linked(&mut self, target: u16) -> Option<u64> {
        if self.source.apart {
            return None;
        }
        let backward = target <= self.offset;
        let entry = match u64::from(target) == self.source.linear & 0xfff {
            true => self.built.entries.polling,
            false => (self.source.linked)(target, [backward, self.holds_vectors()]),
        };
        self.counters.links += u64::from(entry.is_some());
        entry
    }

    /// Goes on at `target`, relative to the page, where the place to go on is not known for good.
    pub(crate) fn far_edge(&mut self, target: u64, stack: i32) {
        if self.linked_far_edge(target, stack) {
            return;
        }
        let away = i32::try_from(target as i64);
        let next = i32::from(self.offset) + i32::from(self.length);
        match away {
            Ok(away) if self.next_in_r10 && !self.source.absolute => {
                self.code.lea(reg::R10, Mem::Base(reg::R10, away.wrapping_sub(next)));
            }
            Ok(away) if !self.source.absolute => {
                self.code.load(reg::R10, Mem::Gs(layout::CODE_BASE));
                self.code.lea(reg::R10, Mem::Base(reg::R10, away));
            }
            Err(_) if !self.source.absolute => {
                self.code.load(reg::R10, Mem::Gs(layout::CODE_BASE));
                self.code.constant(reg::R11, target);
                self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
            }
            _ => {
                let linear = self.source.wrap(self.page_base().wrapping_add(target));
                if i32::try_from(linear as i64).is_ok() {
                    self.through_known_slot(linear, stack);
                    return;
                }
                self.code.constant(reg::R10, linear);
            }
        }
        self.through_jump_cache(stack);
    }

    /// Goes on at a known linear address, whose place in the jump cache is known as well.
    fn through_known_slot(&mut self, linear: u64, stack: i32) {
        self.leave_block();
        let jumps = self.set.jumps;
        self.code.constant(reg::R10, linear);
        self.code.constant(reg::R11, (jump_slot(linear) * size_of::<Entry>()) as u64);
        // and r11d, [gate]
        self.code.op(false, &[0x23], reg::R11, Mem::Low(self.source.gate));
        // cmp qword ptr [entry], linear
        self.code.op(true, &[0x81], 7, Mem::GsBase(reg::R11, jumps));
        self.code.raw(&(linear as i32).to_le_bytes());
        let miss = self.code.jump_if(5, 0);
        let site = self.site(Kind::Indirect { stack });
        self.cold(miss, site, ColdKind::Jump(self.set_number));
        // jmp [entry's code]
        self.code.op(false, &[0xff], 4, Mem::GsBase(reg::R11, jumps + 8));
    }

    /// Prepares for what every block that a jump cache leads to expects.
    pub(crate) fn leave_block(&mut self) {
        if self.shadow {
            // Where it leads looks whether something wants attention.
            self.end_shadow();
        }
        self.keep_flags(reg::R11);
    }

    /// Goes on at the linear address in R10, unless something wants attention. Wherever that is finds the flags in
    /// memory: most code overwrites them before it asks, and then nothing restores them.
    pub(crate) fn through_jump_cache(&mut self, stack: i32) {
        self.leave_block();
        let jumps = self.set.jumps;
        self.code.rorx(reg::R11, reg::R10, second::JUMP_ROTATION);
        // and r11d, [gate]
        self.code.op(false, &[0x23], reg::R11, Mem::Low(self.source.gate));
        self.code.compare(Mem::GsBase(reg::R11, jumps), reg::R10);
        let miss = self.code.jump_if(5, 0);
        let site = self.site(Kind::Indirect { stack });
        self.cold(miss, site, ColdKind::Jump(self.set_number));
        // jmp [entry's code]
        self.code.op(false, &[0xff], 4, Mem::GsBase(reg::R11, jumps + 8));
    }
}
