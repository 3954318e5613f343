//! Finding the block at the instruction pointer: what it is found by, and whether it is time to translate it.

use crate::compat::{is_flat32, unlimited};
use crate::dispatch::Translator;
use crate::key::{Key, Place};
use crate::seeing::is_upper;
use ambos_interpret::cpu::RIP;
use ambos_interpret::exec::native::Class;
use ambos_interpret::fetch::CodePage;
use ambos_interpret::mmu::{SETS, Tlb};
use ambos_vcpu::{Control, Platform};
use ambos_x86::{Cr4, Efer};

/// The bit of modes whose code reaches operands through views.
pub(crate) const VIEWS: u32 = 1 << 27;
/// The bit, besides, of modes where all that is seen is at one distance.
pub(crate) const EVEN: u32 = 1 << 26;
/// The bit, in keys of blocks only, of code that lies at that distance itself.
pub(crate) const CODE_SEEN: u32 = 1 << 25;

impl Translator {
    /// The mode that code is translated for, or `None` where it is not translated.
    #[inline]
    pub(crate) fn mode(&mut self) -> Option<u32> {
        let cpu = &self.head.cpu;
        let wide = cpu.is_64bit();
        // Looking on at 32-bit code is not provided for.
        if cpu.mmu_index >= SETS || !wide && (self.options.apart || !is_flat32(cpu)) {
            return None;
        }
        let Control { cr0, cr4, xcr0, efer, .. } = cpu.control;
        let [cr0_then, cr4_then, xcr0_then, efer_then] = self.permissions.0;
        // One by one: put together first and compared at once, they would wait for their way through memory.
        if (cr0 ^ cr0_then) | (cr4 ^ cr4_then) | (xcr0 ^ xcr0_then) | (efer ^ efer_then) != 0 {
            let bit = |class, bit: u32| u32::from(cpu.check_class(class).is_ok()) << bit;
            let bits = bit(Class::Sse, 0)
                | bit(Class::Avx, 1)
                | bit(Class::Avx512, 2)
                | u32::from(cpu.cr4().contains(Cr4::TSD)) << 3
                | u32::from(cpu.cr4().contains(Cr4::SMAP)) << 4
                | u32::from(cpu.cr4().contains(Cr4::FSGSBASE)) << 5
                | u32::from(cpu.efer().contains(Efer::SCE)) << 6
                | bit(Class::X87, 7)
                | bit(Class::Mmx, 8)
                | bit(Class::Wait, 9);
            self.permissions = ([cr0, cr4, xcr0, efer], bits);
        }
        let root = cpu.control.cr3;
        if self.spaces.root != root {
            self.spaces.switch(root, cpu.tlb.sees_some_of(root));
        }
        let narrow = match wide {
            true => 0,
            false => {
                let [fs, gs] = unlimited(cpu).map(u32::from);
                1 << 30 | fs << 29 | gs << 28
            }
        };
        let mode = self.mode_with(self.head.cpu.mode.cpl, self.head.cpu.mmu_index);
        Some(if wide { mode } else { mode & !(VIEWS | EVEN) | narrow })
    }

    /// The mode of a privilege level and set, with the permissions as they are.
    fn mode_with(&self, cpl: u8, set: usize) -> u32 {
        let views = match set == Tlb::USER && self.spaces.viewed {
            true if self.head.cpu.tlb.sees_evenly() => VIEWS | EVEN,
            true => VIEWS,
            false => 0,
        };
        self.permissions.1 << 4 | u32::from(cpl) << 2 | set as u32 | 1 << 31 | views
    }

    /// Sees to it that translated code finds only what fits in the jump caches of sets that it may change
    /// to by itself.
    #[inline]
    pub(crate) fn prepare_sets(&mut self, bank: usize) {
        if !self.head.cpu.is_64bit() {
            return;
        }
        for (set, cpl) in [(Tlb::SUPERVISOR, 0), (Tlb::USER, 3), (Tlb::SUPERVISOR_AC, 0)] {
            let mode = self.mode_with(cpl, set);
            if self.jump_modes[bank][set] != mode && set != self.head.cpu.mmu_index {
                self.jump_modes[bank][set] = mode;
                self.head.cpu.tlb.clear_jumps(set);
            }
        }
    }

    /// The block at the instruction pointer, if it is translated or becomes so now.
    pub(crate) fn find(&mut self, platform: &mut dyn Platform) -> Option<u32> {
        let mut mode = self.mode()?;
        if mode & VIEWS != 0 && self.prepare_view() {
            mode = self.mode()?;
        }
        let rip = self.head.cpu.native.gpr[RIP];
        if mode & EVEN != 0 && Tlb::is_seen_evenly(rip) {
            mode |= CODE_SEEN;
        }
        let Ok(page) = self.head.cpu.code_page(platform, rip) else { return None };
        // Programs are mapped where they are wanted; of a kernel, a page has one address.
        let program = self.head.cpu.mode.cpl == 3 && !is_upper(rip);
        let absolute = !program || !self.head.cpu.is_64bit();
        let key = Key {
            linear_page: if absolute { rip & !0xfff } else { 0 },
            ram_page: u32::try_from(page.ram_page).ok()?,
            mode,
            tail: 0,
            offset: (rip & 0xfff) as u16,
            absolute,
            groups: !std::mem::take(&mut self.ungrouped),
        };
        match self.cache.get(key) {
            Some(Place::Block(block)) => return Some(block),
            Some(Place::Straddles) => return self.find_straddling(platform, key, page),
            Some(Place::Never) => return None,
            None => {}
        }
        let plain = without_views(key);
        let known = plain != key && matches!(self.cache.get(plain), Some(Place::Block(_)));
        if key.groups && !known && !self.cold.is_due(&key, self.options.threshold) {
            return None;
        }
        let version = self.watch(platform, page);
        self.translate(key, &[(page, version)])
    }

    /// The block of one instruction at the instruction pointer that ends in the next page.
    fn find_straddling(
        &mut self,
        platform: &mut dyn Platform,
        key: Key,
        page: CodePage,
    ) -> Option<u32> {
        let next = (self.head.cpu.native.gpr[RIP] & !0xfff).wrapping_add(0x1000);
        let next = self.head.cpu.mask_rip(next);
        // The interpreter raises the fault of the fetch.
        let Ok(tail) = self.head.cpu.code_page(platform, next) else { return None };
        let key = Key { tail: u32::try_from(tail.ram_page + 1).ok()?, ..key };
        match self.cache.get(key) {
            Some(Place::Block(block)) => Some(block),
            Some(_) => None,
            None => {
                let pages =
                    [(page, self.watch(platform, page)), (tail, self.watch(platform, tail))];
                self.translate(key, &pages)
            }
        }
    }
}

/// What code of the same place without views is found by.
pub(crate) fn without_views(key: Key) -> Key {
    Key { mode: key.mode & !(VIEWS | EVEN | CODE_SEEN), ..key }
}
