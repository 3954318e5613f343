//! Address spaces by the frames of their top-level tables.
//!
//! Engines cache translations under small numbers. The hypervisor sees every change of a page
//! table, so a switch to a table forgets of what was cached of it only the pages whose entries were taken away or
//! restricted since, or everything if these were many (`pages::changes`).

use crate::pages::{Renewal, Stale};
use ambos_vcpu::GuestCpu;

/// Top-level tables remembered at the same time.
const SLOTS: usize = 8;

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    /// Machine frame; zero: none.
    root: u64,
    /// The epoch of the page tables that nothing older is cached of.
    epoch: u64,
    used: u64,
}

/// The numbers of address spaces of one vCPU.
#[derive(Debug, Default)]
pub(crate) struct Spaces {
    slots: [Slot; SLOTS],
    switches: u64,
    current: usize,
}

impl Spaces {
    fn find(&mut self, root: u64) -> (usize, bool) {
        if let Some(index) = self.slots.iter().position(|slot| slot.root == root) {
            return (index, true);
        }
        let oldest =
            (0..SLOTS).filter(|&index| index != self.current || self.slots[index].root == 0);
        let index = oldest.min_by_key(|&index| self.slots[index].used).unwrap_or(0);
        (index, false)
    }

    fn switch(&mut self, cpu: &mut dyn GuestCpu, root: u64, index: usize) {
        self.switches += 1;
        self.slots[index].root = root;
        self.slots[index].used = self.switches;
        self.current = index;
        cpu.switch_space(root << 12, number(index));
    }

    /// The epoch of what is cached of `root`, if anything is.
    pub(crate) fn epoch(&self, root: u64) -> Option<u64> {
        self.slots.iter().find(|slot| slot.root == root).map(|slot| slot.epoch)
    }

    /// Switches to `root`, whose renewal since [`Spaces::epoch`] this is.
    pub(crate) fn enter(&mut self, cpu: &mut dyn GuestCpu, root: u64, renewal: Renewal) {
        self.renew(cpu, root, renewal);
        let (index, _) = self.find(root);
        self.switch(cpu, root, index);
    }

    /// Forgets what is wrong of what is cached of `root`, whose renewal since [`Spaces::epoch`] this is.
    pub(crate) fn renew(&mut self, cpu: &mut dyn GuestCpu, root: u64, renewal: Renewal) {
        let (index, known) = self.find(root);
        match renewal.stale {
            Stale::Pages(pages) if known => {
                for linear in pages {
                    cpu.flush_page_of(number(index), linear);
                }
            }
            _ => cpu.flush_space(number(index)),
        }
        self.switches += 1;
        self.slots[index] = Slot { root, epoch: renewal.epoch, used: self.switches };
    }

    /// Switches between the tables of kernel and user mode, which flushes nothing.
    pub(crate) fn resume(&mut self, cpu: &mut dyn GuestCpu, root: u64) {
        let (index, known) = self.find(root);
        if !known {
            cpu.flush_space(number(index));
            self.slots[index].epoch = 0;
        }
        self.switch(cpu, root, index);
    }
}

/// Number 0 is the engine's own at its start.
fn number(slot: usize) -> u16 {
    slot as u16 + 1
}
