//! Putting a function on the buses where its base address registers say.

use super::config_space::{Bar, BarKind, ConfigSpace};
use crate::{Mapping, MmioBus, MmioDevice, MmioRange, PortBus, PortDevice, PortRange};
use ambos_intercept::Device;
use std::fmt;
use std::sync::{Mutex, Weak};

/// What a base address register shows.
enum Window {
    Ports(Weak<Mutex<dyn PortDevice>>, u16),
    Memory(Weak<Mutex<dyn MmioDevice>>, u64),
}

/// Keeps a function's windows on the buses where its guest moves them.
///
/// The function calls [`BarMapper::update`] after each write of its configuration space. A window
/// that would overlap somebody else's addresses, while a guest moves things about, is not visible
/// until a later update finds room for it.
pub struct BarMapper {
    // Configuration.
    label: String,
    row: Device,
    windows: [Option<Window>; 6],

    // Dependencies.
    ports: Weak<PortBus>,
    memory: Weak<MmioBus>,

    // Volatile state.
    mapped: [Option<(Bar, Mapping)>; 6],
}

impl fmt::Debug for BarMapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BarMapper")
            .field("label", &self.label)
            .field("mapped", &self.mapped)
            .finish_non_exhaustive()
    }
}

impl BarMapper {
    /// A mapper without windows. `label` and `row` name the function on the buses.
    pub fn new(
        label: impl Into<String>,
        row: Device,
        ports: Weak<PortBus>,
        memory: Weak<MmioBus>,
    ) -> Self {
        Self {
            label: label.into(),
            row,
            windows: Default::default(),
            ports,
            memory,
            mapped: Default::default(),
        }
    }

    /// Base address register `index` (0–5) shows ports of `device`, seen by it from `offset` on.
    pub fn show_ports(&mut self, index: usize, device: Weak<Mutex<dyn PortDevice>>, offset: u16) {
        if let Some(window) = self.windows.get_mut(index) {
            *window = Some(Window::Ports(device, offset));
        }
    }

    /// Base address register `index` (0–5) shows registers of `device`, seen by it from `offset`
    /// on.
    pub fn show_memory(&mut self, index: usize, device: Weak<Mutex<dyn MmioDevice>>, offset: u64) {
        if let Some(window) = self.windows.get_mut(index) {
            *window = Some(Window::Memory(device, offset));
        }
    }

    /// What base address register `index` shows now, if it is on its bus.
    pub fn mapped(&self, index: usize) -> Option<Bar> {
        self.mapped.get(index).copied().flatten().map(|(bar, _)| bar)
    }

    /// Moves the windows to where `config` says.
    pub fn update(&mut self, config: &ConfigSpace) {
        let (Some(ports), Some(memory)) = (self.ports.upgrade(), self.memory.upgrade()) else {
            return;
        };
        let wanted: [Option<Bar>; 6] = std::array::from_fn(|index| config.bar(index));
        // First everything goes that moves, so that two windows can change places.
        for (mapped, wanted) in self.mapped.iter_mut().zip(&wanted) {
            if mapped.is_some_and(|(bar, _)| Some(bar) != *wanted)
                && let Some((bar, mapping)) = mapped.take()
            {
                match bar.kind {
                    BarKind::Ports => ports.unmap(mapping),
                    BarKind::Memory32 | BarKind::Memory64 { .. } => memory.unmap(mapping),
                }
            }
        }
        for ((mapped, wanted), window) in self.mapped.iter_mut().zip(wanted).zip(&self.windows) {
            let (None, Some(bar), Some(window)) = (&mapped, wanted, window) else { continue };
            let label = self.label.clone();
            let mapping = match window {
                Window::Ports(device, offset) => device.upgrade().and_then(|device| {
                    let (first, count) = (bar.address.try_into().ok()?, bar.size.try_into().ok()?);
                    let range = PortRange::new(first, count).at_offset(*offset);
                    ports.map(range, label, self.row, device).ok()
                }),
                Window::Memory(device, offset) => device.upgrade().and_then(|device| {
                    let range = MmioRange::new(bar.address, bar.size).at_offset(*offset);
                    memory.map(range, label, self.row, device).ok()
                }),
            };
            *mapped = mapping.map(|mapping| (bar, mapping));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AccessError, PciIdentity};
    use std::sync::Arc;

    struct Tag;

    impl PortDevice for Tag {
        fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
            data.fill(offset as u8);
            Ok(())
        }

        fn write(&mut self, _offset: u16, _data: &[u8]) -> Result<(), AccessError> {
            Ok(())
        }
    }

    impl MmioDevice for Tag {
        fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
            data.fill(offset as u8);
            Ok(())
        }

        fn write(&mut self, _offset: u64, _data: &[u8]) -> Result<(), AccessError> {
            Ok(())
        }
    }

    #[test]
    fn windows_follow_the_registers() {
        let (ports, memory) = (Arc::new(PortBus::default()), Arc::new(MmioBus::default()));
        let device = Arc::new(Mutex::new(Tag));
        let row = Device::new(7);
        let mut mapper =
            BarMapper::new("tag", row, Arc::downgrade(&ports), Arc::downgrade(&memory));
        let weak = Arc::downgrade(&device);
        mapper.show_ports(0, weak.clone(), 0x10);
        mapper.show_memory(1, weak, 0x20);
        let identity = PciIdentity {
            vendor: 1,
            device: 2,
            revision: 0,
            class: [0; 3],
            subsystem_vendor: 0,
            subsystem: 0,
        };
        let mut config = ConfigSpace::new(&identity);
        config.add_bar(0, BarKind::Ports, 0x20).unwrap();
        config.add_bar(1, BarKind::Memory32, 0x1000).unwrap();
        config.write(0x10, &0xc000u32.to_le_bytes());
        config.write(0x14, &0xe000_0000u32.to_le_bytes());
        mapper.update(&config);
        assert!(ports.ranges().is_empty());
        config.write(4, &[3]);
        mapper.update(&config);
        let mut data = [0];
        assert_eq!((ports.read(0xc001, &mut data).device, data), (row, [0x11]));
        assert_eq!((memory.read(0xe000_0002, &mut data).device, data), (row, [0x22]));
        assert_eq!(mapper.mapped(1).map(|bar| bar.address), Some(0xe000_0000));
        assert_eq!((mapper.mapped(2), mapper.mapped(6)), (None, None));
        config.write(0x10, &0xd000u32.to_le_bytes());
        mapper.update(&config);
        assert!(!ports.read(0xc001, &mut data).served());
        assert!(ports.read(0xd001, &mut data).served());
        config.write(4, &[0]);
        mapper.update(&config);
        assert!(ports.ranges().is_empty() && memory.ranges().is_empty());
    }
}
