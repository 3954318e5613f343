//! Guest memory as devices reach it on their own: direct memory access.

use crate::{GuestRam, PageFlags};
use std::sync::atomic::{Ordering, fence};
use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Most bytes of a range that is made here.
const PART: u64 = 1 << 30;

/// Some consecutive guest-physical bytes that a device was told to read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaRange {
    /// First guest-physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// A device was told to access memory where there is no RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no RAM in the {} bytes at {:#x}", .0.length, .0.address)]
pub struct NotRam(pub DmaRange);

impl GuestRam {
    /// The memory of all `ranges`, in their order; a range that crosses the border of two regions
    /// gives two slices.
    ///
    /// Devices that write to the slices call [`GuestRam::device_wrote`] afterwards.
    ///
    /// # Errors
    ///
    /// [`NotRam`] if any part of a range is not RAM.
    pub fn dma_slices(&self, ranges: &[DmaRange]) -> Result<Vec<VolatileSlice<'_>>, NotRam> {
        let mut slices = Vec::with_capacity(ranges.len());
        for range in ranges {
            let length = range.length as usize;
            for slice in self.memory().get_slices(GuestAddress(range.address), length) {
                slices.push(slice.map_err(|_| NotRam(*range))?);
            }
        }
        Ok(slices)
    }

    /// Gives the whole pages in `range` back to the host, as far as there is RAM; they read as zeroes
    /// afterwards. Where the host cannot take them back nothing happens.
    pub fn release(&self, range: DmaRange) {
        let first = range.address.saturating_add(PAGE - 1) & !(PAGE - 1);
        let end = range.address.saturating_add(u64::from(range.length)) & !(PAGE - 1);
        for region in self.regions() {
            let from = first.max(region.start);
            let to = end.min(region.start + region.size);
            let Some(length) = to.checked_sub(from).filter(|length| *length > 0) else { continue };
            let offset = region.first_page as u64 * PAGE + (from - region.start);
            self.leave_small(offset, length);
            if self.punch(offset, length) {
                let parts = (from..to).step_by(PART as usize);
                let part =
                    |address: u64| DmaRange { address, length: (to - address).min(PART) as u32 };
                parts.for_each(|address| self.device_wrote(&[part(address)]));
            }
        }
    }

    /// Makes the engines forget code that they hold of `ranges`, after a device wrote there.
    pub fn device_wrote(&self, ranges: &[DmaRange]) {
        let flags = self.page_flags();
        // Whoever begins to watch a page waits for vCPUs, not for devices: either it sees what was written, or its watch is
        // seen here.
        fence(Ordering::SeqCst);
        for range in ranges.iter().filter(|range| range.length > 0) {
            let last = range.address.saturating_add(u64::from(range.length) - 1);
            for page in range.address >> 12..=last >> 12 {
                if let Some((_, ram_page)) = self.host_page(page << 12)
                    && flags.get(ram_page) & PageFlags::CODE != 0
                {
                    flags.bump_version(ram_page);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    fn range(address: u64, length: u32) -> DmaRange {
        DmaRange { address, length }
    }

    #[test]
    fn only_ram_can_be_reached() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let slices = ram.dma_slices(&[range(0, 5), range(0xf_ffff, 1)]).unwrap();
        assert_eq!(slices.iter().map(VolatileSlice::len).collect::<Vec<_>>(), [5, 1]);
        for outside in [range(0x10_0000, 1), range(0xf_ffff, 2), range(u64::MAX, 2)] {
            assert_eq!(ram.dma_slices(&[outside]).unwrap_err(), NotRam(outside));
        }
    }

    #[test]
    fn whole_pages_are_released() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let memory = ram.memory();
        memory.write_slice(&[5; 0x4000], GuestAddress(0x1000)).unwrap();
        let _ = ram.page_flags().watch(3);
        ram.release(range(0x1001, 0x2fff));
        for (page, byte) in [(1, 5), (2, 0), (3, 0), (4, 5)] {
            assert_eq!(memory.read_obj::<u8>(GuestAddress(page << 12)).unwrap(), byte, "{page}");
        }
        assert_eq!([2, 3].map(|page| ram.page_flags().version(page)), [0, 1]);
        for outside in [range(u64::MAX, u32::MAX), range(0x10_0000, 0x1000), range(0x1fff, 1)] {
            ram.release(outside);
        }
        ram.release(range(0xf_f000, u32::MAX));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x4000)).unwrap(), 5);
    }

    #[test]
    fn code_under_a_write_is_stale() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let flags = ram.page_flags();
        let _ = flags.watch(2);
        let _ = flags.watch(4);
        ram.device_wrote(&[range(0x1fff, 2), range(0x3000, 0x1000), range(u64::MAX - 1, 9)]);
        assert_eq!([1, 2, 3, 4].map(|page| flags.version(page)), [0, 1, 0, 0]);
    }
}
