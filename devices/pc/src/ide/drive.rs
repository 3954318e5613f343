//! What the two kinds of drives have in common towards their channel.

use super::spec::{Errors, Status};
use super::task_file::TaskFile;
use ambos_block::{BlockBackend, Slice};
use ambos_memory::{DmaRange, GuestRam};
use std::io;

/// How a command goes on after a drive looked at it, or at data of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It has ended well; the guest gets an interrupt.
    Done,
    /// It has ended well; the guest knows.
    Quiet,
    /// It has failed.
    Failed(Errors),
    /// The guest is to read these bytes through the data port.
    Send(Vec<u8>),
    /// The guest is to write so many bytes through the data port.
    Receive {
        /// How many.
        length: usize,
        /// Whether the guest must be told.
        interrupt: bool,
    },
    /// The bus master is to move so many bytes.
    Master(u64),
}

/// A drive as its channel sees it. Its registers are the channel's, so that it keeps only what a
/// command in progress needs.
pub(super) trait Drive: Send {
    /// The last two bytes of the signature, and the status after a reset.
    fn signature(&self) -> ([u8; 2], Status);

    /// Forgets the command in progress.
    fn reset(&mut self);

    /// The guest wrote the command register.
    fn command(&mut self, command: u8, task: &mut TaskFile) -> Step;

    /// The guest has read all of [`Step::Send`].
    fn sent(&mut self, task: &mut TaskFile) -> Step;

    /// The guest has written all of [`Step::Receive`].
    fn received(&mut self, data: &[u8], task: &mut TaskFile) -> Step;

    /// The bus master is ready to move the bytes of [`Step::Master`] from or to `ranges`, which
    /// together have just that length.
    fn transfer(&mut self, ram: &GuestRam, ranges: &[DmaRange], task: &mut TaskFile) -> Step;
}

/// What a drive tells of an error of the host.
pub(super) fn host_error(error: &io::Error) -> Step {
    Step::Failed(match error.kind() {
        io::ErrorKind::InvalidInput => Errors::ID_NOT_FOUND,
        io::ErrorKind::PermissionDenied => Errors::ABORTED,
        _ => Errors::UNCORRECTABLE,
    })
}

/// Reads into a buffer of the monitor's, for the data port.
pub(super) fn read(disk: &dyn BlockBackend, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    disk.read(offset, &[Slice::from(&mut bytes[..])])?;
    Ok(bytes)
}

/// Reads into guest memory.
pub(super) fn read_into(
    disk: &dyn BlockBackend,
    offset: u64,
    ram: &GuestRam,
    ranges: &[DmaRange],
) -> Result<(), Step> {
    let slices = ram.dma_slices(ranges).map_err(|_| Step::Failed(Errors::ABORTED))?;
    let result = disk.read(offset, &slices);
    // A read that fails may have changed memory, too.
    ram.device_wrote(ranges);
    result.map_err(|error| host_error(&error))
}

/// Copies bytes of the monitor's into guest memory.
pub(super) fn put(bytes: &[u8], ram: &GuestRam, ranges: &[DmaRange]) -> Result<(), Step> {
    let slices = ram.dma_slices(ranges).map_err(|_| Step::Failed(Errors::ABORTED))?;
    let mut rest = bytes;
    for slice in slices {
        let (head, tail) = rest.split_at(slice.len().min(rest.len()));
        slice.copy_from(head);
        rest = tail;
    }
    ram.device_wrote(ranges);
    Ok(())
}

/// Copies guest memory, `limit` bytes at most.
pub(super) fn get(ram: &GuestRam, ranges: &[DmaRange], limit: usize) -> Result<Vec<u8>, Step> {
    let slices = ram.dma_slices(ranges).map_err(|_| Step::Failed(Errors::ABORTED))?;
    let mut bytes = Vec::new();
    for slice in slices {
        let mut part = vec![0; slice.len().min(limit - bytes.len())];
        slice.copy_to(&mut part[..]);
        bytes.append(&mut part);
    }
    Ok(bytes)
}
