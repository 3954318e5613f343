//! What programs see through views, as they run: when that begins, and pages that are missing.
//!
//! Code that reaches its operands so is [`crate::views`]' subject, which address spaces are to have it
//! [`crate::spaces`]', and what is mapped the TLB's.

use crate::dispatch::Translator;
use crate::exits::{Filled, Next};
use crate::views::ViewState;
use ambos_hostcode::HostFault;
use ambos_interpret::cpu::RIP;
use ambos_interpret::mmu::Tlb;
use ambos_vcpu::Platform;
use ambos_x86::gpr;
use std::sync::Arc;

impl Translator {
    /// Sees to it that the bank in use can serve views if its address space has them; whether that took anything.
    pub(crate) fn prepare_view(&mut self) -> bool {
        let root = self.spaces.root;
        if !self.spaces.viewed || self.head.cpu.tlb.is_prepared(root) {
            return false;
        }
        let cpu = &self.head.cpu;
        if cpu.mode.cpl == 3 && !is_upper(cpu.native.gpr[RIP]) {
            self.spaces.note_stack(cpu.native.gpr[gpr::RSP]);
        }
        self.head.cpu.tlb.prepare_view(root, self.spaces.stack);
        true
    }

    /// Lets the page be seen that the guest was to map, once its program runs again: it is about to be accessed.
    pub(crate) fn see_awaited(&mut self, platform: &mut dyn Platform) {
        let cpu = &self.head.cpu;
        if cpu.mode.cpl != 3 || cpu.mmu_index != Tlb::USER || is_upper(cpu.native.gpr[RIP]) {
            return;
        }
        let Some(linear) = self.awaited.take() else { return };
        if self.spaces.viewed && self.fill_ahead(platform, linear, false) == Filled::Yes {
            let began = self.spaces.now();
            self.prepare_view();
            let ram = Arc::clone(&self.head.cpu.ram);
            self.head.cpu.tlb.see(&ram, linear);
            self.spaces.note_lost(began);
        }
    }

    /// Lets a program that has been running for some time reach its operands through views.
    pub(crate) fn consider_views(&mut self) {
        let cpu = &self.head.cpu;
        let program = cpu.mode.cpl == 3 && cpu.mmu_index == Tlb::USER && cpu.is_64bit();
        if !program || is_upper(cpu.native.gpr[RIP]) || cpu.control.cr3 != self.spaces.root {
            return;
        }
        if self.spaces.look(self.statistics.tlb_misses) {
            self.statistics.views_opened += 1;
            self.prepare_view();
            let ram = Arc::clone(&self.head.cpu.ram);
            self.head.cpu.tlb.see_all(&ram);
        }
    }

    /// Serves a fault of the access, by the instruction at an offset in a block, to a page that is not seen, or not so.
    pub(crate) fn serve_view(
        &mut self,
        platform: &mut dyn Platform,
        (block, offset): (u32, u16),
        state: ViewState,
    ) -> Next {
        /// The bit of a page fault's error code that says that it was a write.
        const WRITE: u64 = 2;
        let frame = &self.head.slots.frame;
        let (pc, write) = (frame.fault_code as u64, frame.error & WRITE != 0);
        let address = match frame.host_fault() {
            Some(HostFault::Memory { address }) => Some(address),
            _ => None,
        };
        let tlb = &self.head.cpu.tlb;
        let linear = address.and_then(|address| tlb.seen_from(address));
        let unknown =
            address.is_some_and(|address| tlb.is_nowhere(address) || tlb.is_guard(address));
        let rip = self.page_of(block).wrapping_add(u64::from(offset));
        self.statistics.view_faults += 1;
        let began = self.spaces.now();
        let outcome = match linear {
            Some(linear) => self.fill(platform, linear, 1, write),
            None => Filled::No,
        };
        if let (Filled::Yes, Some(linear), true) = (outcome, linear, self.spaces.viewed) {
            // What lies around it is likely to be next.
            for page in self.head.cpu.tlb.unseen_around(linear) {
                if page != linear & !0xfff {
                    self.fill_ahead(platform, page, false);
                }
            }
            let ram = Arc::clone(&self.head.cpu.ram);
            let found = self.cache.block_at(pc).filter(|&found| found == block);
            let is_current = found.is_some_and(|found| !self.cache.block(found).stale);
            let seen = self.head.cpu.tlb.see(&ram, linear);
            self.spaces.note_lost(began);
            if seen && is_current && self.spaces.viewed {
                return Next::Continue(pc);
            }
        } else {
            self.spaces.note_lost(began);
        }
        self.take_flags_from(state.flags_kept);
        let (slots, gpr) = (&self.head.slots, [gpr::R10, gpr::R11]);
        let scratch = slots.scratch;
        let registers = &mut self.head.cpu.native.gpr;
        for home in (0..2).filter(|&home| state.homes[home]) {
            registers[gpr[home]] = scratch[home];
        }
        let rsp = &mut registers[gpr::RSP];
        *rsp = rsp.wrapping_add(i64::from(state.behind) as u64);
        match outcome {
            Filled::Fault(fault) => {
                self.awaited = linear;
                self.deliver(platform, rip, fault)
            }
            _ => {
                self.statistics.memory_interpreted += 1;
                let next = self.interpret_at(platform, rip);
                if unknown {
                    // The TLB has the page now.
                    let began = self.spaces.now();
                    let ram = Arc::clone(&self.head.cpu.ram);
                    self.head.cpu.tlb.see_all(&ram);
                    self.spaces.note_lost(began);
                }
                next
            }
        }
    }
}

/// Whether an address is in no program.
pub(crate) fn is_upper(linear: u64) -> bool {
    linear >> 47 != 0
}

/// Whether the processor has a fast PEXT: AMD's had none before their family 19h.
pub(crate) fn has_fast_pext() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0).ebx;
    let signature = std::arch::x86_64::__cpuid(1).eax;
    let family = (signature >> 8 & 0xf) + (signature >> 20 & 0xff);
    vendor != u32::from_le_bytes(*b"Auth") || family >= 0x19
}
