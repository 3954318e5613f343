//! Keeping translated code current: it is dropped when the guest code that it was made of changes.

use crate::dispatch::Translator;
use ambos_interpret::fetch::CodePage;
use ambos_vcpu::Platform;
use std::sync::Arc;

impl Translator {
    /// Sees to it that writes to a page are noticed: only then may code be made of its bytes. Returns the
    /// code version that such code is of.
    pub(crate) fn watch(&mut self, platform: &mut dyn Platform, page: CodePage) -> u32 {
        let version = self.head.cpu.watch_page(platform, page);
        if self.cache.is_outdated(page.ram_page, version) {
            self.invalidate(page.ram_page);
        }
        version
    }

    /// Drops all translated code.
    pub(crate) fn flush(&mut self) {
        self.statistics.flushes += 1;
        self.cache.clear(self.arena.start() as u64);
        self.arena.truncate(self.stubs_size);
        self.head.cpu.tlb.clear_all_jumps();
        self.detours.clear();
    }

    fn invalidate(&mut self, ram_page: usize) {
        let (dropped, numbers) =
            self.cache.invalidate(&mut self.arena, self.stubs.second.barred, ram_page);
        for (set, number) in numbers {
            self.head.cpu.tlb.forget_code_page(set, number);
            self.unlink_far(set, number);
        }
        // Jump caches may go on leading to them: their entries lead out.
        self.statistics.invalidated += dropped;
    }

    /// Drops blocks whose guest code was written to.
    #[inline]
    pub(crate) fn keep_current(&mut self) {
        let epoch = self.head.cpu.ram.page_flags().epoch();
        if epoch != self.head.slots.epoch {
            self.drop_changed(epoch);
        }
    }

    #[cold]
    fn drop_changed(&mut self, epoch: u64) {
        let own = std::mem::take(&mut self.head.cpu.code_writes);
        let by_others = epoch.wrapping_sub(self.head.slots.epoch) != own.len() as u64;
        self.head.slots.epoch = epoch;
        for ram_page in own {
            self.invalidate(ram_page);
        }
        if by_others {
            let ram = Arc::clone(&self.head.cpu.ram);
            for ram_page in self.cache.changed_pages(|page| ram.page_flags().version(page)) {
                self.invalidate(ram_page);
            }
        }
    }
}
