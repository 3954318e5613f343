//! The network adapter and its place in the machine.

use crate::technique::Technique;
use ambos_clock::VmClock;
use ambos_memory::GuestRam;
use ambos_net::{MacAddress, NetBackend};
use ambos_pc::{ChipsetError, PcChipset};
use ambos_virtio::NetDevice;
use std::sync::Arc;

/// A machine's connection to a network.
#[derive(Clone)]
pub struct Network {
    /// The network.
    pub backend: Arc<dyn NetBackend>,
    /// The adapter's address.
    pub mac: MacAddress,
}

/// Puts the adapter in its place.
pub(crate) fn plug(
    chipset: &mut PcChipset,
    ram: &Arc<GuestRam>,
    clock: &Arc<VmClock>,
    network: &Network,
    technique: Technique,
) -> Result<(), ChipsetError> {
    let Network { backend, mac } = network.clone();
    match technique {
        Technique::Full => chipset.add_e1000(ram, clock, backend, mac),
        Technique::Hybrid => {
            let device = Box::new(NetDevice::new(backend, mac));
            crate::virtio::plug(chipset, ram, clock, "virtio network adapter", device)
        }
        // There is no bus: the control domain has the adapter.
        Technique::Para => Ok(()),
    }
}
