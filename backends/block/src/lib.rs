//! What disks stand on: image files of the host.
//!
//! A disk of any kind works on a [`BlockBackend`]. [`open`] makes one of an image file as an
//! [`ImageOptions`] asks: raw or qcow2, read-only, with or without the host's page cache, with its
//! writes thrown away at the end. What a disk looks like to a guest is the devices' business.
//!
//! # Data
//!
//! Data move between the image and guest memory directly: a request names slices of guest memory,
//! which become the buffers of one system call. Only a compressed or encrypted cluster of a qcow2
//! image goes through a buffer of the host's.
//!
//! # Durability
//!
//! [`BlockBackend::flush`] returns when all writes that returned before are on the medium. Until
//! then they are where a crash of the monitor cannot touch them, in the host's page cache, as far
//! as the image is raw; a qcow2 image holds back its tables.
//!
//! # Threads
//!
//! Requests may come from several threads at once. Requests that overlap and are under way at the
//! same time take effect in any order, as on a real disk. A request waits for the host; a [`Pace`]
//! tells where that may take long, and a [`Pool`] has threads for it.

mod error;
mod image;
#[cfg(any(test, feature = "memory"))]
mod memory;
mod overlay;
mod pace;
mod pool;
mod qcow2;
mod raw;
#[cfg(test)]
mod testing;
mod truncated;
mod vectored;

pub use error::OpenError;
pub use image::{Format, ImageOptions, open};
#[cfg(any(test, feature = "memory"))]
pub use memory::MemoryImage;
pub use overlay::Overlay;
pub use pace::{Pace, Work};
pub use pool::Pool;
pub use qcow2::Qcow2Image;
pub use raw::RawImage;

use std::io;
use vm_memory::VolatileSlice;

/// Bytes of a sector: sizes, offsets and lengths are multiples of it.
pub const SECTOR: u64 = 512;

/// Part of guest memory that takes part in a transfer.
pub type Slice<'a> = VolatileSlice<'a>;

/// A disk's content.
///
/// Offsets and lengths are bytes and multiples of [`SECTOR`]; a request that leaves the disk or is
/// not aligned fails with [`io::ErrorKind::InvalidInput`] and has no effect. The slices of a
/// request may have any length and alignment. Other errors are the host's; some part of a write
/// that fails may have been done.
pub trait BlockBackend: Send + Sync {
    /// Bytes, a multiple of [`SECTOR`].
    fn size(&self) -> u64;

    /// Whether writes are refused.
    fn is_read_only(&self) -> bool;

    /// Whether requests are usually served from the host's memory, without waiting for a medium.
    fn is_cached(&self) -> bool;

    /// Fills `slices`, one after the other, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`io::Error`] as above.
    fn read(&self, offset: u64, slices: &[Slice<'_>]) -> io::Result<()>;

    /// Writes the bytes of `slices`, one after the other, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`io::Error`] as above; [`io::ErrorKind::PermissionDenied`] on a read-only disk.
    fn write(&self, offset: u64, slices: &[Slice<'_>]) -> io::Result<()>;

    /// Waits until all completed writes are on the medium.
    ///
    /// # Errors
    ///
    /// [`io::Error`]: some write may be lost.
    fn flush(&self) -> io::Result<()>;

    /// Says that nobody needs `length` bytes from `offset` on any more. They may read as anything
    /// that was there before, or as zeroes.
    ///
    /// # Errors
    ///
    /// [`io::Error`] as above. That the image cannot give storage back is no error.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes `length` bytes from `offset` on read as zeroes; with `unmap`, preferably by giving
    /// their storage back.
    ///
    /// # Errors
    ///
    /// [`io::Error`] as above.
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;
}

/// Checks that a request of `length` bytes at `offset` lies within a disk of `size` bytes.
pub(crate) fn check_range(size: u64, offset: u64, length: u64) -> io::Result<()> {
    let aligned = offset.is_multiple_of(SECTOR) && length.is_multiple_of(SECTOR);
    let inside = offset.checked_add(length).is_some_and(|end| end <= size);
    if aligned && inside {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{length} bytes at {offset} are not whole sectors of a disk of {size} bytes"),
    ))
}

/// The error of a write to a read-only disk.
pub(crate) fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the disk is read-only")
}

/// Bytes of all slices together.
pub(crate) fn total(slices: &[Slice<'_>]) -> u64 {
    slices.iter().fold(0, |sum, slice| sum.saturating_add(slice.len() as u64))
}
