//! Areas of host addresses in which pages of a file are seen where another address space has them.
//!
//! Code that was made for that address space reaches its data there by adding one number to its addresses, without
//! looking each of them up. What is not seen faults: an area is surrounded by as much as the displacement of an
//! instruction can lead it astray, and nothing else is ever mapped inside.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes before and after an area in which nothing is mapped either.
const GUARD: u64 = 4 << 30;
/// Most changes of what one process sees, since the areas were last emptied. Each adds two mappings to those of the
/// process at most, and Linux lets it have 65,530 by default (`vm.max_map_count`).
const MOST_CHANGES: usize = 28 << 10;
/// Most of one area, so that others have some left.
const MOST_OF_ONE: usize = 8 << 10;

/// Changes of all areas.
static CHANGES: AtomicUsize = AtomicUsize::new(0);

/// An area. Nothing is seen in it at first.
#[derive(Debug)]
pub struct View {
    /// Where the reservation starts.
    reserved: usize,
    /// Bytes between the guards.
    size: u64,
    /// What was shown and hidden since it was last emptied.
    changes: usize,
}

impl View {
    /// Reserves one of `size` bytes, whole pages, anywhere.
    ///
    /// # Errors
    ///
    /// The host has no room for it.
    pub fn new(size: u64) -> io::Result<Self> {
        Self::reserve(0, size)
    }

    /// Reserves one that starts at a host address.
    ///
    /// # Errors
    ///
    /// Something is there already, or no user memory can be.
    pub fn at(start: usize, size: u64) -> io::Result<Self> {
        let reserved = start.checked_sub(GUARD as usize).filter(|&reserved| reserved > 0);
        let reserved = reserved.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let view = Self::reserve(reserved, size)?;
        // Kernels that do not know the flag take the address as a hint.
        if view.start() == start { Ok(view) } else { Err(io::ErrorKind::AddrInUse.into()) }
    }

    fn reserve(at: usize, size: u64) -> io::Result<Self> {
        let fixed = if at == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
        // SAFETY: a fresh private mapping, at an address the kernel chooses or where nothing is, replaces nothing.
        let start = unsafe {
            libc::mmap(
                at as *mut libc::c_void,
                (size + 2 * GUARD) as usize,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { reserved: start as usize, size, changes: 0 })
    }

    /// Where it starts.
    pub fn start(&self) -> usize {
        self.reserved + GUARD as usize
    }

    /// Whether a host address lies in it.
    pub fn contains(&self, address: usize) -> bool {
        (address.wrapping_sub(self.start()) as u64) < self.size
    }

    /// Counts a change; whether there may be another one.
    fn count(&mut self) -> bool {
        if self.changes >= MOST_OF_ONE {
            return false;
        }
        if CHANGES.fetch_add(1, Ordering::Relaxed) >= MOST_CHANGES {
            CHANGES.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.changes += 1;
        true
    }

    /// Lets whole pages of a file be seen, read-only or `writable`; whether that was possible. If not, nothing of them
    /// is seen, and [`View::clear`] may make room.
    ///
    /// `offset` and `size` are bytes from the start and must be those of whole pages.
    pub fn show(
        &mut self,
        offset: u64,
        size: u64,
        file: &impl AsRawFd,
        file_offset: u64,
        writable: bool,
    ) -> bool {
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.size);
        if !inside {
            return false;
        }
        if !self.count() {
            self.clear();
            return false;
        }
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: the range lies in the reservation, which belongs to this value and which only generated code
        // reaches into; no Rust reference points there.
        let mapped = unsafe {
            libc::mmap(
                (self.start() + offset as usize) as *mut libc::c_void,
                size as usize,
                protection,
                libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                file_offset as libc::off_t,
            )
        };
        if mapped == libc::MAP_FAILED {
            // What was there may be gone already.
            self.clear();
        }
        mapped != libc::MAP_FAILED
    }

    /// Hides whole pages again; whether only those: where that would take more mappings than the process may have,
    /// everything is hidden.
    pub fn hide(&mut self, offset: u64, size: u64) -> bool {
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.size);
        if inside && self.count() && reserve_again(self.start() + offset as usize, size as usize) {
            return true;
        }
        self.clear();
        false
    }

    /// Hides everything. It ends the process if the host refuses: what is to be hidden must not stay to be seen.
    pub fn clear(&mut self) {
        if self.changes == 0 {
            return;
        }
        let (start, size) = (self.start(), self.size as usize);
        if reserve_again(start, size) {
            CHANGES.fetch_sub(std::mem::take(&mut self.changes), Ordering::Relaxed);
            return;
        }
        // SAFETY: as in `show`. Nothing is split by this, so that it needs no room.
        if unsafe { libc::mprotect(start as *mut libc::c_void, size, libc::PROT_NONE) } != 0 {
            std::process::abort();
        }
    }
}

/// Takes what is mapped in a part of a reservation away; whether that was possible.
fn reserve_again(start: usize, size: usize) -> bool {
    // SAFETY: as in `View::show`.
    let mapped = unsafe {
        libc::mmap(
            start as *mut libc::c_void,
            size,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

impl Drop for View {
    fn drop(&mut self) {
        CHANGES.fetch_sub(self.changes, Ordering::Relaxed);
        // SAFETY: the mapping was made by `new` with this size and ends here.
        unsafe {
            libc::munmap(self.reserved as *mut libc::c_void, (self.size + 2 * GUARD) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::FromRawFd;

    /// A file of two pages that begin with 1 and 2.
    fn file() -> File {
        use std::os::unix::fs::FileExt;
        // SAFETY: the name is a NUL-terminated literal; the returned descriptor is new and ours.
        let file = unsafe {
            let fd = libc::memfd_create(c"ambos-test".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            File::from_raw_fd(fd)
        };
        file.set_len(0x2000).unwrap();
        file.write_all_at(&[1], 0).unwrap();
        file.write_all_at(&[2], 0x1000).unwrap();
        file
    }

    /// Whether something is mapped at an address such that it can be read.
    fn is_seen(address: usize) -> bool {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().any(|line| {
            let (range, rest) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let at = |text| usize::from_str_radix(text, 16).unwrap();
            (at(start)..at(end)).contains(&address) && rest.starts_with('r')
        })
    }

    #[test]
    fn pages_are_seen_until_they_are_hidden() {
        let file = file();
        const SIZE: u64 = 1 << 36;
        let mut view = View::new(SIZE).unwrap();
        assert!(view.show(0x5000, 0x1000, &file, 0x1000, false));
        assert!(view.show(SIZE - 0x1000, 0x1000, &file, 0, true));
        let [second, first] = [0x5000, SIZE - 0x1000].map(|at| view.start() + at as usize);
        // SAFETY: both pages were just mapped.
        unsafe {
            assert_eq!((*(second as *const u8), *(first as *const u8)), (2, 1));
        }
        assert!(!view.show(SIZE - 0x1000, 0x2000, &file, 0, true), "it would leave the area");
        assert!(view.hide(0x5000, 0x1000));
        assert!(!is_seen(second) && is_seen(first));
        view.clear();
        assert!(!is_seen(first));
        assert!(View::at(view.start(), SIZE).is_err(), "it is taken");
        assert!(view.contains(first) && !view.contains(view.start() + SIZE as usize));
    }
    #[test]
    fn an_area_is_emptied_before_it_takes_too_many_mappings() {
        let file = file();
        let mut view = View::new(1 << 30).unwrap();
        let mut hidden = 0;
        // Every second page, then one in the middle of each pair.
        for page in 0..2 * MOST_OF_ONE as u64 {
            if !view.show(page * 0x3000, 0x2000, &file, 0, true) {
                assert!(!is_seen(view.start()));
                assert!(view.show(page * 0x3000, 0x2000, &file, 0, false), "there is room again");
            }
            hidden += usize::from(!view.hide(page * 0x3000 + 0x1000, 0x1000));
            assert!(view.changes <= MOST_OF_ONE);
        }
        assert!(hidden < 4);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(maps.lines().count() < 3 * MOST_OF_ONE);
        // It can always be emptied.
        view.clear();
        assert!(!is_seen(view.start() + (2 * MOST_OF_ONE - 1) * 0x3000));
        assert_eq!(view.changes, 0);
    }
}
