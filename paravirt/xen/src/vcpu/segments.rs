//! The guest's segments: descriptors by selector, and the tables they are in.

use super::XenVcpu;
use super::bounce::{FLAT_CODE, FLAT_DATA};
use crate::descriptor;
use crate::domain::Shootdown;
use crate::layout::Layout;
use crate::pages::Use;
use ambos_vcpu::{GuestCpu, Segment};
use ambos_x86::segment::attr;
use ambos_xen_abi::Errno;
use ambos_xen_abi::mmu::PER_DOMAIN_START;
use ambos_xen_abi::segment::{FIRST_RESERVED_GDT_ENTRY, FIRST_RESERVED_GDT_PAGE};

/// Page of the local table in a vCPU's area.
const LOCAL: u64 = 16;

impl XenVcpu {
    /// The descriptor that `selector` names; `None` if there is none.
    pub(crate) fn descriptor(&self, cpu: &mut dyn GuestCpu, selector: u16) -> Option<u64> {
        let index = u64::from(selector >> 3);
        let page = index / 512 + if selector & 4 != 0 { LOCAL } else { 0 };
        if selector & 4 != 0 && index >= u64::from(self.ldt.1) {
            return None;
        }
        let ram = &self.domain.ram;
        let frame = match self.domain.layout.mapped_descriptors(ram, self.id, page) {
            Some(frame) => frame,
            None if selector & 4 != 0 => self.map_local(cpu, page - LOCAL)?,
            None => return None,
        };
        Some(ram.load_word((frame << 12) + index % 512 * 8))
    }

    /// The code segment that a return to `selector` loads.
    pub(crate) fn code_segment(&self, cpu: &mut dyn GuestCpu, selector: u16) -> Option<Segment> {
        if selector == FLAT_CODE.selector {
            return Some(FLAT_CODE);
        }
        let found = descriptor::segment(self.descriptor(cpu, selector)?, selector);
        let needed = attr::P | attr::S | attr::CODE;
        let privilege = found.attributes >> attr::DPL_SHIFT & 3;
        let conforming = found.attributes & attr::DOWN_CONFORMING != 0;
        let both = attr::L | attr::DB;
        (found.attributes & needed == needed
            && (privilege == 3 || conforming)
            && found.attributes & both != both)
            .then_some(found)
    }

    /// The stack segment that a return to `selector` loads.
    pub(crate) fn stack_segment(&self, cpu: &mut dyn GuestCpu, selector: u16) -> Option<Segment> {
        if selector == FLAT_DATA.selector {
            return Some(FLAT_DATA);
        }
        let found = descriptor::segment(self.descriptor(cpu, selector)?, selector);
        let needed = attr::P | attr::S | attr::READ_WRITE;
        let privilege = found.attributes >> attr::DPL_SHIFT & 3;
        (found.attributes & (needed | attr::CODE) == needed && privilege == 3).then_some(found)
    }

    /// The data segment that loading `selector` makes.
    pub(crate) fn data_segment(&self, cpu: &mut dyn GuestCpu, selector: u16) -> Option<Segment> {
        let found = descriptor::segment(self.descriptor(cpu, selector)?, selector);
        let needed = attr::P | attr::S;
        let code_only = found.attributes & (attr::CODE | attr::READ_WRITE) == attr::CODE;
        let privilege = found.attributes >> attr::DPL_SHIFT & 3;
        (found.attributes & needed == needed && !code_only && privilege == 3).then_some(found)
    }

    /// Makes `frames` the global descriptor table, with `entries` entries.
    pub(crate) fn set_gdt(
        &mut self,
        cpu: &mut dyn GuestCpu,
        frames: &[u64],
        entries: u64,
    ) -> Result<(), Errno> {
        if entries > FIRST_RESERVED_GDT_ENTRY as u64 {
            return Err(Errno::EINVAL);
        }
        let domain = std::sync::Arc::clone(&self.domain);
        let mut pages = domain.pages(cpu);
        let mut taken = Vec::with_capacity(FIRST_RESERVED_GDT_PAGE);
        for &frame in frames {
            let mut forget = Shootdown { domain: &domain, own: self.id, cpu: &mut *cpu };
            if pages.take(frame, Use::Descriptors, &mut forget).is_err() {
                taken.drain(..).for_each(|frame| pages.give(frame));
                return Err(Errno::EINVAL);
            }
            taken.push(frame);
        }
        let old = std::mem::replace(&mut self.gdt, taken);
        for page in 0..FIRST_RESERVED_GDT_PAGE {
            let frame = self.gdt.get(page).copied();
            domain.layout.map_descriptors(&domain.ram, self.id, page as u64, frame);
        }
        old.into_iter().for_each(|frame| pages.give(frame));
        drop(pages);
        self.flush_descriptors(cpu);
        Ok(())
    }

    /// Makes a range of linear addresses the local descriptor table.
    pub(crate) fn set_ldt(&mut self, cpu: &mut dyn GuestCpu, base: u64, entries: u32) {
        self.drop_local(cpu);
        self.ldt = (base, entries);
        self.load_tables(cpu);
    }

    /// Forgets which frames the local table lies in: they are looked up when they are needed.
    pub(crate) fn drop_local(&mut self, cpu: &mut dyn GuestCpu) {
        if self.ldt.1 == 0 {
            return;
        }
        let domain = std::sync::Arc::clone(&self.domain);
        let mut mapped = Vec::new();
        for page in LOCAL..2 * LOCAL {
            if let Some(frame) = domain.layout.mapped_descriptors(&domain.ram, self.id, page) {
                domain.layout.map_descriptors(&domain.ram, self.id, page, None);
                mapped.push(frame);
            }
        }
        if mapped.is_empty() {
            return;
        }
        let mut pages = domain.pages(cpu);
        mapped.into_iter().for_each(|frame| pages.give(frame));
        drop(pages);
        self.flush_descriptors(cpu);
    }

    /// Maps page `page` of the local table and returns its frame.
    fn map_local(&self, cpu: &mut dyn GuestCpu, page: u64) -> Option<u64> {
        let linear = self.ldt.0.checked_add(page << 12)?;
        if page * 512 >= u64::from(self.ldt.1) || !crate::bytes::is_guest_range(linear, 4096) {
            return None;
        }
        let domain = &self.domain;
        let mut pages = domain.pages(cpu);
        let entry = domain.ram.load_word(pages.leaf_address(self.kernel_root, linear)?);
        if !crate::pages::entry::is_present(entry) {
            return None;
        }
        let frame = crate::pages::entry::frame(entry);
        let mut forget = Shootdown { domain, own: self.id, cpu };
        pages.take(frame, Use::Descriptors, &mut forget).ok()?;
        domain.layout.map_descriptors(&domain.ram, self.id, LOCAL + page, Some(frame));
        Some(frame)
    }

    /// Tells the engine where the tables are.
    pub(crate) fn load_tables(&self, cpu: &mut dyn GuestCpu) {
        let (global, local) = Layout::descriptor_tables(self.id);
        let limit = match self.ldt.1 {
            0 => 0,
            entries => (entries.min(8192) * 8 - 1) as u16,
        };
        cpu.set_descriptor_tables((global, 0xffff), (local, limit));
        let reserved = FIRST_RESERVED_GDT_PAGE as u64;
        let frame = Some(self.domain.layout.descriptors);
        self.domain.layout.map_descriptors(&self.domain.ram, self.id, reserved, frame);
    }

    fn flush_descriptors(&self, cpu: &mut dyn GuestCpu) {
        let (global, _) = Layout::descriptor_tables(self.id);
        for page in 0..2 * LOCAL {
            cpu.flush_page(global + (page << 12));
        }
    }

    /// A page fault in the hypervisor's view of this vCPU's descriptor tables: maps what was missing, or
    /// says what the guest did wrong: a page fault in its own table, or a bad selector.
    pub(crate) fn descriptor_fault(&self, cpu: &mut dyn GuestCpu, address: u64) -> DescriptorFault {
        let (global, local) = Layout::descriptor_tables(self.id);
        let size = LOCAL << 12;
        if (local..local + size).contains(&address) {
            let offset = address - local;
            return match self.map_local(cpu, offset >> 12) {
                Some(_) => DescriptorFault::Mapped,
                None => DescriptorFault::Page(self.ldt.0.wrapping_add(offset)),
            };
        }
        if (global..global + size).contains(&address) {
            return DescriptorFault::Selector((address - global) as u32 & 0xfff8);
        }
        DescriptorFault::Other
    }
}

/// What a page fault in a descriptor table means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DescriptorFault {
    /// It is there now.
    Mapped,
    /// The guest's own table is not there, at this linear address.
    Page(u64),
    /// There is no descriptor for this selector.
    Selector(u32),
    /// It was no descriptor table.
    Other,
}

/// Whether an address lies in the hypervisor's view of descriptor tables.
pub(crate) fn is_descriptor_area(address: u64) -> bool {
    let size = u64::from(crate::layout::MAX_VCPUS) * ((2 * LOCAL) << 12);
    (PER_DOMAIN_START..PER_DOMAIN_START + size).contains(&address)
}
