//! The 82540EM, a gigabit network adapter.
//!
//! - `spec`: registers and descriptors; `ring`: a ring of the latter.
//! - `transmit`, `receive`: what moves frames; `filter`: which ones.
//! - `interrupts`: causes, and how they are held back to be fewer; `statistics`.
//! - `eeprom`, `phy`: chips beside the controller.
//!
//! # Copies
//!
//! What the driver sends goes from its buffers to the back-end in one step, but for headers that are
//! changed on the way. What it receives is copied once.
//!
//! # Waiting
//!
//! Frames wait in the back-end until there are buffers for them: no frame is lost for want of any.

mod eeprom;
mod filter;
mod interrupts;
mod phy;
mod receive;
mod ring;
mod spec;
mod statistics;
#[cfg(test)]
mod tests;
mod transmit;

use crate::lock;
use ambos_clock::{Expire, TimerTarget, VmClock};
use ambos_device::{
    AccessError, BarKind, BarMapper, ConfigError, ConfigSpace, MmioDevice, PciFunction,
    PciIdentity, PortDevice, read_dwords, write_dwords,
};
use ambos_memory::GuestRam;
use ambos_net::{MacAddress, NetBackend, NetPort};
use ambos_wire::Wire;
use eeprom::Eeprom;
use filter::Filter;
use interrupts::Interrupts;
use phy::Phy;
use ring::Ring;
use spec::{cause, ctrl, register};
use statistics::Statistics;
use std::sync::{Arc, Mutex, Weak};
use transmit::Contexts;

/// Configuration.
mod configuration {
    use super::PciIdentity;

    pub(super) const IDENTITY: PciIdentity = PciIdentity {
        vendor: 0x8086,
        device: 0x100e,
        revision: 2,
        class: [2, 0, 0],
        subsystem_vendor: 0x8086,
        subsystem: 0x001e,
    };
    /// The base address register of the registers, and that of the ports by which they can be
    /// reached, too.
    pub(super) const MEMORY: usize = 0;
    pub(super) const PORTS: usize = 1;
    pub(super) const PORTS_SIZE: u64 = 64;
}

/// Ports: the address of a register, and the register.
mod ports {
    pub(super) const ADDRESS: u64 = 0;
    pub(super) const DATA: u64 = 4;
}

/// What an adapter needs of its machine.
pub struct E1000Parts {
    /// The guest's memory.
    pub ram: Arc<GuestRam>,
    /// The clock by which interrupts are held back.
    pub clock: Arc<VmClock>,
    /// The interrupt pin.
    pub wire: Wire,
    /// Which one it is: 0 = INTA# … 3 = INTD#.
    pub pin: u8,
    /// Puts the registers on the buses.
    pub mapper: BarMapper,
    /// The network.
    pub network: Arc<dyn NetBackend>,
    /// The adapter's address.
    pub mac: MacAddress,
}

/// Where the back-end says that something changed.
struct Port(Weak<Mutex<E1000>>);

impl NetPort for Port {
    fn changed(&self) {
        if let Some(adapter) = self.0.upgrade() {
            let mut adapter = lock(&adapter);
            adapter.receive();
            adapter.transmit();
        }
    }
}

/// The adapter.
pub struct E1000 {
    // Dependencies.
    ram: Arc<GuestRam>,
    wire: Wire,
    mapper: BarMapper,
    network: Arc<dyn NetBackend>,
    /// Kept alive for the back-end, which knows it only weakly.
    _port: Arc<Port>,

    // Volatile state.
    config: ConfigSpace,
    /// Registers that only keep what is written.
    plain: Box<[u32]>,
    ctrl: u32,
    rctl: u32,
    tctl: u32,
    rx: Ring,
    tx: Ring,
    contexts: Contexts,
    filter: Filter,
    interrupts: Interrupts,
    statistics: Statistics,
    eeprom: Eeprom,
    phy: Phy,
    /// The register that the ports reach.
    port_address: u32,
}

impl E1000 {
    /// An adapter on its network.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] is a mistake in the layout of the function's registers.
    pub fn new(parts: E1000Parts) -> Result<Arc<Mutex<Self>>, ConfigError> {
        let E1000Parts { ram, clock, wire, pin, mut mapper, network, mac } = parts;
        let mut config = ConfigSpace::new(&configuration::IDENTITY).with_interrupt_pin(pin);
        config.add_bar(configuration::MEMORY, BarKind::Memory32, register::WINDOW)?;
        config.add_bar(configuration::PORTS, BarKind::Ports, configuration::PORTS_SIZE)?;
        Ok(Arc::new_cyclic(|this: &Weak<Mutex<Self>>| {
            let timer = clock.timer("e1000 interrupts", this.clone() as Weak<dyn TimerTarget>);
            let memory = this.clone() as Weak<Mutex<dyn MmioDevice>>;
            mapper.show_memory(configuration::MEMORY, memory, 0);
            let ports = this.clone() as Weak<Mutex<dyn PortDevice>>;
            mapper.show_ports(configuration::PORTS, ports, 0);
            let port = Arc::new(Port(this.clone()));
            let weak: Weak<Port> = Arc::downgrade(&port);
            network.attach(weak);
            let mut adapter = Self {
                ram,
                wire,
                mapper,
                network,
                _port: port,
                config,
                plain: vec![0; register::END as usize / 4].into(),
                ctrl: 0,
                rctl: 0,
                tctl: 0,
                rx: Ring::default(),
                tx: Ring::default(),
                contexts: Contexts::default(),
                filter: Filter::new(mac.0),
                interrupts: Interrupts::new(timer),
                statistics: Statistics::new(),
                eeprom: Eeprom::new(mac),
                phy: Phy::new(),
                port_address: 0,
            };
            adapter.reset();
            Mutex::new(adapter)
        }))
    }

    /// As after power-on; the chips beside the controller do not take part.
    fn reset(&mut self) {
        self.plain.fill(0);
        // 48 KiB of the packet buffer for receiving, 16 for sending.
        self.set_plain(register::PBA, 0x0010_0030);
        (self.ctrl, self.rctl, self.tctl) = (ctrl::DEFAULT, 0, 0);
        (self.rx, self.tx) = (Ring::default(), Ring::default());
        self.contexts = Contexts::default();
        self.filter = Filter::new(self.eeprom.address().0);
        self.statistics = Statistics::new();
        self.interrupts.reset();
        self.drive_pin();
    }

    fn plain(&self, offset: u32) -> u32 {
        self.plain.get(offset as usize / 4).copied().unwrap_or(0)
    }

    fn set_plain(&mut self, offset: u32, value: u32) {
        if let Some(word) = self.plain.get_mut(offset as usize / 4) {
            *word = value;
        }
    }

    fn drive_pin(&mut self) {
        let driven = self.config.set_interrupt(self.interrupts.is_asserted());
        self.wire.set_level(driven);
    }

    fn read_register(&mut self, offset: u32) -> Result<u32, AccessError> {
        Ok(match offset {
            register::CTRL | register::CTRL_COPY => self.ctrl,
            register::STATUS => spec::STATUS_UP,
            register::EECD => self.eeprom.wires(),
            register::EERD => self.eeprom.read_register(),
            register::MDIC => self.phy.cycle(),
            register::ICR => {
                let causes = self.interrupts.take();
                self.drive_pin();
                causes
            }
            register::ITR => self.interrupts.throttle(),
            // ICS cannot be read; it is the neighbour of ICR and reads as that would.
            register::ICS | register::IMC => 0,
            register::IMS => self.interrupts.mask(),
            register::RCTL => self.rctl,
            register::TCTL => self.tctl,
            register::RDBAL => self.rx.base_low,
            register::RDBAH => self.rx.base_high,
            register::RDLEN => self.rx.length,
            register::RDH => self.rx.head,
            register::RDT => self.rx.tail,
            register::TDBAL => self.tx.base_low,
            register::TDBAH => self.tx.base_high,
            register::TDLEN => self.tx.length,
            register::TDH => self.tx.head,
            register::TDT => self.tx.tail,
            register::STATISTICS..register::STATISTICS_END => self.statistics.take(offset),
            _ if let Some(word) = self.table(offset) => *word,
            _ if is_plain(offset) => self.plain(offset),
            _ if register::ZERO.contains(&offset) => 0,
            _ => return Err(AccessError::NoRegister),
        })
    }

    /// A word of the filters' tables.
    fn table(&mut self, offset: u32) -> Option<&mut u32> {
        let index = |start: u32| (offset - start) as usize / 4;
        match offset {
            register::MTA..register::RAL => self.filter.groups.get_mut(index(register::MTA)),
            register::RAL..register::VFTA => {
                let words = self.filter.addresses.as_flattened_mut();
                words.get_mut(index(register::RAL))
            }
            register::VFTA..register::VFTA_END => self.filter.vlans.get_mut(index(register::VFTA)),
            _ => None,
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) -> Result<(), AccessError> {
        match offset {
            register::CTRL | register::CTRL_COPY => {
                if value & ctrl::RESET != 0 {
                    self.reset();
                } else {
                    self.ctrl = value;
                }
            }
            register::EECD => self.eeprom.set_wires(value),
            register::EERD => self.eeprom.set_read_register(value),
            register::MDIC => {
                let effect = self.phy.set_cycle(value);
                let link = if effect.link { cause::LSC } else { 0 };
                let complete = if effect.complete { cause::MDAC } else { 0 };
                self.interrupts.raise(link | complete);
            }
            register::ICR => {
                self.interrupts.take();
            }
            register::ITR => self.interrupts.set_throttle(value),
            register::ICS => self.interrupts.raise(value),
            register::IMS => self.interrupts.enable(value),
            register::IMC => self.interrupts.disable(value),
            register::RCTL => {
                self.rctl = value;
                self.receive();
            }
            register::TCTL => {
                self.tctl = value;
                self.transmit();
            }
            register::RDBAL => self.rx.base_low = value & Ring::BASE,
            register::RDBAH => self.rx.base_high = value,
            register::RDLEN => self.rx.length = value & Ring::LENGTH,
            register::RDH => self.rx.head = value & 0xffff,
            register::RDT => {
                self.rx.tail = value & 0xffff;
                self.receive();
            }
            register::TDBAL => self.tx.base_low = value & Ring::BASE,
            register::TDBAH => self.tx.base_high = value,
            register::TDLEN => self.tx.length = value & Ring::LENGTH,
            register::TDH => self.tx.head = value & 0xffff,
            register::TDT => {
                self.tx.tail = value & 0xffff;
                self.transmit();
            }
            // They are read-only.
            register::STATUS | register::STATISTICS..register::STATISTICS_END => {}
            _ if let Some(word) = self.table(offset) => *word = value,
            _ if is_plain(offset) => self.set_plain(offset, value),
            _ if register::ZERO.contains(&offset) => {}
            _ => return Err(AccessError::NoRegister),
        }
        self.drive_pin();
        Ok(())
    }
}

fn is_plain(offset: u32) -> bool {
    let delays = [register::RDTR, register::RADV, register::TIDV, register::TADV];
    let plain = register::PLAIN.iter().any(|(first, last)| (*first..=*last).contains(&offset));
    plain || delays.contains(&offset)
}

impl PciFunction for E1000 {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        if self.config.write(offset, data) {
            self.mapper.update(&self.config);
            self.drive_pin();
        }
    }
}

impl MmioDevice for E1000 {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        read_dwords(offset, data, |at| {
            let at = u32::try_from(at).map_err(|_| AccessError::NoRegister)?;
            self.read_register(at)
        })
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        write_dwords(offset, data, |at, value| {
            let at = u32::try_from(at).map_err(|_| AccessError::NoRegister)?;
            self.write_register(at, value)
        })
    }
}

impl PortDevice for E1000 {
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        read_dwords(offset.into(), data, |at| match at {
            ports::ADDRESS => Ok(self.port_address),
            ports::DATA => self.read_register(self.port_address & !3),
            _ => Err(AccessError::NoRegister),
        })
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        write_dwords(offset.into(), data, |at, value| match at {
            ports::ADDRESS => {
                self.port_address = value;
                Ok(())
            }
            ports::DATA => self.write_register(self.port_address & !3, value),
            _ => Err(AccessError::NoRegister),
        })
    }
}

impl Expire for E1000 {
    fn expire(&mut self, _now: u64) {
        self.interrupts.expire();
        self.drive_pin();
    }
}
