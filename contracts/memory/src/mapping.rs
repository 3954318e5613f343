//! Mappings of a memory file at addresses where large pages fit.

use crate::large_pages::LARGE_PAGE;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion};

/// A mapping that is to be seen through a [`MmapRegion`].
#[derive(Debug)]
pub(crate) struct Mapping(Arc<MmapRegion>);

impl Mapping {
    /// Maps `size` bytes of a file, a multiple of the page size, shared and writable.
    pub(crate) fn new(file: FileOffset, size: usize) -> io::Result<Self> {
        let align = LARGE_PAGE as usize;
        let reserved = size.checked_add(align).ok_or(io::ErrorKind::InvalidInput)?;
        let shared = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        #[expect(unsafe_code, reason = "mappings at chosen addresses have no safe wrapper")]
        // SAFETY: the host chooses where to reserve addresses; the file is mapped within them, and those around it, which nobody
        // knows, are given back.
        let start = unsafe {
            let start = libc::mmap(ptr::null_mut(), reserved, libc::PROT_NONE, anonymous, -1, 0);
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let before = start.align_offset(align);
            let place = start.byte_add(before);
            let (descriptor, offset) = (file.file().as_raw_fd(), file.start() as libc::off_t);
            let flags = shared | libc::MAP_FIXED;
            let mapped = libc::mmap(place, size, access, flags, descriptor, offset);
            if mapped == libc::MAP_FAILED {
                let error = io::Error::last_os_error();
                libc::munmap(start, reserved);
                return Err(error);
            }
            if before > 0 {
                libc::munmap(start, before);
            }
            libc::munmap(place.byte_add(size), align - before);
            place
        };
        let region = MmapRegionBuilder::new(size)
            .with_mmap_prot(access)
            .with_mmap_flags(shared)
            .with_file_offset(file);
        #[expect(unsafe_code, reason = "says that there is a mapping")]
        // SAFETY: the mapping is as large as that, and stays as long as anybody has the region.
        let region = unsafe { region.with_raw_mmap_pointer(start.cast()) };
        region.build().map(|region| Self(Arc::new(region))).map_err(io::Error::other)
    }

    /// It as others see it. As long as they do, it stays.
    pub(crate) fn region(&self) -> Arc<MmapRegion> {
        Arc::clone(&self.0)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Whoever keeps a region of a memory that is gone keeps its addresses.
        let Some(region) = Arc::get_mut(&mut self.0) else { return };
        #[expect(unsafe_code, reason = "mappings have no safe wrapper")]
        // SAFETY: it was mapped here, and nobody else sees it any more.
        unsafe {
            libc::munmap(region.as_ptr().cast(), region.size());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use vm_memory::{Bytes, VolatileMemory};

    fn mapping(size: usize) -> Mapping {
        let file: File = tempfile::tempfile().unwrap();
        file.set_len(size as u64).unwrap();
        Mapping::new(FileOffset::new(file, 0), size).unwrap()
    }

    #[test]
    fn large_pages_fit_there() {
        for size in [4096, 2 << 20, (2 << 20) + 4096, 64 << 20] {
            let mapping = mapping(size);
            let region = mapping.region();
            assert!((region.as_ptr() as usize).is_multiple_of(LARGE_PAGE as usize));
            let bytes = region.as_volatile_slice();
            bytes.write_obj(7_u64, size - 8).unwrap();
            assert_eq!(bytes.read_obj::<u64>(size - 8).unwrap(), 7);
            assert_eq!(bytes.read_obj::<u64>(0).unwrap(), 0);
        }
    }

    #[test]
    fn it_stays_as_long_as_someone_sees_it() {
        let mapping = mapping(1 << 20);
        let region = mapping.region();
        drop(mapping);
        region.as_volatile_slice().write_obj(9_u64, 4096).unwrap();
        assert_eq!(region.as_volatile_slice().read_obj::<u64>(4096).unwrap(), 9);
    }
}
