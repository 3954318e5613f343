//! A disk's content whose transfers are counted.

use ambos_block::{BlockBackend, Slice};
use ambos_intercept::Transfer;
use std::io;
use std::sync::Arc;

/// Passes requests on and counts the bytes of those that succeed.
pub(crate) struct Counted {
    content: Arc<dyn BlockBackend>,
    transfer: Arc<Transfer>,
}

impl Counted {
    pub(crate) fn new(content: Arc<dyn BlockBackend>, transfer: Arc<Transfer>) -> Self {
        Self { content, transfer }
    }
}

fn bytes(slices: &[Slice<'_>]) -> u64 {
    slices.iter().map(|slice| slice.len() as u64).sum()
}

impl BlockBackend for Counted {
    fn size(&self) -> u64 {
        self.content.size()
    }

    fn is_read_only(&self) -> bool {
        self.content.is_read_only()
    }

    fn is_cached(&self) -> bool {
        self.content.is_cached()
    }

    fn read(&self, offset: u64, slices: &[Slice<'_>]) -> io::Result<()> {
        self.content.read(offset, slices)?;
        self.transfer.to_guest(bytes(slices));
        Ok(())
    }

    fn write(&self, offset: u64, slices: &[Slice<'_>]) -> io::Result<()> {
        self.content.write(offset, slices)?;
        self.transfer.from_guest(bytes(slices));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.content.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.content.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.content.write_zeroes(offset, length, unmap)
    }
}
