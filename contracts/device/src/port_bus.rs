//! The 64 Ki I/O ports.

use crate::{Access, MapError, Mapping, Outcome, PortDevice, Shared};
use ambos_intercept::Device;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

const PORTS: usize = 1 << 16;

/// Some consecutive ports of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// How many ports.
    pub count: u16,
    /// What the device sees as the offset of the first one. A device with several ranges tells
    /// them apart by their offsets.
    pub offset: u16,
}

impl PortRange {
    /// `count` ports from `first` on, seen by the device from offset zero.
    pub const fn new(first: u16, count: u16) -> Self {
        Self { first, count, offset: 0 }
    }

    /// The same ports, seen by the device from `offset` on.
    pub const fn at_offset(self, offset: u16) -> Self {
        Self { offset, ..self }
    }
}

struct Entry {
    range: PortRange,
    label: String,
    row: Device,
    device: Shared<dyn PortDevice>,
    mapping: Mapping,
}

struct Table {
    /// For each port, the number of its entry, or [`FREE`].
    ports: Box<[u16]>,
    entries: BTreeMap<u16, Entry>,
    mappings: u64,
}

const FREE: u16 = u16::MAX;

/// Carries port accesses to devices. All vCPUs share it.
pub struct PortBus {
    table: RwLock<Table>,
}

impl fmt::Debug for PortBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

impl Default for PortBus {
    fn default() -> Self {
        let ports = vec![FREE; PORTS].into_boxed_slice();
        Self { table: RwLock::new(Table { ports, entries: BTreeMap::new(), mappings: 0 }) }
    }
}

/// An entry as an access needs it, free of the table's lock.
struct Found {
    offset: u16,
    row: Device,
    device: Shared<dyn PortDevice>,
}

impl PortBus {
    /// Maps `range` to `device`, whose accesses are counted in `row`.
    ///
    /// # Errors
    ///
    /// [`MapError`] if the range overlaps another, is empty or leaves the 64 Ki ports.
    pub fn map(
        &self,
        range: PortRange,
        label: impl Into<String>,
        row: Device,
        device: Shared<dyn PortDevice>,
    ) -> Result<Mapping, MapError> {
        let label = label.into();
        let (first, count) = (usize::from(range.first), usize::from(range.count));
        let fits = first + count <= PORTS && usize::from(range.offset) + count <= PORTS;
        if count == 0 || !fits {
            return Err(MapError::Range { label, first: first as u64, length: count as u64 });
        }
        let mut guard = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let table = &mut *guard;
        let ports = &mut table.ports[first..first + count];
        if let Some(taken) = ports.iter().find(|entry| **entry != FREE) {
            let other = table.entries.get(taken).map_or_else(String::new, |e| e.label.clone());
            let last = (first + count - 1) as u64;
            return Err(MapError::Overlap { label, first: first as u64, last, other });
        }
        let Some(number) = (0..FREE).find(|number| !table.entries.contains_key(number)) else {
            return Err(MapError::Full { label });
        };
        ports.fill(number);
        let mapping = Mapping(table.mappings);
        table.mappings += 1;
        table.entries.insert(number, Entry { range, label, row, device, mapping });
        Ok(mapping)
    }

    /// Takes a range off the bus. An access that is under way on another thread may still reach
    /// the device.
    pub fn unmap(&self, mapping: Mapping) {
        let mut guard = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let table = &mut *guard;
        let number = table.entries.iter().find(|(_, entry)| entry.mapping == mapping);
        let Some(entry) = number.map(|(&number, _)| number).and_then(|n| table.entries.remove(&n))
        else {
            return;
        };
        let (first, count) = (usize::from(entry.range.first), usize::from(entry.range.count));
        table.ports[first..first + count].fill(FREE);
        // The device may be destroyed with its entry, and may use this bus as it goes.
        drop(guard);
    }

    /// Reads `data.len()` (1, 2 or 4) bytes. `data` is always filled.
    pub fn read(&self, port: u16, data: &mut [u8]) -> Access {
        let (first, rest) = match self.find(port, data.len()) {
            Lookup::Nobody => {
                data.fill(0xff);
                return Access::UNCLAIMED;
            }
            Lookup::One(found) => {
                let result = lock(&found.device).read(found.offset, data);
                if result.is_err() {
                    data.fill(0xff);
                }
                return Access::of(found.row, result);
            }
            Lookup::Border => data.split_at_mut(1),
        };
        let access = self.read(port, first);
        let bytes = rest.iter_mut().zip(1..);
        bytes.fold(access, |access, (byte, index)| {
            access.join(self.read(port.wrapping_add(index), std::slice::from_mut(byte)))
        })
    }

    /// Writes `data.len()` (1, 2 or 4) bytes.
    pub fn write(&self, port: u16, data: &[u8]) -> Access {
        let (first, rest) = match self.find(port, data.len()) {
            Lookup::Nobody => return Access::UNCLAIMED,
            Lookup::One(found) => {
                let result = lock(&found.device).write(found.offset, data);
                return Access::of(found.row, result);
            }
            Lookup::Border => data.split_at(1),
        };
        let access = self.write(port, first);
        let bytes = rest.iter().zip(1..);
        bytes.fold(access, |access, (byte, index)| {
            access.join(self.write(port.wrapping_add(index), std::slice::from_ref(byte)))
        })
    }

    /// Every range with its label, by number of mapping.
    pub fn ranges(&self) -> Vec<(PortRange, String)> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let mut entries: Vec<_> = table.entries.values().collect();
        entries.sort_by_key(|entry| entry.range.first);
        entries.iter().map(|entry| (entry.range, entry.label.clone())).collect()
    }

    fn find(&self, port: u16, length: usize) -> Lookup {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let first = usize::from(port);
        let Some(ports) = table.ports.get(first..first + length) else { return Lookup::Border };
        let number = ports.first().copied().unwrap_or(FREE);
        if ports.iter().any(|other| *other != number) {
            return Lookup::Border;
        }
        match table.entries.get(&number) {
            Some(entry) => Lookup::One(Found {
                offset: entry.range.offset + (port - entry.range.first),
                row: entry.row,
                device: Shared::clone(&entry.device),
            }),
            None => Lookup::Nobody,
        }
    }
}

enum Lookup {
    /// No port of the access is claimed.
    Nobody,
    /// All ports belong to one range.
    One(Found),
    /// The ports belong to several ranges.
    Border,
}

fn lock<T: ?Sized>(device: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Access {
    /// Whether the device served the access in full.
    pub fn served(&self) -> bool {
        self.outcome == Outcome::Served
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AccessError;
    use std::sync::{Arc, Mutex};

    /// Reads as its offsets, remembers writes, refuses offset 7.
    #[derive(Default)]
    struct Echo(Vec<(u16, Vec<u8>)>);

    impl PortDevice for Echo {
        fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
            if offset == 7 {
                return Err(AccessError::NoRegister);
            }
            crate::read_bytes(offset, data, |offset| Ok(offset as u8))
        }

        fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
            self.0.push((offset, data.to_vec()));
            Ok(())
        }
    }

    fn bus() -> (PortBus, Shared<Echo>) {
        let bus = PortBus::default();
        let echo = Arc::new(Mutex::new(Echo::default()));
        bus.map(PortRange::new(0x20, 2), "low", Device::new(1), echo.clone()).unwrap();
        let high = PortRange::new(0xa0, 8).at_offset(0x10);
        bus.map(high, "high", Device::new(2), echo.clone()).unwrap();
        (bus, echo)
    }

    #[test]
    fn windows_of_one_device_have_their_own_offsets() {
        let (bus, echo) = bus();
        let mut data = [0; 2];
        assert_eq!(bus.read(0xa1, &mut data), Access::of(Device::new(2), Ok(())));
        assert_eq!(data, [0x11, 0x12]);
        assert!(bus.write(0x21, &[9]).served());
        assert_eq!(echo.lock().unwrap().0, [(1, vec![9])]);
    }

    #[test]
    fn unclaimed_and_refused_reads_are_all_ones() {
        let (bus, echo) = bus();
        let mut data = [0; 4];
        assert_eq!(bus.read(0x1000, &mut data), Access::UNCLAIMED);
        assert_eq!(data, [0xff; 4]);
        bus.map(PortRange::new(0x40, 8), "refuses", Device::new(3), echo).unwrap();
        let access = bus.read(0x47, &mut data[..1]);
        assert_eq!(access, Access::of(Device::new(3), Err(AccessError::NoRegister)));
        assert_eq!(data[0], 0xff);
    }

    #[test]
    fn accesses_across_a_border_are_split() {
        let (bus, echo) = bus();
        let mut data = [0; 4];
        let access = bus.read(0x1f, &mut data);
        assert_eq!(access.outcome, Outcome::Unclaimed);
        assert_eq!(data, [0xff, 0, 1, 0xff]);
        assert_eq!(bus.write(0x21, &[1, 2]).outcome, Outcome::Unclaimed);
        assert_eq!(echo.lock().unwrap().0, [(1, vec![1])]);
        assert_eq!(bus.read(0xffff, &mut data), Access::UNCLAIMED);
    }

    #[test]
    fn overlaps_are_rejected_and_unmapped_ranges_are_free() {
        let (bus, echo) = bus();
        let error = bus.map(PortRange::new(0x1f, 2), "new", Device::new(4), echo.clone());
        assert!(matches!(error, Err(MapError::Overlap { ref other, .. }) if other == "low"));
        let error = bus.map(PortRange::new(0xffff, 2), "new", Device::new(4), echo.clone());
        assert!(matches!(error, Err(MapError::Range { .. })));
        let mapping = bus.map(PortRange::new(0x80, 1), "new", Device::new(4), echo.clone());
        bus.unmap(mapping.unwrap());
        assert_eq!(bus.read(0x80, &mut [0]), Access::UNCLAIMED);
        bus.map(PortRange::new(0x7f, 3), "again", Device::new(4), echo).unwrap();
        assert_eq!(bus.ranges().len(), 3);
    }

    /// Unmaps itself when it is written to.
    struct Vanishing {
        bus: Arc<PortBus>,
        mapping: Option<Mapping>,
    }

    impl PortDevice for Vanishing {
        fn read(&mut self, _offset: u16, _data: &mut [u8]) -> Result<(), AccessError> {
            Ok(())
        }

        fn write(&mut self, _offset: u16, _data: &[u8]) -> Result<(), AccessError> {
            if let Some(mapping) = self.mapping.take() {
                self.bus.unmap(mapping);
            }
            Ok(())
        }
    }

    #[test]
    fn a_device_may_change_the_bus_while_it_is_accessed() {
        let bus = Arc::new(PortBus::default());
        let device = Arc::new(Mutex::new(Vanishing { bus: Arc::clone(&bus), mapping: None }));
        let mapping = bus.map(PortRange::new(0, 1), "device", Device::new(1), device.clone());
        device.lock().unwrap().mapping = mapping.ok();
        assert!(bus.write(0, &[0]).served());
        assert_eq!(bus.write(0, &[0]), Access::UNCLAIMED);
    }
}
