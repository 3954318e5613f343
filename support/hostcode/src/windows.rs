//! Memory seen through several windows: each window begins with the same *head* and goes on with a
//! *tail* of its own.
//!
//! Code that reaches its data relative to a base register finds the shared head at the same
//! displacement in every window, and switches between tails by changing only the base.

use crate::ArenaError;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// A set of windows. All memory is zero at first.
#[derive(Debug)]
pub struct Windows {
    base: usize,
    head: usize,
    stride: usize,
    count: usize,
}

impl Windows {
    /// Maps `count` windows with `head` bytes shared and `tail` bytes of their own, each rounded up
    /// to whole pages.
    ///
    /// # Errors
    ///
    /// [`ArenaError`] if the host refuses.
    pub fn new(head: usize, tail: usize, count: usize) -> Result<Self, ArenaError> {
        let head = head.next_multiple_of(4096);
        let stride = head + tail.next_multiple_of(4096);
        let size = stride * count;
        let error = |step| ArenaError::Map { size, step, source: std::io::Error::last_os_error() };
        // SAFETY: a fresh private mapping at an address the kernel chooses replaces nothing.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(error("reservation"));
        }
        let windows = Self { base: base as usize, head, stride, count };
        if head == 0 {
            return Ok(windows);
        }
        // SAFETY: the name is a NUL-terminated literal; the returned descriptor is new and ours.
        let file = unsafe {
            let fd = libc::memfd_create(c"ambos-head".as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 {
                return Err(error("memory file"));
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: `file` is a valid descriptor.
        if unsafe { libc::ftruncate(file.as_raw_fd(), head as libc::off_t) } != 0 {
            return Err(error("memory file size"));
        }
        for window in 0..count {
            // SAFETY: the range lies inside the reservation above, which nothing uses yet.
            let mapped = unsafe {
                libc::mmap(
                    (windows.base + window * stride) as *mut libc::c_void,
                    head,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED | libc::MAP_FIXED,
                    file.as_raw_fd(),
                    0,
                )
            };
            if mapped == libc::MAP_FAILED {
                return Err(error("head"));
            }
        }
        Ok(windows)
    }

    /// The address of a window's first byte; the last window's if there are fewer.
    #[inline]
    pub fn start(&self, window: usize) -> usize {
        self.base + window.min(self.count - 1) * self.stride
    }

    /// The address of a window's tail.
    #[inline]
    pub fn tail(&self, window: usize) -> usize {
        self.start(window) + self.head
    }

    /// Lets a part of a window's tail, whole pages, be read and written, or not be accessed at all.
    ///
    /// # Errors
    ///
    /// The part is not within the tail, or the host refuses.
    pub fn allow(
        &self,
        window: usize,
        offset: usize,
        size: usize,
        access: bool,
    ) -> std::io::Result<()> {
        let tail = self.stride - self.head;
        if offset.checked_add(size).is_none_or(|end| end > tail) {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let protection = if access { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
        let start = (self.tail(window) + offset) as *mut libc::c_void;
        // SAFETY: the range lies in the window's tail; who made the windows says so of memory that no reference is to.
        match unsafe { libc::mprotect(start, size, protection) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// Bytes from a window's first byte to its tail.
    pub fn head_size(&self) -> usize {
        self.head
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size and ends here.
        unsafe {
            libc::munmap(self.base as *mut libc::c_void, self.stride * self.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_tails_are_allowed() {
        let windows = Windows::new(0, 0x4000, 2).unwrap();
        windows.allow(1, 0x1000, 0x2000, false).unwrap();
        windows.allow(1, 0x2000, 0x1000, true).unwrap();
        // SAFETY: the pages lie in the mapping and may be accessed; nothing else uses them.
        unsafe {
            *(windows.tail(0) as *mut u64).add(0x200) = 1;
            *((windows.tail(1) + 0x2000) as *mut u64) = 1;
        }
        assert!(windows.allow(1, 0x3000, 0x2000, false).is_err());
        assert!(windows.allow(1, usize::MAX, 0x2000, false).is_err());
    }

    #[test]
    fn windows_share_their_heads_only() {
        let windows = Windows::new(100, 8192, 3).unwrap();
        // SAFETY: the addresses lie in the mapping; nothing else uses it.
        unsafe {
            *(windows.start(0) as *mut u64) = 7;
            *(windows.tail(0) as *mut u64) = 8;
            assert_eq!(*(windows.start(2) as *const u64), 7);
            assert_eq!(*(windows.tail(2) as *const u64), 0);
        }
    }
}
