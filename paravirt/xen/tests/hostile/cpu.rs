//! A vCPU that runs nothing, but reads and writes memory as one would: by the page tables, and by what it
//! has cached of them.

#[macro_use]
#[path = "registers.rs"]
mod registers;

use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};
use ambos_vcpu::{CpuState, GuestCpu, GuestFault};
use ambos_x86::paging::{ADDRESS_MASK, PAGE_SIZE, PRESENT, USER, WRITE};
use std::collections::HashMap;
use std::sync::Arc;

/// A cached translation.
#[derive(Clone, Copy)]
pub(crate) struct Cached {
    pub(crate) frame: u64,
    pub(crate) writable: bool,
}

pub(crate) struct Cpu {
    pub(crate) state: CpuState,
    ignores_interrupt_flag: bool,
    pub(crate) ram: Arc<GuestRam>,
    /// Guest-physical address of the top-level table, and the number of its address space.
    pub(crate) space: (u64, u16),
    /// By address space and linear page.
    pub(crate) cached: HashMap<(u16, u64), Cached>,
}

impl Cpu {
    pub(crate) fn new(ram: Arc<GuestRam>) -> Self {
        let state = CpuState::reset();
        Self { state, ignores_interrupt_flag: false, ram, space: (0, 0), cached: HashMap::new() }
    }

    /// What the page tables say of a page at present.
    pub(crate) fn walk(&self, linear: u64) -> Option<Cached> {
        if (linear as i64) << 16 >> 16 != linear as i64 {
            return None;
        }
        let (mut table, mut writable) = (self.space.0, true);
        for shift in [39, 30, 21, 12] {
            let entry = self.ram.load_word(table + (linear >> shift & 511) * 8);
            let large = shift != 12 && entry & PAGE_SIZE != 0;
            if entry & (PRESENT | USER) != PRESENT | USER || large {
                return None;
            }
            writable &= entry & WRITE != 0;
            table = entry & ADDRESS_MASK;
        }
        Some(Cached { frame: table >> 12, writable })
    }

    fn translate(&mut self, linear: u64, write: bool) -> Result<u64, GuestFault> {
        let page = (self.space.1, linear >> 12);
        let usable = |found: &Cached| found.writable || !write;
        let found = match self.cached.get(&page).copied().filter(usable) {
            Some(found) => Some(found),
            None => self.walk(linear).filter(usable),
        };
        let fault = GuestFault { address: linear, error: 0 };
        let found = found.ok_or(fault)?;
        let address = found.frame << 12 | linear & 0xfff;
        if self.ram.host_page(address).is_none() {
            return Err(fault);
        }
        self.cached.insert(page, found);
        Ok(address)
    }
}

impl GuestCpu for Cpu {
    registers_in_state!();

    fn read(&mut self, linear: u64, data: &mut [u8]) -> Result<(), GuestFault> {
        for (index, byte) in data.iter_mut().enumerate() {
            let address = self.translate(linear.wrapping_add(index as u64), false)?;
            *byte = self.ram.memory().read_obj(GuestPhysAddr(address)).unwrap();
        }
        Ok(())
    }
    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), GuestFault> {
        for (index, byte) in data.iter().enumerate() {
            let address = self.translate(linear.wrapping_add(index as u64), true)?;
            self.ram.memory().write_obj(*byte, GuestPhysAddr(address)).unwrap();
        }
        Ok(())
    }
    fn fetch(&mut self, linear: u64, data: &mut [u8]) -> usize {
        self.read(linear, data).map_or(0, |()| data.len())
    }
    fn switch_space(&mut self, root: u64, space: u16) {
        self.space = (root, space);
    }
    fn flush_space(&mut self, space: u16) {
        self.cached.retain(|page, _| page.0 != space);
    }
    fn flush_all(&mut self) {
        self.cached.clear();
    }
    fn flush_page(&mut self, linear: u64) {
        self.cached.retain(|page, _| page.1 != linear >> 12);
    }
    fn flush_page_of(&mut self, space: u16, linear: u64) {
        self.cached.remove(&(space, linear >> 12));
    }
    fn flush_lower_half_of(&mut self, space: u16) {
        self.cached.retain(|page, _| page.0 != space || page.1 >> 35 & 1 != 0);
    }
    fn protect_frame(&mut self, gpa: u64) {
        for found in self.cached.values_mut().filter(|found| found.frame == gpa >> 12) {
            found.writable = false;
        }
    }
    fn serve_flush(&mut self) {}
    fn wrote_frame(&mut self, _: u64) {}
}
