//! A word at a low address, which code reaches without a register.

use std::io;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

/// Bytes of its mapping: a page.
const SIZE: usize = 4096;

/// A word below 2 GiB: an absolute displacement of 32 bits reaches it. Zero at first.
#[derive(Debug)]
pub struct LowWord(NonNull<AtomicU32>);

// SAFETY: the word is atomic, and its memory belongs to the value.
unsafe impl Send for LowWord {}
// SAFETY: as above.
unsafe impl Sync for LowWord {}

impl LowWord {
    /// Maps one.
    ///
    /// # Errors
    ///
    /// The host has no memory there.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a fresh private mapping at an address the kernel chooses replaces nothing.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).map(Self).ok_or_else(|| io::Error::other("a page at zero"))
    }

    /// Its address.
    pub fn address(&self) -> u32 {
        // `MAP_32BIT` gives addresses below 2 GiB.
        self.0.as_ptr() as usize as u32
    }
}

impl Deref for LowWord {
    type Target = AtomicU32;

    #[inline]
    fn deref(&self) -> &AtomicU32 {
        // SAFETY: the mapping is readable and writable as long as the value lives, and aligned to a page.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for LowWord {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size and ends here.
        unsafe {
            libc::munmap(self.0.as_ptr().cast(), SIZE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn words_are_low_and_apart() {
        let words = [LowWord::new().unwrap(), LowWord::new().unwrap()];
        words[0].store(7, Ordering::Relaxed);
        assert_eq!(words.each_ref().map(|word| word.load(Ordering::Relaxed)), [7, 0]);
        assert!(words.iter().all(|word| word.address() < 1 << 31));
        assert_ne!(words[0].address(), words[1].address());
    }
}
