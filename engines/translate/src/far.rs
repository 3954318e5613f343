//! Jumps to other pages whose place is known: linked when they are first taken, as those within a page are.
//!
//! Where the other page is mapped may change, and programs that share code may have it at different addresses. Pages
//! of code are numbered, and each bank of the TLB has the linear address at which it last found the page with a number. The
//! jump compares that with the address it is about to go to: if they agree, what is there is what it was linked to.
//! If not it leaves, the page is found, and the comparison holds until the translation of the page is dropped.
//!
//! When a page is written to, the jumps that are linked to it are unlinked, and its number may become another page's.

use crate::build::{Builder, ColdKind};
use crate::dispatch::Translator;
use crate::emit::{Mem, reg, relative};
use crate::layout;
use crate::site::Kind;
use ambos_hostcode::arena::Region;

/// Bytes from the displacement of the page's place to that of the jump that is taken if the page is elsewhere;
/// with an absolute address there is an immediate operand in between.
const TO_MISS: u64 = 4 + 2;
const TO_MISS_ABSOLUTE: u64 = 4 + 4 + 2;
/// The number that no page has.
pub(crate) const NO_PAGE: u16 = 0;

impl Builder<'_> {
    /// Goes on at `target`, relative to the block's page and in another one, by a jump that can be linked; `false`,
    /// with nothing emitted, if there can be none.
    pub(crate) fn linked_far_edge(&mut self, target: u64, stack: i32) -> bool {
        let Ok(target) = i32::try_from(target as i64) else { return false };
        let page = target & !0xfff;
        if page == 0 {
            // An instruction that ends in the next page.
            return false;
        }
        let linear = i32::try_from(self.page_base().wrapping_add(page as u64) as i64);
        let absolute = self.source.absolute;
        let Ok(stack) = i8::try_from(stack) else { return false };
        if !self.source.links || self.source.narrow || absolute && linear.is_err() {
            return false;
        }
        // Of all jumps that make up a loop one goes back.
        let polls = target < 0 || self.shadow;
        self.leave_block();
        let mut leaving = Vec::with_capacity(2);
        if polls {
            leaving.push(self.poll_gate());
        }
        let unknown = self.set.code_page(NO_PAGE);
        let page_patch;
        if let (true, Ok(linear)) = (absolute, linear) {
            // cmp qword ptr [place], linear
            self.code.op(true, &[0x81], 7, Mem::Gs(unknown));
            page_patch = self.code.here() - 4;
            self.code.raw(&linear.to_le_bytes());
            leaving.push(self.code.jump_if(5, 0));
            debug_assert_eq!(leaving.last(), Some(&(page_patch + TO_MISS_ABSOLUTE)));
        } else {
            if self.next_in_r10 {
                let next = i32::from(self.offset) + i32::from(self.length);
                self.code.lea(reg::R11, Mem::Base(reg::R10, page.wrapping_sub(next)));
            } else {
                self.code.load(reg::R11, Mem::Gs(layout::CODE_BASE));
                self.code.lea(reg::R11, Mem::Base(reg::R11, page));
            }
            // cmp r11, [place]
            self.code.op(true, &[0x3b], reg::R11, Mem::Gs(unknown));
            page_patch = self.code.here() - 4;
            leaving.push(self.code.jump_if(5, 0));
            debug_assert_eq!(leaving.last(), Some(&(page_patch + TO_MISS)));
            self.code.store(Mem::Gs(layout::CODE_BASE), reg::R11);
        }
        let jump_patch = self.code.jump(0);
        let here = self.code.here();
        // It is not taken before it is linked.
        self.code.bind(jump_patch, here);
        let site = self.site(Kind::Far { page_patch, jump_patch, target, stack });
        for displacement in leaving {
            self.cold(displacement, site, ColdKind::Leave);
        }
        true
    }
}

/// A jump that a [`Kind::Far`] describes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FarJump {
    /// Number of the site and of the block it is in.
    pub(crate) site: u32,
    pub(crate) block: u32,
    /// As in [`Kind::Far`].
    pub(crate) page_patch: u64,
    pub(crate) jump_patch: u64,
    /// Where it leads now.
    pub(crate) linear: u64,
}

impl Translator {
    /// Links a jump to the block `found`, or has it look into the jump cache from now on if that has no number.
    /// `false` if so many are linked that all code has been dropped.
    pub(crate) fn link_far(&mut self, jump: FarJump, found: u32) -> bool {
        let next = self.cache.block(found);
        let (set, far) = (next.key().set(), next.entries().far);
        let Some(number) = next.variant.code_page() else {
            self.detour(jump);
            return true;
        };
        let place = self.sets[set].code_page(number).to_le_bytes();
        if self.arena.bytes(jump.page_patch as usize, place.len()).is_some_and(|now| now == place) {
            // The page was only to be found again.
            return true;
        }
        let offset = (jump.page_patch - self.arena.start() as u64) as u32;
        if !self.cache.numbers.note_link(set, number, offset) {
            self.flush();
            return false;
        }
        self.statistics.links += 1;
        self.arena.patch(jump.page_patch as usize, &place);
        self.arena.patch(jump.jump_patch as usize, &relative(jump.jump_patch, far));
        true
    }

    /// Takes a page's number back: the jumps that are linked to it leave from now on. Some may be linked to another
    /// page by now, and will be so again.
    pub(crate) fn unlink_far(&mut self, set: usize, number: u16) {
        let unknown = self.sets[set].code_page(NO_PAGE).to_le_bytes();
        for offset in self.cache.numbers.give_back(set, number) {
            self.arena.patch(self.arena.start() + offset as usize, &unknown);
        }
    }

    /// Lets a jump that cannot be linked look into the jump cache instead of leaving each time.
    fn detour(&mut self, jump: FarJump) {
        let FarJump { site, block, page_patch, linear, .. } = jump;
        if !self.detours.insert(site) {
            return;
        }
        let absolute = self.cache.block(block).key().absolute;
        let away = linear.wrapping_sub(self.page_of(block)) as i32;
        let [_, code] = &mut self.code.0;
        code.start(self.arena.next(Region::Cold) as u64);
        let start = code.here();
        if absolute {
            code.constant(reg::R10, linear);
        } else {
            code.load(reg::R10, Mem::Gs(layout::CODE_BASE));
            code.lea(reg::R10, Mem::Base(reg::R10, away));
        }
        code.constant(reg::R11, site.into());
        code.jump(self.stubs.second.jump(self.head.cpu.mmu_index));
        if self.arena.push(Region::Cold, &code.bytes).is_some() {
            let displacement = page_patch + if absolute { TO_MISS_ABSOLUTE } else { TO_MISS };
            self.arena.patch(displacement as usize, &relative(displacement, start));
        }
    }
}
