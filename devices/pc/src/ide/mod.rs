//! The IDE controller of the 82371SB (PIIX3): two channels for two drives each.
//!
//! - `channel`: the registers of a channel, and how commands go on; `task_file`: those of a drive.
//! - `bus_master`: how data get to memory without the CPU.
//! - `disk`, `cdrom` (with `packet`): the drives; `identify`: what they say of themselves.
//!
//! The channels answer at their traditional ports from power-on, as firmware would have left them,
//! and interrupt on their traditional lines.
//!
//! # Copies
//!
//! Data of bus-master commands move between the image and guest memory in one system call. Data
//! that the guest moves itself through the data port go through a buffer here.

mod bus_master;
mod cdrom;
mod channel;
mod disk;
mod drive;
mod identify;
mod packet;
mod spec;
mod task_file;
#[cfg(test)]
mod tests;

use crate::lock;
use ambos_block::BlockBackend;
use ambos_device::{
    AccessError, BarKind, BarMapper, ConfigError, ConfigSpace, PciFunction, PciIdentity,
    PortDevice, Shared, read_bytes, write_bytes,
};
use ambos_memory::GuestRam;
use ambos_wire::Wire;
use cdrom::Cdrom;
use channel::Channel;
use disk::Disk;
use drive::Drive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Configuration (82371FB/SB data sheet, section 2.3).
mod configuration {
    use super::PciIdentity;

    pub(super) const IDENTITY: PciIdentity = PciIdentity {
        vendor: 0x8086,
        device: 0x7010,
        revision: 0,
        // Both channels at their traditional ports; a bus master.
        class: [1, 1, 0x80],
        subsystem_vendor: 0,
        subsystem: 0,
    };
    /// Timing registers of both channels (4 bytes) and of the second drives (1 byte).
    pub(super) const TIMING: u8 = 0x40;
    /// Both channels decode their ports.
    pub(super) const TIMING_RESET: [u8; 5] = [0, 0x80, 0, 0x80, 0];
    /// The base address register of the bus master.
    pub(super) const MASTER_BAR: usize = 4;
    /// Ports of both bus masters.
    pub(super) const MASTER_PORTS: u16 = 16;
}

/// What is in a place for a drive.
pub enum IdeDrive {
    /// A disk.
    Disk(Arc<dyn BlockBackend>),
    /// A CD-ROM drive with a medium in it.
    Cdrom(Arc<dyn BlockBackend>),
}

impl IdeDrive {
    fn into_drive(self, place: usize) -> Box<dyn Drive> {
        match self {
            Self::Disk(backend) => Box::new(Disk::new(backend, format!("AMBOS-DISK-{place}"))),
            Self::Cdrom(medium) => Box::new(Cdrom::new(medium, format!("AMBOS-CDROM-{place}"))),
        }
    }
}

/// The ports of one channel: the command block at offsets 0 to 7, the control block at 8.
pub struct IdeChannel(Channel);

impl IdeChannel {
    /// Offset of the control block.
    pub const CONTROL: u16 = spec::CONTROL;
}

impl PortDevice for IdeChannel {
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        if offset == spec::DATA {
            self.0.read_data(data);
            return Ok(());
        }
        read_bytes(offset, data, |register| Ok(self.0.read(register)))
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        if offset == spec::DATA {
            self.0.write_data(data);
            return Ok(());
        }
        write_bytes(offset, data, |register, value| {
            self.0.write(register, value);
            Ok(())
        })
    }
}

/// The ports of both bus masters, eight each.
struct MasterPorts {
    channels: [Shared<IdeChannel>; 2],
    /// The guest lets the function access memory.
    allowed: Arc<AtomicBool>,
}

impl MasterPorts {
    fn channel(&self, offset: u16) -> &Shared<IdeChannel> {
        &self.channels[usize::from(offset >> 3 & 1)]
    }
}

impl PortDevice for MasterPorts {
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        read_bytes(offset, data, |at| Ok(lock(self.channel(at)).0.read_master(at & 7)))
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        let allowed = self.allowed.load(Ordering::Relaxed);
        write_bytes(offset, data, |at, value| {
            lock(self.channel(at)).0.write_master(at & 7, value, allowed);
            Ok(())
        })
    }
}

/// The controller as PCI sees it: function 1 of the south bridge.
pub struct IdeController {
    // Dependencies.
    channels: [Shared<IdeChannel>; 2],
    mapper: BarMapper,
    /// Kept alive for the mapper, which knows them only weakly.
    _master: Shared<MasterPorts>,

    // Volatile state.
    config: ConfigSpace,
    allowed: Arc<AtomicBool>,
}

impl IdeController {
    /// A controller that interrupts through `irqs`, one for each channel. `drives` are first and
    /// second drive of the first channel, then those of the second; `mapper` puts the bus master
    /// on the machine's buses.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] is a mistake in the layout of the function's registers.
    pub fn new(
        ram: &Arc<GuestRam>,
        irqs: [Wire; 2],
        drives: [Option<IdeDrive>; 4],
        mut mapper: BarMapper,
    ) -> Result<Self, ConfigError> {
        let mut place = 0;
        let [a, b, c, d] = drives.map(|drive| {
            place += 1;
            drive.map(|drive| drive.into_drive(place - 1))
        });
        let [first, second] = irqs;
        let channel = |irq, drives| {
            Arc::new(Mutex::new(IdeChannel(Channel::new(Arc::clone(ram), irq, drives))))
        };
        let channels = [channel(first, [a, b]), channel(second, [c, d])];
        let timing = configuration::TIMING_RESET;
        let mut config = ConfigSpace::new(&configuration::IDENTITY).with_registers(
            configuration::TIMING,
            &timing,
            &[0xff; 5],
        );
        let ports = u64::from(configuration::MASTER_PORTS);
        config.add_bar(configuration::MASTER_BAR, BarKind::Ports, ports)?;
        let allowed = Arc::new(AtomicBool::new(false));
        let master = MasterPorts { channels: channels.clone(), allowed: Arc::clone(&allowed) };
        let master = Arc::new(Mutex::new(master));
        let weak = Arc::downgrade(&master);
        mapper.show_ports(configuration::MASTER_BAR, weak, 0);
        Ok(Self { channels, mapper, _master: master, config, allowed })
    }

    /// The ports of both channels, to be mapped at their traditional places.
    pub fn channels(&self) -> &[Shared<IdeChannel>; 2] {
        &self.channels
    }
}

impl PciFunction for IdeController {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        if self.config.write(offset, data) {
            self.allowed.store(self.config.is_bus_master(), Ordering::Relaxed);
            self.mapper.update(&self.config);
        }
    }
}
