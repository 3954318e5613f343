//! A disk whose content is in this process's memory, for tests of devices.

use crate::{BlockBackend, Slice, check_range, read_only, total};
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A disk in memory. It fails as an image would, but never for the host's reasons.
#[derive(Debug)]
pub struct MemoryImage {
    read_only: bool,
    content: Mutex<Vec<u8>>,
}

impl MemoryImage {
    /// A disk of `content`, whose length is a multiple of [`SECTOR`](crate::SECTOR).
    pub fn new(content: Vec<u8>, read_only: bool) -> Self {
        Self { read_only, content: Mutex::new(content) }
    }

    /// What is on the disk now.
    pub fn content(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn range(&self, offset: u64, length: u64) -> io::Result<Range<usize>> {
        check_range(self.size(), offset, length)?;
        Ok(offset as usize..(offset + length) as usize)
    }
}

impl BlockBackend for MemoryImage {
    fn size(&self) -> u64 {
        self.lock().len() as u64
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn is_cached(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, slices: &[Slice<'_>]) -> io::Result<()> {
        let range = self.range(offset, total(slices))?;
        let content = self.lock();
        let mut rest = &content[range];
        for slice in slices {
            let (head, tail) = rest.split_at(slice.len());
            slice.copy_from(head);
            rest = tail;
        }
        Ok(())
    }

    fn write(&self, offset: u64, slices: &[Slice<'_>]) -> io::Result<()> {
        if self.read_only {
            return Err(read_only());
        }
        let range = self.range(offset, total(slices))?;
        let mut content = self.lock();
        let mut rest = &mut content[range];
        for slice in slices {
            let (head, tail) = rest.split_at_mut(slice.len());
            slice.copy_to(head);
            rest = tail;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length, true)
    }

    fn write_zeroes(&self, offset: u64, length: u64, _unmap: bool) -> io::Result<()> {
        if self.read_only {
            return Err(read_only());
        }
        let range = self.range(offset, length)?;
        self.lock()[range].fill(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn it_behaves_like_a_disk() {
        testing::behaves_like_a_disk(&MemoryImage::new(vec![0; 1 << 18], false), 5);
    }

    #[test]
    fn a_read_only_one_stays_as_it_is() {
        let disk = MemoryImage::new(vec![7; 1024], true);
        let memory = testing::Memory::new(4096);
        let error = disk.write(0, &memory.slices(&[(0, 512)])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(disk.write_zeroes(0, 512, false).is_err());
        assert_eq!(disk.content(), [7; 1024]);
    }
}
