//! The RAM of one guest.

use crate::large_pages::Reached;
use crate::mapping::Mapping;
use crate::{DeviceMemory, PageFlags};
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use thiserror::Error;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

/// Start of the 32-bit hole for PCI, APICs and firmware; RAM that does not fit below continues at
/// [`PCI_HOLE_END`].
pub const PCI_HOLE_START: u64 = 0xc000_0000;
/// End of the 32-bit hole.
pub const PCI_HOLE_END: u64 = 0x1_0000_0000;

/// The guest-physical addresses of a VGA's window: where there is one, no RAM is seen there.
const VGA_WINDOW: std::ops::Range<u64> = 0xa_0000..0xc_0000;

/// Why guest RAM could not be had.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The size is zero, not a multiple of the page size, or more than half a terabyte.
    #[error("{0} bytes is not a usable amount of guest memory (4 KiB multiples up to 512 GiB)")]
    Size(u64),
    /// The host refused the memory file.
    #[error("cannot create {size} bytes of guest memory")]
    Create {
        /// Bytes asked for.
        size: u64,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
    /// The host refused to map the memory file.
    #[error("cannot map {size} bytes of guest memory: {reason}")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// The mapping library's reason.
        reason: String,
    },
}

/// A contiguous range of guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First guest-physical address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Host virtual address of the first byte, valid as long as the [`GuestRam`] lives.
    pub hva: usize,
    /// Page number of the first page within the RAM file.
    pub first_page: usize,
}

/// The RAM of one guest: a memfd and its mapping.
#[derive(Debug)]
pub struct GuestRam {
    memory: GuestMemoryMmap,
    /// What it sees, which outlives it.
    _mappings: Vec<Mapping>,
    regions: [Region; 2],
    page_flags: PageFlags,
    pub(crate) reached: Reached,
    size: u64,
    display: Option<DeviceMemory>,
}

impl GuestRam {
    /// Creates `size` bytes of zeroed RAM.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the size is unusable or the host has no room.
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        Self::with_display(size, 0)
    }

    /// Creates `size` bytes of zeroed RAM and `display` bytes of memory of a display adapter, none for zero.
    /// With it, the guest finds no RAM in the addresses of a VGA's window: accesses to them are the adapter's.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if a size is unusable or the host has no room.
    pub fn with_display(size: u64, display: u64) -> Result<Self, MemoryError> {
        if size == 0 || !size.is_multiple_of(4096) || size > 512 << 30 {
            return Err(MemoryError::Size(size));
        }
        if !display.is_multiple_of(4096) || display > 1 << 30 {
            return Err(MemoryError::Size(display));
        }
        let file =
            memory_file(size + display).map_err(|source| MemoryError::Create { size, source })?;
        let low = size.min(PCI_HOLE_START);
        let file = Arc::new(file);
        let failed = |reason: String| MemoryError::Map { size, reason };
        let part = |offset: u64| FileOffset::from_arc(Arc::clone(&file), offset);
        let mut starts = vec![(0, part(0), low)];
        if size > low {
            starts.push((PCI_HOLE_END, part(low), size - low));
        }
        let mut mappings = Vec::new();
        let mut parts = Vec::new();
        for (start, file, size) in starts {
            let mapping =
                Mapping::new(file, size as usize).map_err(|error| failed(error.to_string()))?;
            let region = GuestRegionMmap::with_arc(mapping.region(), GuestAddress(start));
            parts.extend(region);
            mappings.push(mapping);
        }
        let memory =
            GuestMemoryMmap::from_regions(parts).map_err(|error| failed(error.to_string()))?;
        let display = (display > 0).then(|| {
            MmapRegion::from_file(part(size), display as usize)
                .map(|region| DeviceMemory::new(region, (size / 4096) as usize))
                .map_err(|error| failed(error.to_string()))
        });
        let display = display.transpose()?;
        let mut regions = [Region { start: 0, size: 0, hva: 0, first_page: 0 }; 2];
        let mut first_page = 0;
        for (slot, region) in regions.iter_mut().zip(memory.iter()) {
            *slot = Region {
                start: region.start_addr().0,
                size: region.len(),
                hva: region.as_ptr() as usize,
                first_page,
            };
            first_page += (region.len() / 4096) as usize;
        }
        let pages = (size + display.as_ref().map_or(0, DeviceMemory::size)) / 4096;
        Ok(Self {
            memory,
            _mappings: mappings,
            regions,
            page_flags: PageFlags::new(pages as usize),
            reached: Reached::new((size >> 12) as usize),
            size,
            display,
        })
    }

    /// RAM as devices and loaders see it.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The contiguous ranges of RAM, ascending; the second one is empty in small guests.
    pub fn regions(&self) -> &[Region; 2] {
        &self.regions
    }

    /// The memory of the display adapter, if there is one.
    pub fn display(&self) -> Option<&DeviceMemory> {
        self.display.as_ref()
    }

    /// The host address of the page that holds `gpa` and its page number within the RAM file, or
    /// `None` where there is neither RAM nor memory of the display adapter.
    #[inline]
    pub fn host_page(&self, gpa: u64) -> Option<(usize, usize)> {
        for region in &self.regions {
            let offset = gpa.wrapping_sub(region.start);
            if offset < region.size {
                if VGA_WINDOW.contains(&gpa) && self.display.is_some() {
                    return None;
                }
                let page = (offset >> 12) as usize;
                return Some((region.hva + (page << 12), region.first_page + page));
            }
        }
        self.display.as_ref()?.host_page(gpa)
    }

    /// The file that holds all of it, in the order of the regions.
    pub fn file(&self) -> Option<&File> {
        let offset = self.memory.iter().next().and_then(|region| region.file_offset());
        offset.map(FileOffset::file)
    }

    /// Where in the file a host address of RAM lies; `None` for others.
    pub fn file_offset(&self, host: usize) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = host.wrapping_sub(region.hva) as u64;
            (offset < region.size).then_some(((region.first_page as u64) << 12) + offset)
        })
    }

    /// Takes storage away from the memory file; whether that was possible.
    pub(crate) fn punch(&self, offset: u64, length: u64) -> bool {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.file().is_some_and(|file| rustix::fs::fallocate(file, flags, offset, length).is_ok())
    }

    /// The per-page flags shared by all vCPUs.
    #[inline]
    pub fn page_flags(&self) -> &PageFlags {
        &self.page_flags
    }
}

fn memory_file(size: u64) -> std::io::Result<File> {
    #[expect(unsafe_code, reason = "memfd_create has no safe wrapper in the standard library")]
    // SAFETY: the name is a NUL-terminated literal; the descriptor returned is new and owned here.
    let file = unsafe {
        let fd = libc::memfd_create(c"ambos-guest-ram".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        File::from_raw_fd(fd)
    };
    file.set_len(size)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn host_addresses_lie_where_the_file_has_them() {
        let ram = GuestRam::new(PCI_HOLE_START + 0x2000).unwrap();
        let offset = |gpa| ram.file_offset(ram.host_page(gpa).unwrap().0 + 8);
        assert_eq!(offset(0x5000), Some(0x5008));
        assert_eq!(offset(PCI_HOLE_END + 0x1000), Some(PCI_HOLE_START + 0x1008));
        assert_eq!(ram.file_offset(0), None);
    }

    #[test]
    fn devices_and_engines_see_the_same_bytes() {
        let ram = GuestRam::new(4 << 20).unwrap();
        ram.memory().write_obj(0x1234_5678_u32, GuestAddress(0x3ff8)).unwrap();
        let (hva, page) = ram.host_page(0x3ff8).unwrap();
        assert_eq!(page, 3);
        assert_eq!(hva, ram.regions()[0].hva + 0x3000);
        assert_eq!(ram.host_page(4 << 20), None);
        assert_eq!(ram.host_page(u64::MAX), None);
    }

    #[test]
    fn large_guests_leave_the_pci_hole_free() {
        let ram = GuestRam::new(5 << 30).unwrap();
        assert!(ram.host_page(PCI_HOLE_START).is_none());
        assert!(ram.host_page(PCI_HOLE_END - 1).is_none());
        let (_, page) = ram.host_page(PCI_HOLE_END).unwrap();
        assert_eq!(page as u64, PCI_HOLE_START >> 12);
        assert!(ram.host_page(PCI_HOLE_END + (2 << 30)).is_none());
    }

    #[test]
    fn memory_of_a_display_is_where_it_is_shown() {
        let ram = GuestRam::with_display(4 << 20, 64 << 10).unwrap();
        let display = ram.display().unwrap();
        assert_eq!(ram.host_page(0xb_8000), None);
        assert!(ram.host_page(0x9_ffff).is_some() && ram.host_page(0xc_0000).is_some());
        assert!(!display.show_at(Some(0xfd00_0000)));
        display.store(0x1004, [1, 2, 3, 4]);
        let (hva, page) = ram.host_page(0xfd00_1004).unwrap();
        assert_eq!((hva & 0xfff, page), (0, 1024 + 1));
        let _ = ram.page_flags().watch(page);
        assert_eq!(ram.page_flags().get(page), PageFlags::CODE);
        assert_eq!((ram.host_page(0xfcff_ffff), ram.host_page(0xfd01_0000)), (None, None));
        assert!(!display.show_at(Some(0xfd00_0000)));
        assert!(display.show_at(Some(0xe000_0000)));
        assert!(ram.host_page(0xfd00_0000).is_none() && ram.host_page(0xe000_0000).is_some());
        assert!(display.show_at(None));
        assert_eq!(ram.host_page(u64::MAX), None);
        for nowhere in [u64::MAX, 0xfd00_0001, u64::MAX - 0xfff] {
            assert!(!display.show_at(Some(nowhere)));
            assert_eq!(ram.host_page(nowhere), None);
        }
        let mut bytes = [9; 6];
        display.read(0x1002, &mut bytes);
        assert_eq!(bytes, [0, 0, 1, 2, 3, 4]);
        display.write(0xfffe, &[5; 4]);
        display.read(0xfffd, &mut bytes);
        assert_eq!(bytes, [0, 5, 5, 2, 3, 4]);
        assert_eq!(display.load(0xfffe), [0; 4]);
        display.write(usize::MAX, &[1]);
    }

    #[test]
    fn unusable_sizes_are_refused() {
        for size in [0, 4095, 1 << 40] {
            assert!(matches!(GuestRam::new(size), Err(MemoryError::Size(_))));
        }
    }
}
