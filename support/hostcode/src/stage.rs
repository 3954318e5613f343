//! Memory of which parts fault: for letting the processor decide what an instruction does when its
//! operand is not, or only partly, accessible.

use crate::arena::ArenaError;
use std::ptr;

/// Size of the stage's pages.
pub const PAGE: usize = 4096;
/// Pages: inaccessible, accessible, inaccessible, inaccessible.
const PAGES: usize = 4;

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

/// One accessible page among inaccessible ones.
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
        // SAFETY: the second page lies inside the mapping made above.
        let result = unsafe {
            let page = (stage.base + PAGE) as *mut libc::c_void;
            libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE)
        };
        if result == 0 { Ok(stage) } else { Err(error("stage")) }
    }

    /// The host address for an operand at `offset` of its page, so that `accessible` holds. An
    /// operand reaches at most one page beyond its first.
    pub fn place(&self, offset: usize, accessible: Accessible) -> usize {
        let page = match accessible {
            Accessible::First => 1,
            Accessible::Second => 0,
            Accessible::Nothing => 2,
        };
        self.base + page * PAGE + offset % PAGE
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
