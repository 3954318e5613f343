//! How blocks go on: to another place in the page by a jump that is linked when it is
//! first taken, elsewhere through the jump cache.

use crate::build::{Builder, ColdKind, Far};
use crate::emit::{Mem, reg};
use crate::layout;
use crate::site::Kind;

impl Builder<'_> {
    /// Goes on at `target`, relative to the page, if the condition holds.
    pub(crate) fn edge(&mut self, target: u64, condition: Option<u8>, stack: i64) {
        self.want_flags();
        // A straddling instruction depends on where the next page is mapped, as far ones do.
        let inside = target < 0x1000 && !self.straddles(target);
        match condition {
            Some(condition) => {
                let displacement = self.code.jump_if(condition, 0);
                if inside {
                    let site = self.site(Kind::Link { patch: displacement, target, groups: true });
                    self.cold(displacement, site, ColdKind::Leave);
                } else {
                    self.fars.push(Far { displacement, target, offset: self.offset });
                }
            }
            None if inside => {
                let displacement = self.code.jump(0);
                let site = self.site(Kind::Link { patch: displacement, target, groups: true });
                self.cold(displacement, site, ColdKind::Leave);
            }
            None => self.far_edge(target, stack),
        }
    }

    pub(crate) fn far_edge(&mut self, target: u64, stack: i64) {
        let away = i32::try_from(target as i64);
        match away {
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
                let linear = self.page_base().wrapping_add(target);
                self.code.constant(reg::R10, linear);
            }
        }
        self.through_jump_cache(stack);
    }

    /// Goes on at the linear address in R10.
    pub(crate) fn through_jump_cache(&mut self, stack: i64) {
        self.want_flags();
        if self.shadow {
            // Where it leads looks whether something wants attention.
            self.end_shadow();
        }
        let jumps = self.set.jumps;
        self.code.rorx(reg::R11, reg::R10, 12);
        self.code.lea(reg::R11, Mem::Sum(reg::R11, reg::R10));
        self.code.pext(reg::R11, reg::R11, layout::JUMP_MASK);
        self.code.lea(reg::R11, Mem::Sum(reg::R11, reg::R11));
        self.code.store(Mem::Gs(layout::SAVED_RCX), reg::RCX);
        self.code.load(reg::RCX, Mem::GsIndex8(reg::R11, jumps));
        self.code.lea(reg::RCX, Mem::Sum(reg::RCX, reg::R10));
        let site = self.site(Kind::Indirect { stack });
        // jrcxz over the two instructions that leave
        self.code.raw(&[0xe3, 14]);
        self.code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
        let displacement = self.code.jump(0);
        self.cold(displacement, site, ColdKind::Jump(self.set_number));
        self.code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
        // jmp [entry's code]
        self.code.op(false, &[0xff], 4, Mem::GsIndex8(reg::R11, jumps + 8));
    }
}
