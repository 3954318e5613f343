//! Images that are the disk's bytes, one for one: files and block devices.

use crate::{BlockBackend, Slice, check_range, read_only, total, vectored};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// What zeroes are written from where the host cannot make them itself.
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// A raw image.
#[derive(Debug)]
pub struct RawImage {
    // Configuration.
    size: u64,
    read_only: bool,

    // Dependencies.
    /// Goes through the page cache, and holds the lock.
    file: File,
    /// Goes past the page cache. Requests that are not aligned as that needs go the other way;
    /// the host keeps the two coherent.
    direct: Option<File>,
}

impl RawImage {
    /// An image of `size` bytes in `file`, with a second descriptor of it that bypasses the page
    /// cache if that is wanted.
    pub(crate) fn new(file: File, direct: Option<File>, size: u64, read_only: bool) -> Self {
        Self { size, read_only, file, direct }
    }

    fn check_write(&self, offset: u64, length: u64) -> io::Result<()> {
        check_range(self.size, offset, length)?;
        if self.read_only { Err(read_only()) } else { Ok(()) }
    }

    fn transfer(
        &self,
        offset: u64,
        slices: &[Slice<'_>],
        call: impl Fn(std::os::fd::BorrowedFd<'_>, u64, &[Slice<'_>]) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(direct) = &self.direct
            && slices.iter().all(is_aligned)
        {
            let result = call(direct.as_fd(), offset, slices);
            // The medium may want more than sectors.
            if !matches!(&result, Err(error) if error.raw_os_error() == Some(libc::EINVAL)) {
                return result;
            }
        }
        call(self.file.as_fd(), offset, slices)
    }

    fn allocate(&self, flags: FallocateFlags, offset: u64, length: u64) -> Result<(), Errno> {
        loop {
            match rustix::fs::fallocate(&self.file, flags, offset, length) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }
}

/// Whether memory can take part in a transfer that bypasses the page cache.
fn is_aligned(slice: &Slice<'_>) -> bool {
    let address = slice.ptr_guard().as_ptr().addr();
    address.is_multiple_of(512) && slice.len().is_multiple_of(512)
}

/// Whether the host says that it cannot do this at all.
fn is_unsupported(error: Errno) -> bool {
    [Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL, Errno::NODEV].contains(&error)
}

impl BlockBackend for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn is_cached(&self) -> bool {
        self.direct.is_none()
    }

    fn read(&self, offset: u64, slices: &[Slice<'_>]) -> io::Result<()> {
        check_range(self.size, offset, total(slices))?;
        self.transfer(offset, slices, vectored::read_at)
    }

    fn write(&self, offset: u64, slices: &[Slice<'_>]) -> io::Result<()> {
        self.check_write(offset, total(slices))?;
        self.transfer(offset, slices, vectored::write_at)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check_write(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        match self.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)
        {
            Err(error) if !is_unsupported(error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.check_write(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        for flags in if unmap { [punch, zero] } else { [zero, punch] } {
            match self.allocate(flags, offset, length) {
                Ok(()) => return Ok(()),
                Err(error) if is_unsupported(error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut done = 0;
        while done < length {
            let part = (length - done).min(ZEROES.len() as u64);
            self.file.write_all_at(&ZEROES[..part as usize], offset + done)?;
            done += part;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, behaves_like_a_disk};

    fn image(size: u64) -> RawImage {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        RawImage::new(file, None, size, false)
    }

    #[test]
    fn it_behaves_like_a_disk() {
        for seed in 0..4 {
            behaves_like_a_disk(&image(1 << 18), seed);
        }
    }

    #[test]
    fn a_read_only_image_is_not_written() {
        let disk = RawImage { read_only: true, ..image(4096) };
        let memory = Memory::new(4096);
        let slices = memory.slices(&[(0, 512)]);
        for result in
            [disk.write(0, &slices), disk.discard(0, 512), disk.write_zeroes(0, 512, false)]
        {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
        disk.read(0, &slices).unwrap();
        disk.flush().unwrap();
    }

    #[test]
    fn an_image_that_shrank_gives_errors() {
        let disk = image(8192);
        disk.file.set_len(4096).unwrap();
        let memory = Memory::new(4096);
        let slices = memory.slices(&[(0, 1024)]);
        disk.read(0, &slices).unwrap();
        assert!(disk.read(3584, &slices).is_err());
    }
}
