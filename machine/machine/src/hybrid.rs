//! The devices that only a paravirtualized machine has on its bus, besides disks and network.

use crate::machine::{FrontPanel, MachineError};
use crate::virtio;
use ambos_clock::VmClock;
use ambos_memory::GuestRam;
use ambos_pc::PcChipset;
use ambos_pc::Screen;
use ambos_share::{Session, Share};
use ambos_virtio::{
    Balloon, ConsoleDevice, ConsoleKeyboard, EntropySource, ShareDevice, SocketDevice,
};
use ambos_vsock::UnixSockets;
use std::io::Write;
use std::sync::Arc;

/// A directory of the host in a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedDirectory {
    /// The directory.
    pub share: Share,
    /// The name by which the guest mounts it: 1 to [`SharedDirectory::TAG_MAX`] bytes.
    pub tag: String,
}

impl SharedDirectory {
    /// Most bytes of a tag.
    pub const TAG_MAX: usize = ShareDevice::TAG_MAX;
}

/// What a guest reaches of the host by devices that only a paravirtualized machine has.
#[derive(Clone, Default)]
pub struct HostAccess {
    /// Directories.
    pub directories: Vec<SharedDirectory>,
    /// Sockets.
    pub sockets: Option<Arc<UnixSockets>>,
}

/// Puts the devices in their places. What the guest prints on its paravirtual console goes to
/// `console`; the result types on it.
pub(crate) fn plug(
    chipset: &mut PcChipset,
    ram: &Arc<GuestRam>,
    clock: &Arc<VmClock>,
    access: &HostAccess,
    console: Box<dyn Write + Send>,
) -> Result<ConsoleKeyboard, MachineError> {
    let keyboard = ConsoleKeyboard::default();
    let console = Box::new(ConsoleDevice::new(console, keyboard.clone()));
    virtio::plug(chipset, ram, clock, "virtio console", console)?;
    virtio::plug(chipset, ram, clock, "virtio entropy source", Box::new(EntropySource))?;
    virtio::plug(chipset, ram, clock, "virtio balloon", Box::new(Balloon::default()))?;
    if let Some(sockets) = &access.sockets {
        let device = Box::new(SocketDevice::new(Arc::clone(sockets)));
        virtio::plug(chipset, ram, clock, "virtio sockets", device)?;
    }
    for SharedDirectory { share, tag } in &access.directories {
        let device = Box::new(ShareDevice::new(Session::new(share, ram)?, tag));
        virtio::plug(chipset, ram, clock, "virtio shared directory", device)?;
    }
    Ok(keyboard)
}

/// Typing goes to the paravirtual console once the guest prints there, and to the serial port until
/// then.
pub(crate) struct HybridPanel {
    pub(crate) chipset: Arc<PcChipset>,
    pub(crate) keyboard: ConsoleKeyboard,
}

impl FrontPanel for HybridPanel {
    fn type_in(&self, bytes: &[u8]) -> usize {
        if self.keyboard.is_in_use() {
            self.keyboard.type_in(bytes)
        } else {
            self.chipset.console_input(bytes)
        }
    }

    fn resize(&self, columns: u16, rows: u16) {
        self.keyboard.resize(columns, rows);
    }

    fn press_power_button(&self) {
        self.chipset.press_power_button();
    }

    fn screen(&self) -> Option<Screen> {
        self.chipset.screen()
    }
}
