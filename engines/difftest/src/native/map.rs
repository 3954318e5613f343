//! The mappings at fixed addresses.
#![expect(unsafe_code, reason = "memory at fixed addresses is reached by raw pointers")]

use super::NativeError;
use super::trampoline::Context;
use crate::case::{MEMORY_PAGES, Memory};
use crate::layout::{self, Page};
use ambos_x86::PAGE_SIZE;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// One mapping, unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    address: usize,
    size: usize,
}

impl Mapping {
    /// Maps `size` bytes at `address` (anywhere if zero).
    fn new(
        what: &'static str,
        address: u64,
        size: u64,
        protection: i32,
        file: Option<&OwnedFd>,
    ) -> Result<Self, NativeError> {
        let error = || NativeError::Map { what, address, source: std::io::Error::last_os_error() };
        let fixed = if address == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
        let (kind, fd) = match file {
            Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: MAP_FIXED_NOREPLACE replaces no mapping of anybody else.
        let at = unsafe {
            libc::mmap(address as *mut _, size as usize, protection, kind | fixed, fd, 0)
        };
        if at == libc::MAP_FAILED || address != 0 && at as u64 != address {
            return Err(error());
        }
        Ok(Self { address: at as usize, size: size as usize })
    }

    fn protect(&self, offset: u64, protection: i32) -> Result<(), NativeError> {
        // SAFETY: the page lies inside this mapping.
        let result = unsafe {
            let at = (self.address as u64 + offset) as *mut libc::c_void;
            libc::mprotect(at, PAGE_SIZE as usize, protection)
        };
        if result != 0 {
            return Err(NativeError::Map {
                what: "scratch memory",
                address: self.address as u64 + offset,
                source: std::io::Error::last_os_error(),
            });
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` made this mapping; nothing refers to it any more.
        unsafe {
            libc::munmap(self.address as *mut libc::c_void, self.size);
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Maps {
    writable_code: Mapping,
    _code: Mapping,
    _scratch: Mapping,
    context: Mapping,
}

impl Maps {
    pub(super) fn new() -> Result<Self, NativeError> {
        let read_write = libc::PROT_READ | libc::PROT_WRITE;
        let file = code_file()?;
        let code = Some(&file);
        let writable_code = Mapping::new("code", 0, layout::CODE_SIZE, read_write, code)?;
        let executable = libc::PROT_READ | libc::PROT_EXEC;
        let code = Mapping::new("code", layout::CODE, layout::CODE_SIZE, executable, code)?;
        let size = layout::SCRATCH_PAGES * PAGE_SIZE + 2 * layout::BELT;
        let start = layout::SCRATCH - layout::BELT;
        let scratch = Mapping::new("scratch memory", start, size, libc::PROT_NONE, None)?;
        for number in 0..layout::SCRATCH_PAGES {
            let offset = layout::BELT + number * PAGE_SIZE;
            let address = (layout::SCRATCH + number * PAGE_SIZE) as *mut u8;
            match layout::page(number) {
                Page::Unmapped => {}
                Page::Writable(_) | Page::Device(_) => scratch.protect(offset, read_write)?,
                Page::ReadOnly => {
                    scratch.protect(offset, read_write)?;
                    for index in 0..PAGE_SIZE as usize {
                        // SAFETY: the page has just been made writable and is ours alone.
                        unsafe { address.add(index).write(layout::read_only_byte(index)) };
                    }
                    scratch.protect(offset, libc::PROT_READ)?;
                }
            }
        }
        let context = Mapping::new(
            "trampoline context",
            layout::CONTEXT,
            layout::CONTEXT_SIZE,
            read_write,
            None,
        )?;
        Ok(Self { writable_code, _code: code, _scratch: scratch, context })
    }

    /// The code, through its writable mapping.
    pub(super) fn code_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has this size, lives as long as `self`, and is not executed while the
        // borrow lasts.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.writable_code.address as *mut u8,
                self.writable_code.size,
            )
        }
    }

    /// The trampoline's context.
    pub(super) fn context(&mut self) -> &mut Context {
        // SAFETY: the mapping is zeroed or initialized memory of sufficient size and alignment; the
        // trampoline uses it only during a method of the context itself.
        unsafe { &mut *(self.context.address as *mut Context) }
    }

    /// Fills the writable scratch pages.
    pub(super) fn write_memory(&mut self, memory: &Memory) {
        for number in 0..MEMORY_PAGES {
            let address = Memory::address(number * PAGE_SIZE as usize);
            let page = memory.page(number);
            // SAFETY: the page is mapped writable and only code under test uses it otherwise.
            unsafe {
                std::ptr::copy_nonoverlapping(page.as_ptr(), address as *mut u8, page.len());
            }
        }
    }

    /// Copies the writable scratch pages.
    pub(super) fn read_memory(&mut self, memory: &mut Memory) {
        for number in 0..MEMORY_PAGES {
            let address = Memory::address(number * PAGE_SIZE as usize);
            let page = memory.page_mut(number);
            // SAFETY: as in `write_memory`.
            unsafe {
                std::ptr::copy_nonoverlapping(address as *const u8, page.as_mut_ptr(), page.len());
            }
        }
    }
}

fn code_file() -> Result<OwnedFd, NativeError> {
    let error = || NativeError::Map {
        what: "code",
        address: layout::CODE,
        source: std::io::Error::last_os_error(),
    };
    // SAFETY: the name is a NUL-terminated literal; the returned descriptor is new and ours.
    unsafe {
        let fd = libc::memfd_create(c"ambos-difftest-code".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(error());
        }
        let file = OwnedFd::from_raw_fd(fd);
        if libc::ftruncate(fd, layout::CODE_SIZE as libc::off_t) != 0 {
            return Err(error());
        }
        Ok(file)
    }
}
