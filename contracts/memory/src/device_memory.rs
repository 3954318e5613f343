//! Memory of a device that the guest reaches without an interception, such as a frame buffer.
//!
//! It lies behind RAM in the guest's memory file. Its pages have numbers and flags like those of RAM, so that
//! engines treat them alike; but devices do not reach it by DMA. Where the guest sees it, its device decides, and may
//! change while the guest runs. An engine may hold translations to the old place until its vCPU is asked to flush
//! them (`Request::FLUSH_ALL`); they still lead to this memory and to nothing else.

use rustix::fs::FallocateFlags;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

/// Where memory is that the guest cannot see.
const NOWHERE: u64 = u64::MAX;

/// The memory, and where the guest sees it.
#[derive(Debug)]
pub struct DeviceMemory {
    region: MmapRegion,
    first_page: usize,
    /// Guest-physical address, a multiple of the page size, or [`NOWHERE`].
    address: AtomicU64,
}

impl DeviceMemory {
    pub(crate) fn new(region: MmapRegion, first_page: usize) -> Self {
        Self { region, first_page, address: AtomicU64::new(NOWHERE) }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.region.size() as u64
    }

    /// Shows the memory at guest-physical `address`, a multiple of the page size, or nowhere. Where there is RAM,
    /// the guest sees that instead. Returns whether translations to the old place may be left.
    pub fn show_at(&self, address: Option<u64>) -> bool {
        let aligned = address.filter(|address| address.is_multiple_of(4096));
        let new = aligned.filter(|address| address.checked_add(self.size()).is_some());
        let new = new.unwrap_or(NOWHERE);
        let old = self.address.swap(new, Ordering::SeqCst);
        old != NOWHERE && old != new
    }

    /// The host address and page number of the page that holds `gpa`.
    pub(crate) fn host_page(&self, gpa: u64) -> Option<(usize, usize)> {
        let address = self.address.load(Ordering::Acquire);
        let offset = gpa.checked_sub(address)?;
        let page = (offset >> 12) as usize;
        (offset < self.size() && address != NOWHERE)
            .then(|| (self.region.as_ptr() as usize + (page << 12), self.first_page + page))
    }

    /// Reads bytes from `offset` on; what lies past the end is left as it is.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let inside = self.region.size().saturating_sub(offset).min(data.len());
        if let Ok(slice) = self.region.get_slice(offset, inside) {
            slice.copy_to(&mut data[..inside]);
        }
    }

    /// Writes bytes from `offset` on; what lies past the end is dropped.
    pub fn write(&self, offset: usize, data: &[u8]) {
        let inside = self.region.size().saturating_sub(offset).min(data.len());
        if let Ok(slice) = self.region.get_slice(offset, inside) {
            slice.copy_from(&data[..inside]);
        }
    }

    /// Makes the first `size` bytes zeroes.
    pub fn fill_zero(&self, size: usize) {
        const ZEROES: [u8; 4096] = [0; 4096];
        for offset in (0..size.min(self.region.size())).step_by(ZEROES.len()) {
            self.write(offset, &ZEROES[..ZEROES.len().min(size - offset)]);
        }
    }

    /// Gives all of it back to the host; it reads as zeroes afterwards.
    pub fn clear(&self) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = self.region.file_offset().is_some_and(|file| {
            rustix::fs::fallocate(file.file(), flags, file.start(), self.size()).is_ok()
        });
        if !punched {
            self.fill_zero(self.region.size());
        }
    }

    /// The four bytes at `offset`; zero past the end.
    #[inline]
    pub fn load(&self, offset: usize) -> [u8; 4] {
        self.region.as_volatile_slice().read_obj(offset).unwrap_or_default()
    }

    /// Writes four bytes at `offset`; nothing past the end.
    #[inline]
    pub fn store(&self, offset: usize, value: [u8; 4]) {
        // Past the end is the only error.
        let _ = self.region.as_volatile_slice().write_obj(value, offset);
    }
}
