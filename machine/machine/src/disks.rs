//! Disks and their places in the machine.

use crate::machine::MachineError;
use ambos_block::BlockBackend;
use ambos_memory::GuestRam;
use ambos_pc::{ChipsetError, IdeDrive, PcChipset};
use std::sync::Arc;

/// Places of an IDE controller.
const IDE_PLACES: usize = 4;

/// A disk of a machine.
#[derive(Clone)]
pub struct Disk {
    /// What is on it.
    pub content: Arc<dyn BlockBackend>,
    /// Whether it is a CD-ROM drive with the content as its medium.
    pub cdrom: bool,
}

/// Checks that there is a place for each disk.
pub(crate) fn check(disks: &[Disk]) -> Result<(), MachineError> {
    if disks.len() <= IDE_PLACES {
        return Ok(());
    }
    Err(MachineError::Disks(disks.len(), IDE_PLACES))
}

/// Puts the disks in their places.
pub(crate) fn plug(
    chipset: &mut PcChipset,
    ram: &Arc<GuestRam>,
    disks: &[Disk],
) -> Result<(), ChipsetError> {
    if disks.is_empty() {
        // A controller without drives would only cost the guest the time to look for them.
        return Ok(());
    }
    let mut disks = disks.iter();
    let drives = std::array::from_fn(|_| {
        let Disk { content, cdrom } = disks.next()?.clone();
        Some(if cdrom { IdeDrive::Cdrom(content) } else { IdeDrive::Disk(content) })
    });
    chipset.add_ide(ram, drives)
}
