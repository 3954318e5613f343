//! Puts paravirtual devices on the PCI bus.

use ambos_clock::VmClock;
use ambos_device::{BarMapper, PciAddress};
use ambos_memory::GuestRam;
use ambos_pc::{ChipsetError, PcChipset};
use ambos_pc_map::pci::{FIRST_SLOT, SLOTS};
use ambos_virtio::{PciParts, VirtioDevice, VirtioPci};
use std::sync::Arc;

/// The interrupt pin of all of them.
const PIN: u8 = 0;

/// Puts `device` in the first free slot. Devices of the same `label` share a row of accounting.
pub(crate) fn plug(
    chipset: &mut PcChipset,
    ram: &Arc<GuestRam>,
    clock: &Arc<VmClock>,
    label: &str,
    device: Box<dyn VirtioDevice>,
) -> Result<(), ChipsetError> {
    let taken = chipset.pci().addresses();
    let free = (FIRST_SLOT..SLOTS)
        .filter_map(|slot| PciAddress::new(slot, 0))
        .find(|address| !taken.contains(address));
    let address = free.ok_or(ChipsetError::NoSuchPlace(SLOTS, 0))?;
    let row = chipset.devices_mut().add(label);
    let (ports, mmio) = (Arc::downgrade(chipset.ports()), Arc::downgrade(chipset.mmio()));
    let parts = PciParts {
        ram: Arc::clone(ram),
        clock: Arc::clone(clock),
        wire: chipset.pci_pin(address.device(), PIN).wire(format!("{label} {address}")),
        pin: PIN,
        msi: chipset.msi(),
        mapper: BarMapper::new(label, row, ports, mmio),
    };
    chipset.pci().plug(address, VirtioPci::new(device, parts)?)?;
    Ok(())
}
