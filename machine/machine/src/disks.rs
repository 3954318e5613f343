//! Disks and their places in the machine.

use crate::counted::Counted;
use crate::machine::MachineError;
use crate::technique::Technique;
use ambos_block::BlockBackend;
use ambos_clock::VmClock;
use ambos_intercept::Transfer;
use ambos_memory::GuestRam;
use ambos_pc::{ChipsetError, IdeDrive, PcChipset};
use ambos_virtio::BlockDevice;
use std::sync::Arc;

/// Places of an IDE controller.
const IDE_PLACES: usize = 4;
/// Disks that a paravirtualized machine has places for on its bus.
const VIRTIO_PLACES: usize = 16;

/// A disk of a machine.
#[derive(Clone)]
pub struct Disk {
    /// What is on it.
    pub content: Arc<dyn BlockBackend>,
    /// Whether it is a CD-ROM drive with the content as its medium.
    pub cdrom: bool,
}

/// Disks by the kind of device that they are.
struct Kinds<'a> {
    ide: Vec<&'a Disk>,
    virtio: Vec<&'a Disk>,
}

impl<'a> Kinds<'a> {
    /// There is no paravirtual CD-ROM drive: those are generic devices under every technique.
    fn of(disks: &'a [Disk], technique: Technique) -> Self {
        let generic = |disk: &&Disk| match technique {
            Technique::Full => true,
            Technique::Hybrid => disk.cdrom,
            Technique::Para => false,
        };
        let (ide, virtio) = disks.iter().partition(generic);
        Self { ide, virtio }
    }
}

/// Checks that there is a place for each disk.
pub(crate) fn check(disks: &[Disk], technique: Technique) -> Result<(), MachineError> {
    let kinds = Kinds::of(disks, technique);
    for (count, places) in [(kinds.ide.len(), IDE_PLACES), (kinds.virtio.len(), VIRTIO_PLACES)] {
        if count > places {
            return Err(MachineError::Disks(count, places));
        }
    }
    Ok(())
}

/// Lets what the disks move be counted, under a label for each.
pub(crate) fn count_transfers(disks: &mut [Disk]) -> Vec<(String, Arc<Transfer>)> {
    let count = |(index, disk): (usize, &mut Disk)| {
        let transfer = Arc::<Transfer>::default();
        disk.content = Arc::new(Counted::new(Arc::clone(&disk.content), Arc::clone(&transfer)));
        (format!("disk {index}"), transfer)
    };
    disks.iter_mut().enumerate().map(count).collect()
}

/// Puts the disks in their places.
pub(crate) fn plug(
    chipset: &mut PcChipset,
    ram: &Arc<GuestRam>,
    clock: &Arc<VmClock>,
    disks: &[Disk],
    technique: Technique,
) -> Result<(), ChipsetError> {
    let kinds = Kinds::of(disks, technique);
    // A controller without drives would only cost the guest the time to look for them.
    if !kinds.ide.is_empty() {
        let mut disks = kinds.ide.into_iter();
        let drives = std::array::from_fn(|_| {
            let Disk { content, cdrom } = disks.next()?.clone();
            Some(if cdrom { IdeDrive::Cdrom(content) } else { IdeDrive::Disk(content) })
        });
        chipset.add_ide(ram, drives)?;
    }
    let queues = u16::try_from(chipset.local_apics().len()).unwrap_or(u16::MAX);
    for (index, disk) in kinds.virtio.into_iter().enumerate() {
        let name = format!("ambos-disk-{index}");
        let content = Arc::clone(&disk.content);
        let device = BlockDevice::new(content, Arc::clone(ram), &name, queues);
        crate::virtio::plug(chipset, ram, clock, "virtio disk", Box::new(device))?;
    }
    Ok(())
}
