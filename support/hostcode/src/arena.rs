//! Executable memory under W^X: one memfd, mapped once writable and once executable.
//!
//! No address is ever both. Code is written through the writable mapping and runs at the same
//! offset of the executable one; x86 keeps the two coherent.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use thiserror::Error;

/// Why memory for or around generated code could not be had.
#[derive(Debug, Error)]
pub enum ArenaError {
    /// The host refused memory or a mapping.
    #[error("cannot map {size} bytes for generated code ({step})")]
    Map {
        /// Bytes asked for.
        size: usize,
        /// What was refused.
        step: &'static str,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
}

/// A part of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// For code that is run often: it stays close together, in few lines of the host's caches.
    Hot,
    /// For code that is run rarely.
    Cold,
}

impl Region {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Hot, Self::Cold];
}

/// A bump-allocated area of generated code.
#[derive(Debug)]
pub struct Arena {
    writable: usize,
    executable: usize,
    size: usize,
    /// Where the regions begin, and where the last one ends.
    bounds: [usize; 3],
    /// Where each region's free bytes begin.
    used: [usize; 2],
    /// Up to where large pages were asked for in each region.
    large: [usize; 2],
}

/// What hot code is aligned to: what processors fetch at once.
const ALIGNMENT: usize = 16;
/// Bytes of a large page of the host.
const LARGE_PAGE: usize = 2 << 20;

impl Arena {
    /// Maps an arena of `size` bytes, rounded up to whole pages, all for hot code.
    ///
    /// # Errors
    ///
    /// [`ArenaError::Map`] if the host refuses.
    pub fn new(size: usize) -> Result<Self, ArenaError> {
        let size = size.next_multiple_of(4096);
        Self::map(size, size)
    }

    /// Maps an arena of `size` bytes, rounded up to whole pages, for both regions.
    ///
    /// # Errors
    ///
    /// [`ArenaError::Map`] if the host refuses.
    pub fn divided(size: usize) -> Result<Self, ArenaError> {
        let size = size.next_multiple_of(4096);
        // Of what a translator generates, three fifths lie on straight paths.
        let page = if size > 8 * LARGE_PAGE { LARGE_PAGE } else { 4096 };
        Self::map(size, (size / 5 * 3).next_multiple_of(page))
    }

    fn map(size: usize, middle: usize) -> Result<Self, ArenaError> {
        let error = |step| ArenaError::Map { size, step, source: std::io::Error::last_os_error() };
        // SAFETY: the name is a NUL-terminated literal; the returned descriptor is new and ours.
        let file = unsafe {
            let fd = libc::memfd_create(c"ambos-code".as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 {
                return Err(error("memory file"));
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: `file` is a valid descriptor.
        if unsafe { libc::ftruncate(file.as_raw_fd(), size as libc::off_t) } != 0 {
            return Err(error("memory file size"));
        }
        let map = |protection| map_aligned(&file, size, protection);
        let writable =
            map(libc::PROT_READ | libc::PROT_WRITE).ok_or_else(|| error("writable mapping"))?;
        let Some(executable) = map(libc::PROT_READ | libc::PROT_EXEC) else {
            let refused = error("executable mapping");
            // SAFETY: `writable` was mapped above with this size and nothing refers to it.
            unsafe { libc::munmap(writable as *mut libc::c_void, size) };
            return Err(refused);
        };
        let bounds = [0, middle, size];
        let used = [0, middle];
        Ok(Self {
            writable,
            executable,
            size,
            bounds,
            used,
            large: used.map(|start| start.next_multiple_of(LARGE_PAGE)),
        })
    }

    /// Where code begins to execute. Of all addresses in an arena of at most 2 GiB the upper half is the same.
    pub fn start(&self) -> usize {
        self.executable
    }

    /// Bytes mapped.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes in use in a region.
    pub fn used(&self, region: Region) -> usize {
        self.used[region as usize] - self.bounds[region as usize]
    }

    /// The executable address at which the next [`Arena::push`] to a region will place its code.
    pub fn next(&self, region: Region) -> usize {
        self.executable + self.start_of_next(region)
    }

    fn start_of_next(&self, region: Region) -> usize {
        let used = self.used[region as usize];
        match region {
            Region::Hot => used.next_multiple_of(ALIGNMENT),
            Region::Cold => used,
        }
    }

    fn fits(&self, region: Region, length: usize) -> Option<usize> {
        let end = self.start_of_next(region).checked_add(length)?;
        (end <= self.bounds[region as usize + 1]).then_some(end)
    }

    /// Whether the hot and the cold region take so many bytes more.
    pub fn has_room(&self, lengths: [usize; 2]) -> bool {
        Region::ALL
            .into_iter()
            .zip(lengths)
            .all(|(region, length)| self.fits(region, length).is_some())
    }

    /// Appends `code` to a region, the hot one at the next multiple of 16, and returns its executable
    /// address, or `None` if the region is full.
    pub fn push(&mut self, region: Region, code: &[u8]) -> Option<usize> {
        let start = self.start_of_next(region);
        let end = self.fits(region, code.len())?;
        // SAFETY: `start..end` lies inside the writable mapping, which this arena owns exclusively.
        unsafe {
            ptr::copy_nonoverlapping(code.as_ptr(), (self.writable + start) as *mut u8, code.len());
        }
        self.use_large_pages(region, end);
        self.used[region as usize] = end;
        Some(self.executable + start)
    }

    /// Has the large pages that a region reaches up to `end` mapped as such, if the host can: it wants
    /// something to be there already. Code that is spread over many pages waits for their
    /// translations: starting programs took a tenth longer with small ones.
    fn use_large_pages(&mut self, region: Region, end: usize) {
        let large = &mut self.large[region as usize];
        while *large < end && *large + LARGE_PAGE <= self.bounds[region as usize + 1] {
            for mapping in [self.writable, self.executable] {
                // SAFETY: the range lies inside a mapping that this arena owns; what is in it stays. Where
                // the host refuses it stays mapped by small pages.
                unsafe {
                    libc::madvise(
                        (mapping + *large) as *mut libc::c_void,
                        LARGE_PAGE,
                        libc::MADV_COLLAPSE,
                    );
                }
            }
            *large += LARGE_PAGE;
        }
    }

    /// Whether `start..end` has been pushed.
    fn is_used(&self, start: usize, end: usize) -> bool {
        self.bounds.iter().zip(self.used).any(|(&begin, used)| begin <= start && end <= used)
    }

    /// A copy of `length` bytes of code at the executable address `at`, if all of them have been
    /// pushed.
    pub fn bytes(&self, at: usize, length: usize) -> Option<Vec<u8>> {
        let start = at.wrapping_sub(self.executable);
        start.checked_add(length).filter(|&end| self.is_used(start, end))?;
        let mut bytes = vec![0; length];
        // SAFETY: the range lies inside the writable mapping, which this arena owns exclusively.
        unsafe {
            ptr::copy_nonoverlapping(
                (self.writable + start) as *const u8,
                bytes.as_mut_ptr(),
                length,
            );
        }
        Some(bytes)
    }

    /// Overwrites code at the executable address `at`. Returns whether it lies inside what has been
    /// pushed; nothing is written otherwise. No thread may be executing those bytes.
    pub fn patch(&mut self, at: usize, code: &[u8]) -> bool {
        let start = at.wrapping_sub(self.executable);
        match start.checked_add(code.len()) {
            Some(end) if self.is_used(start, end) => {}
            _ => return false,
        }
        // SAFETY: the range lies inside the writable mapping, which this arena owns exclusively.
        unsafe {
            ptr::copy_nonoverlapping(code.as_ptr(), (self.writable + start) as *mut u8, code.len());
        }
        true
    }

    /// Forgets all code but the first `keep` bytes of the hot region. No thread may be executing it.
    pub fn truncate(&mut self, keep: usize) {
        self.used = [self.used[0].min(keep), self.bounds[1]];
    }
}

/// Maps the first `size` bytes of a file at a multiple of the size of large pages: only there can the host map it by
/// them.
fn map_aligned(file: &OwnedFd, size: usize, protection: libc::c_int) -> Option<usize> {
    // Twice as much, so that an end of 4 GiB in it leaves room on one side.
    let reserved = size.checked_mul(2)?.checked_add(LARGE_PAGE)?;
    // SAFETY: a fresh mapping at an address the kernel chooses replaces nothing.
    let start = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        libc::mmap(ptr::null_mut(), reserved, libc::PROT_NONE, flags, -1, 0)
    };
    if start == libc::MAP_FAILED {
        return None;
    }
    let (start, end) = (start as usize, start as usize + reserved);
    let mut aligned = start.next_multiple_of(LARGE_PAGE);
    if upper_half(aligned) != upper_half(aligned + size - 1) {
        aligned = upper_half(aligned + size - 1) << 32;
    }
    // SAFETY: all of it lies in the mapping above, which is ours: the file replaces `aligned..aligned + size`,
    // and what remains before and after it is given back.
    unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let at = aligned as *mut libc::c_void;
        let mapped = libc::mmap(at, size, protection, flags, file.as_raw_fd(), 0);
        if mapped == libc::MAP_FAILED {
            libc::munmap(start as *mut libc::c_void, reserved);
            return None;
        }
        for (from, to) in [(start, aligned), (aligned + size, end)] {
            if from < to {
                libc::munmap(from as *mut libc::c_void, to - from);
            }
        }
    }
    Some(aligned)
}

/// What all addresses of an arena have in common.
fn upper_half(address: usize) -> usize {
    address >> 32
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: both mappings were made by `new` with this size and end here.
        unsafe {
            libc::munmap(self.writable as *mut libc::c_void, self.size);
            libc::munmap(self.executable as *mut libc::c_void, self.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pages_have_their_places() {
        let arenas = [1, 3 << 20, 64 << 20].map(|size| Arena::divided(size).unwrap());
        for arena in &arenas {
            assert_eq!(arena.writable % LARGE_PAGE, 0);
            assert_eq!(arena.executable % LARGE_PAGE, 0);
        }
        assert_eq!(arenas[2].bounds[1] % LARGE_PAGE, 0);
    }

    #[test]
    fn code_runs_where_it_was_announced() {
        let mut arena = Arena::new(1).unwrap();
        let announced = arena.next(Region::Hot);
        // mov eax, 42; ret
        let at = arena.push(Region::Hot, &[0xb8, 42, 0, 0, 0, 0xc3]).unwrap();
        assert_eq!(at, announced);
        assert_eq!(arena.bytes(at + 1, 5).unwrap(), [42, 0, 0, 0, 0xc3]);
        assert_eq!(arena.bytes(at, 7), None);
        // SAFETY: the bytes at `at` are a function of this type.
        let function: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(at) };
        assert_eq!(function(), 42);
        assert_eq!(arena.push(Region::Cold, &[0]), None);
        assert_eq!(arena.push(Region::Hot, &[0; 4096]), None);
    }
}
