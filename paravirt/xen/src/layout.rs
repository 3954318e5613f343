//! Which frames of RAM are the guest's, and what the others are for.
//!
//! The guest's RAM is larger than what the guest is given: its first frames belong to the hypervisor, which is
//! why a guest's physical frame n is not machine frame n. They hold what the guest sees but does not own.

use ambos_memory::{GuestRam, PCI_HOLE_END, PCI_HOLE_START};
use ambos_xen_abi::{grant, mmu};

/// Frames of a grant table at most.
pub(crate) const GRANT_FRAMES: u64 = 64;
/// Frames of the status of as many entries as a table of the second layout has.
pub(crate) const STATUS_FRAMES: u64 =
    (GRANT_FRAMES * grant::V2_PER_FRAME * grant::V2_STATUS).div_ceil(4096);
/// vCPUs at most.
pub const MAX_VCPUS: u32 = 128;
/// Pages of descriptor tables of one vCPU: sixteen global, sixteen local.
pub(crate) const DESCRIPTOR_PAGES: u64 = 32;
/// The reserve is a multiple of this, so that large pages of the guest stay aligned.
const ALIGN: u64 = 512;

/// The plan of a guest's RAM, in machine frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Frames of the guest.
    pub guest_frames: u64,
    /// Frames of the hypervisor, which are the first.
    pub reserve: u64,
    /// One more than the highest frame.
    pub end: u64,
    /// Level-3 table of the machine-to-physical table.
    pub(crate) machphys_l3: u64,
    pub(crate) machphys_l2: u64,
    pub(crate) machphys_l1: u64,
    /// First frame of the machine-to-physical table.
    pub machphys: u64,
    /// Its frames.
    pub machphys_frames: u64,
    /// Level-3 table of the per-domain area.
    pub(crate) domain_l3: u64,
    pub(crate) domain_l2: u64,
    pub(crate) domain_l1: u64,
    /// Xen's own page of descriptors.
    pub(crate) descriptors: u64,
    /// The shared page.
    pub shared_info: u64,
    /// First frame of the grant table.
    pub grants: u64,
    /// First frame of the status of its entries in the second layout.
    pub(crate) grant_status: u64,
    /// First of the frames that stand in for page tables, one for each vCPU.
    pub(crate) scratch: u64,
}

impl Layout {
    /// The plan for a guest with `size` bytes, a multiple of the page size.
    pub fn new(size: u64) -> Self {
        let guest_frames = size >> 12;
        let mut reserve = ALIGN;
        loop {
            let layout = Self::with_reserve(guest_frames, reserve);
            let needed = (layout.scratch + u64::from(MAX_VCPUS)).next_multiple_of(ALIGN);
            if needed <= reserve {
                return layout;
            }
            reserve = needed;
        }
    }

    fn with_reserve(guest_frames: u64, reserve: u64) -> Self {
        let total = guest_frames + reserve;
        let hole =
            if total << 12 > PCI_HOLE_START { (PCI_HOLE_END - PCI_HOLE_START) >> 12 } else { 0 };
        let end = total + hole;
        let machphys_frames = (end * 8).div_ceil(4096);
        let l1_tables = machphys_frames.div_ceil(512);
        let l2_tables = l1_tables.div_ceil(512);
        let domain_l1_tables = (u64::from(MAX_VCPUS) * DESCRIPTOR_PAGES).div_ceil(512);
        // Frame 0 stays unused: it is what an empty field names.
        let mut next = 1;
        let mut take = |count| {
            next += count;
            next - count
        };
        Self {
            guest_frames,
            reserve,
            end,
            machphys_l3: take(1),
            machphys_l2: take(l2_tables),
            machphys_l1: take(l1_tables),
            machphys_frames,
            domain_l3: take(1),
            domain_l2: take(1),
            domain_l1: take(domain_l1_tables),
            descriptors: take(1),
            shared_info: take(1),
            grants: take(GRANT_FRAMES),
            grant_status: take(STATUS_FRAMES),
            machphys: take(machphys_frames),
            scratch: take(0),
        }
    }

    /// Bytes of RAM that the guest's machine needs.
    pub fn ram_size(&self) -> u64 {
        (self.guest_frames + self.reserve) << 12
    }

    /// The machine frame of the guest's physical frame `pfn` at the start; `None` past the end.
    pub fn machine_frame(&self, pfn: u64) -> Option<u64> {
        if pfn >= self.guest_frames {
            return None;
        }
        let frame = pfn + self.reserve;
        let below = PCI_HOLE_START >> 12;
        Some(if frame < below { frame } else { frame - below + (PCI_HOLE_END >> 12) })
    }

    /// The guest's physical frame that is machine frame `frame` at the start, if it is the guest's.
    fn physical_frame(&self, frame: u64) -> Option<u64> {
        let (below, above) = (PCI_HOLE_START >> 12, PCI_HOLE_END >> 12);
        let index = if frame < below { frame } else { frame.checked_sub(above)? + below };
        index.checked_sub(self.reserve).filter(|pfn| *pfn < self.guest_frames)
    }

    /// Fills in what the hypervisor's frames hold at the start of a guest: the machine-to-physical table and
    /// the tables that map it, the descriptors, the empty shared page. It touches no other frames.
    pub(crate) fn fill(&self, ram: &GuestRam) {
        use ambos_x86::paging::{ACCESSED, DIRTY, PRESENT, USER, WRITE};
        let entry =
            |table: u64, index: u64, value: u64| ram.store_word((table << 12) + index * 8, value);
        let emptied = ram.fill_zero(1 << 12, (self.scratch - 1) << 12);
        debug_assert!(emptied.is_ok(), "the hypervisor's frames are RAM");
        ram.use_large_pages(0, self.reserve << 12);
        // The guest reads the table from both of its modes: user, but not writable.
        let table = PRESENT | USER | ACCESSED | WRITE;
        let page = PRESENT | USER | ACCESSED | DIRTY;
        for index in 0..self.machphys_frames {
            entry(self.machphys_l1, index, (self.machphys + index) << 12 | page);
            // Tables of one level lie behind one another, so their entries are numbered through.
        }
        for index in 0..self.machphys_frames.div_ceil(512) {
            entry(self.machphys_l2, index, (self.machphys_l1 + index) << 12 | table);
        }
        for index in 0..self.machphys_frames.div_ceil(512 * 512) {
            entry(self.machphys_l3, index, (self.machphys_l2 + index) << 12 | table);
        }
        self.fill_machine_to_physical(ram);
        let supervisor = PRESENT | WRITE | ACCESSED;
        let domain_l1_tables = self.descriptors - self.domain_l1;
        entry(self.domain_l3, 0, self.domain_l2 << 12 | supervisor);
        for index in 0..domain_l1_tables {
            entry(self.domain_l2, index, (self.domain_l1 + index) << 12 | supervisor);
        }
        for (selector, descriptor) in ambos_xen_abi::segment::RESERVED_DESCRIPTORS {
            let within = usize::from(selector) - ambos_xen_abi::segment::FIRST_RESERVED_GDT_BYTE;
            entry(self.descriptors, within as u64 / 8, descriptor);
        }
    }

    fn fill_machine_to_physical(&self, ram: &GuestRam) {
        /// Entries that are written at once.
        const PART: usize = 1 << 12;
        let frames = self.machphys_frames * 512;
        let mut bytes = Vec::with_capacity(PART * 8);
        for first in (0..frames).step_by(PART) {
            bytes.clear();
            for frame in first..(first + PART as u64).min(frames) {
                let pfn = self.physical_frame(frame).unwrap_or(mmu::INVALID_P2M);
                bytes.extend_from_slice(&pfn.to_le_bytes());
            }
            let filled = ram.fill((self.machphys << 12) + first * 8, &bytes);
            debug_assert!(filled.is_ok(), "the hypervisor's frames are RAM");
        }
    }

    /// The entries of every top-level table that belong to the hypervisor, by index.
    pub(crate) fn top_level_entry(&self, index: usize) -> u64 {
        use ambos_x86::paging::{ACCESSED, PRESENT, USER, WRITE};
        let slot = |address: u64| (address >> 39 & 511) as usize;
        if index == slot(mmu::MACHINE_TO_PHYS_START) {
            self.machphys_l3 << 12 | PRESENT | USER | ACCESSED
        } else if index == slot(mmu::PER_DOMAIN_START) {
            self.domain_l3 << 12 | PRESENT | WRITE | ACCESSED
        } else {
            0
        }
    }

    /// Sets the entry for a page of descriptors of vCPU `vcpu`: 0 to 15 global, 16 to 31 local.
    pub(crate) fn map_descriptors(&self, ram: &GuestRam, vcpu: u32, page: u64, frame: Option<u64>) {
        use ambos_x86::paging::{ACCESSED, DIRTY, PRESENT, WRITE};
        let index = u64::from(vcpu) * DESCRIPTOR_PAGES + page;
        let value = frame.map_or(0, |frame| frame << 12 | PRESENT | WRITE | ACCESSED | DIRTY);
        ram.store_word((self.domain_l1 << 12) + index * 8, value);
    }

    /// The frame that such an entry maps.
    pub(crate) fn mapped_descriptors(&self, ram: &GuestRam, vcpu: u32, page: u64) -> Option<u64> {
        let index = u64::from(vcpu) * DESCRIPTOR_PAGES + page;
        let value = ram.load_word((self.domain_l1 << 12) + index * 8);
        (value & 1 != 0).then_some((value & ambos_x86::paging::ADDRESS_MASK) >> 12)
    }

    /// The linear address of the descriptor tables of vCPU `vcpu`: global, local.
    pub(crate) fn descriptor_tables(vcpu: u32) -> (u64, u64) {
        let global = mmu::PER_DOMAIN_START + ((u64::from(vcpu) * DESCRIPTOR_PAGES) << 12);
        (global, global + ((DESCRIPTOR_PAGES / 2) << 12))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_do_not_overlap_and_fit() {
        for size in [4 << 20, 64 << 20, 512 << 20, 3 << 30, 8 << 30, 500u64 << 30] {
            let layout = Layout::new(size);
            assert!(layout.scratch + u64::from(MAX_VCPUS) <= layout.reserve, "{layout:?}");
            assert_eq!(layout.machine_frame(0), Some(layout.reserve));
            let last = layout.machine_frame(layout.guest_frames - 1).unwrap();
            assert_eq!(last + 1, layout.end, "{layout:?}");
            assert_eq!(layout.machine_frame(layout.guest_frames), None);
            assert!(layout.machphys_frames * 512 >= layout.end);
            for pfn in [0, 1, layout.guest_frames / 2, layout.guest_frames - 1] {
                let frame = layout.machine_frame(pfn).unwrap();
                assert_eq!(layout.physical_frame(frame), Some(pfn), "{layout:?}");
            }
            for frame in [0, layout.reserve - 1, layout.end, PCI_HOLE_END.wrapping_sub(1) >> 12] {
                assert_eq!(layout.physical_frame(frame), None, "{layout:?} {frame}");
            }
        }
    }
}
