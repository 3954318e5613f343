//! The functions on bus 0 and the two ways to their configuration spaces: the pair of ports of
//! configuration mechanism 1, and the memory window of PCI Express (ECAM).
//!
//! The reset control register lies among the bytes of the address port, told apart by the width of
//! the access, and so it lives here.

use crate::lock;
use crate::power::{PowerRequest, PowerSink};
use ambos_device::{AccessError, MmioDevice, PciAddress, PciFunction, PortDevice, Shared};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use thiserror::Error;

/// Registers (PCI Local Bus Specification 3.0, section 3.2.2.3.2; PCI Express Base Specification
/// 3.0, section 7.2.2; reset control: 82371FB/SB data sheet).
mod spec {
    /// Offset of the address register.
    pub(super) const ADDRESS: u16 = 0;
    /// Offset of the reset control register.
    pub(super) const RESET: u16 = 1;
    /// Offset of the data window.
    pub(super) const DATA: u16 = 4;
    /// Address: accesses to the data window are configuration accesses.
    pub(super) const ENABLED: u32 = 1 << 31;
    /// Address: bits that can be written.
    pub(super) const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;
    /// Reset control: a change from 0 to 1 resets.
    pub(super) const RESET_CPU: u8 = 1 << 2;
    /// Reset control: bits that can be written.
    pub(super) const RESET_WRITABLE: u8 = 0x0e;
}

/// The place is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("there is a PCI function at {0} already")]
pub struct PlugError(pub PciAddress);

/// Bus 0.
#[derive(Default)]
pub struct PciBus {
    functions: RwLock<BTreeMap<PciAddress, Shared<dyn PciFunction>>>,
}

impl fmt::Debug for PciBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.addresses()).finish()
    }
}

impl PciBus {
    /// Plugs a function in.
    ///
    /// # Errors
    ///
    /// [`PlugError`] if there is another at the same address.
    pub fn plug(
        &self,
        address: PciAddress,
        function: Shared<dyn PciFunction>,
    ) -> Result<(), PlugError> {
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        if functions.contains_key(&address) {
            return Err(PlugError(address));
        }
        functions.insert(address, function);
        Ok(())
    }

    /// The addresses of all functions.
    pub fn addresses(&self) -> Vec<PciAddress> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        functions.keys().copied().collect()
    }

    fn function(&self, place: Place) -> Option<Shared<dyn PciFunction>> {
        if place.bus != 0 {
            return None;
        }
        let address = PciAddress::new(place.device, place.function)?;
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        functions.get(&address).map(Shared::clone)
    }

    /// Where no function is, all ones are read: a probe finds nothing, and nothing is wrong.
    fn read(&self, place: Place, data: &mut [u8]) {
        match self.function(place) {
            Some(function) => lock(&function).config_read(place.register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, place: Place, data: &[u8]) {
        if let Some(function) = self.function(place) {
            lock(&function).config_write(place.register, data);
        }
    }
}

/// A register of a configuration space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    bus: u8,
    device: u8,
    function: u8,
    register: u16,
}

impl Place {
    /// From the address register and the offset in the data window.
    fn of_address(address: u32, offset: u16) -> Self {
        Self {
            bus: (address >> 16) as u8,
            device: (address >> 11) as u8 & 0x1f,
            function: (address >> 8) as u8 & 7,
            register: (address as u16 & 0xfc) + (offset & 3),
        }
    }

    /// From an offset in the memory window.
    fn of_offset(offset: u64) -> Self {
        Self {
            bus: (offset >> 20) as u8,
            device: (offset >> 15) as u8 & 0x1f,
            function: (offset >> 12) as u8 & 7,
            register: offset as u16 & 0xfff,
        }
    }
}

/// The address and data ports (CF8h–CFFh).
pub struct ConfigPorts {
    // Dependencies.
    bus: Arc<PciBus>,
    power: Arc<dyn PowerSink>,

    // Volatile state.
    address: u32,
    reset: u8,
}

impl ConfigPorts {
    /// The way to the functions of `bus`.
    pub fn new(bus: Arc<PciBus>, power: Arc<dyn PowerSink>) -> Self {
        Self { bus, power, address: 0, reset: 0 }
    }

    fn selected(&self, offset: u16) -> Option<Place> {
        (self.address & spec::ENABLED != 0).then(|| Place::of_address(self.address, offset))
    }
}

impl PortDevice for ConfigPorts {
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        match (offset, data.len()) {
            (spec::ADDRESS, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (spec::RESET, 1) => data.fill(self.reset),
            (spec::DATA.., length) if usize::from(offset) + length <= 8 => {
                match self.selected(offset) {
                    Some(place) => self.bus.read(place, data),
                    None => data.fill(0xff),
                }
            }
            // Probes for other configuration mechanisms find nothing.
            (..spec::DATA, _) => data.fill(0xff),
            _ => return Err(AccessError::Size),
        }
        Ok(())
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        match (offset, data) {
            (spec::ADDRESS, &[a, b, c, d]) => {
                self.address = u32::from_le_bytes([a, b, c, d]) & spec::ADDRESS_WRITABLE;
            }
            (spec::RESET, &[value]) => {
                if value & !self.reset & spec::RESET_CPU != 0 {
                    self.power.request(PowerRequest::Reset);
                }
                self.reset = value & spec::RESET_WRITABLE;
            }
            (spec::DATA.., _) if usize::from(offset) + data.len() <= 8 => {
                if let Some(place) = self.selected(offset) {
                    self.bus.write(place, data);
                }
            }
            // Probes for other configuration mechanisms.
            (..spec::DATA, _) => {}
            _ => return Err(AccessError::Size),
        }
        Ok(())
    }
}

/// The memory window: 4 KiB for each function of 256 buses.
pub struct ConfigWindow {
    // Dependencies.
    bus: Arc<PciBus>,
}

impl ConfigWindow {
    /// The way to the functions of `bus`.
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self { bus }
    }
}

/// The lengths of the parts of an access that lie within one aligned group of four bytes each.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset.wrapping_add(done as u64);
        let count = (4 - (at & 3) as usize).min(length - done);
        let range = done..done + count;
        done += count;
        (count > 0).then_some((at, range))
    })
}

impl MmioDevice for ConfigWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        for (at, range) in parts(offset, data.len()) {
            self.bus.read(Place::of_offset(at), &mut data[range]);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        for (at, range) in parts(offset, data.len()) {
            self.bus.write(Place::of_offset(at), &data[range]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::HostBridge;
    use crate::testing::{Random, Requests};
    use std::sync::Mutex;

    fn ports() -> (ConfigPorts, ConfigWindow, Arc<Requests>) {
        let bus = Arc::new(PciBus::default());
        let address = PciAddress::new(0, 0).unwrap();
        bus.plug(address, Arc::new(Mutex::new(HostBridge::default()))).unwrap();
        let again = bus.plug(address, Arc::new(Mutex::new(HostBridge::default())));
        assert_eq!(again, Err(PlugError(address)));
        let requests = Arc::new(Requests::default());
        (ConfigPorts::new(bus.clone(), requests.clone()), ConfigWindow::new(bus), requests)
    }

    fn select(ports: &mut ConfigPorts, address: u32) {
        ports.write(0, &address.to_le_bytes()).unwrap();
    }

    fn dword(ports: &mut ConfigPorts) -> u32 {
        let mut data = [0; 4];
        ports.read(4, &mut data).unwrap();
        u32::from_le_bytes(data)
    }

    #[test]
    fn mechanism_1() {
        let (mut ports, ..) = ports();
        select(&mut ports, 0);
        assert_eq!(dword(&mut ports), u32::MAX);
        select(&mut ports, 0x8000_0000);
        assert_eq!(dword(&mut ports), 0x1237_8086);
        let mut byte = [0];
        ports.read(7, &mut byte).unwrap();
        assert_eq!(byte, [0x12]);
        for nobody in [0x8000_0100, 0x8000_0800, 0x8001_0000] {
            select(&mut ports, nobody);
            assert_eq!(dword(&mut ports), u32::MAX);
        }
    }

    #[test]
    fn the_memory_window() {
        let (_, mut window, _) = ports();
        let mut data = [0; 4];
        window.read(0, &mut data).unwrap();
        assert_eq!(u32::from_le_bytes(data), 0x1237_8086);
        window.read(2, &mut data).unwrap();
        assert_eq!(data[..2], [0x37, 0x12]);
        window.read(0x100, &mut data).unwrap();
        assert_eq!(data, [0; 4]);
        window.read(0x8000, &mut data).unwrap();
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn the_reset_register_is_among_the_address_bytes() {
        let (mut ports, _, requests) = ports();
        select(&mut ports, 0x8000_0600);
        assert!(requests.take().is_empty());
        ports.write(1, &[2]).unwrap();
        assert!(requests.take().is_empty());
        ports.write(1, &[6]).unwrap();
        assert_eq!(requests.take(), [PowerRequest::Reset]);
        let mut data = [0; 4];
        ports.read(0, &mut data).unwrap();
        assert_eq!(u32::from_le_bytes(data), 0x8000_0600);
    }

    #[test]
    fn any_sequence_of_accesses_is_survived() {
        let (mut ports, mut window, _) = ports();
        let mut random = Random::new(7);
        for _ in 0..100_000 {
            let offset = random.below(8) as u16;
            random.access(&mut ports, offset);
            let (offset, length) = (random.next() & 0xfff_ffff, random.below(65));
            let _ = window.read(offset, &mut vec![0; length]);
            let _ = window.write(offset, &vec![0xa5; length]);
        }
    }
}
