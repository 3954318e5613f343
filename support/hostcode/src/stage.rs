//! Memory of which parts fault: for letting the processor decide what an instruction does when its
//! operand is not, or only partly, accessible.

use crate::arena::ArenaError;
use std::ptr;

/// Size of the stage's pages.
pub const PAGE: usize = 4096;
/// Pages of one half: inaccessible, accessible, inaccessible, inaccessible.
const HALF: usize = 4;
/// The second half is readable where the first one is inaccessible.
const PAGES: usize = 2 * HALF;

/// Which part of an operand is accessible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accessible {
    /// Only what lies in the operand's first page.
    First,
    /// Only what lies in the operand's second page.
    Second,
    /// Nothing.
    Nothing,
}

/// One accessible page among inaccessible ones, and another one among read-only ones.
#[derive(Debug)]
pub struct Stage {
    base: usize,
}

impl Stage {
    /// Maps a stage.
    ///
    /// # Errors
    ///
    /// [`ArenaError::Map`] if the host refuses.
    pub fn new() -> Result<Self, ArenaError> {
        let size = PAGES * PAGE;
        let error = |step| ArenaError::Map { size, step, source: std::io::Error::last_os_error() };
        // SAFETY: a fresh mapping at an address the kernel chooses replaces nothing.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(error("stage"));
        }
        let stage = Self { base: base as usize };
        let protect = |first: usize, count: usize, protection: i32| {
            // SAFETY: the pages lie inside the mapping made above.
            let result = unsafe {
                let page = (stage.base + first * PAGE) as *mut libc::c_void;
                libc::mprotect(page, count * PAGE, protection)
            };
            if result == 0 { Ok(()) } else { Err(error("stage")) }
        };
        protect(1, 1, libc::PROT_READ | libc::PROT_WRITE)?;
        protect(HALF, HALF, libc::PROT_READ)?;
        protect(HALF + 1, 1, libc::PROT_READ | libc::PROT_WRITE)?;
        for page in [1, HALF + 1] {
            // Masked accesses differ where even the page tables are missing: have them made.
            // SAFETY: the page has just been made writable.
            unsafe { ((stage.base + page * PAGE) as *mut u8).write_volatile(0) };
        }
        Ok(stage)
    }

    /// The host address for an operand at `offset` of its page, so that `accessible` holds; with
    /// `readable`, what is not accessible can be read but not written. An operand reaches at most
    /// one page beyond its first.
    pub fn place(&self, offset: usize, accessible: Accessible, readable: bool) -> usize {
        let page = match accessible {
            Accessible::First => 1,
            Accessible::Second => 0,
            Accessible::Nothing => 2,
        };
        let half = if readable { HALF } else { 0 };
        self.base + (half + page) * PAGE + offset % PAGE
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // SAFETY: `new` made this mapping and nothing refers to it any more.
        unsafe {
            libc::munmap(self.base as *mut libc::c_void, PAGES * PAGE);
        }
    }
}
