//! Guest-physical addresses that are not RAM.

use crate::{Access, MapError, Mapping, MmioDevice, Shared};
use ambos_intercept::Device;
use std::fmt;
use std::sync::{MutexGuard, PoisonError, RwLock};

/// Some consecutive guest-physical addresses of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MmioRange {
    /// First address.
    pub first: u64,
    /// Length in bytes.
    pub length: u64,
    /// What the device sees as the offset of the first address.
    pub offset: u64,
}

impl MmioRange {
    /// `length` bytes from `first` on, seen by the device from offset zero.
    pub const fn new(first: u64, length: u64) -> Self {
        Self { first, length, offset: 0 }
    }

    /// The same addresses, seen by the device from `offset` on.
    pub const fn at_offset(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    /// The last address; the range is not empty.
    fn last(&self) -> u64 {
        self.first + (self.length - 1)
    }
}

struct Entry {
    range: MmioRange,
    label: String,
    row: Device,
    device: Shared<dyn MmioDevice>,
    mapping: Mapping,
}

#[derive(Default)]
struct Table {
    /// Ordered by first address, without overlaps.
    entries: Vec<Entry>,
    mappings: u64,
}

/// Carries memory-mapped accesses to devices. All vCPUs share it.
#[derive(Default)]
pub struct MmioBus {
    table: RwLock<Table>,
}

impl fmt::Debug for MmioBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

/// The part of an access that concerns one device, or nobody.
struct Part {
    /// How many bytes, at least one.
    length: usize,
    found: Option<(u64, Device, Shared<dyn MmioDevice>)>,
}

impl MmioBus {
    /// How many ranges the bus carries at most.
    pub const CAPACITY: usize = 1024;

    /// Maps `range` to `device`, whose accesses are counted in `row`.
    ///
    /// # Errors
    ///
    /// [`MapError`] if the range overlaps another, is empty or wraps around.
    pub fn map(
        &self,
        range: MmioRange,
        label: impl Into<String>,
        row: Device,
        device: Shared<dyn MmioDevice>,
    ) -> Result<Mapping, MapError> {
        let label = label.into();
        let MmioRange { first, length, offset } = range;
        let span = length.checked_sub(1);
        let fits = span.is_some_and(|span| {
            first.checked_add(span).is_some() && offset.checked_add(span).is_some()
        });
        if !fits {
            return Err(MapError::Range { label, first, length });
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.entries.len() >= Self::CAPACITY {
            return Err(MapError::Full { label });
        }
        let place = table.entries.partition_point(|entry| entry.range.last() < first);
        if let Some(entry) = table.entries.get(place)
            && entry.range.first <= range.last()
        {
            let other = entry.label.clone();
            return Err(MapError::Overlap { label, first, last: range.last(), other });
        }
        let mapping = Mapping(table.mappings);
        table.mappings += 1;
        table.entries.insert(place, Entry { range, label, row, device, mapping });
        Ok(mapping)
    }

    /// Takes a range off the bus. An access that is under way on another thread may still reach
    /// the device.
    pub fn unmap(&self, mapping: Mapping) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let place = table.entries.iter().position(|entry| entry.mapping == mapping);
        let entry = place.map(|place| table.entries.remove(place));
        // The device may be destroyed with its entry, and may use this bus as it goes.
        drop(table);
        drop(entry);
    }

    /// Reads `data.len()` bytes. `data` is always filled.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Access {
        let mut joined: Option<Access> = None;
        let (mut address, mut rest) = (address, data);
        while !rest.is_empty() {
            let part = self.find(address, rest.len());
            let (bytes, tail) = rest.split_at_mut(part.length);
            let access = match part.found {
                Some((offset, row, device)) => {
                    let result = lock(&device).read(offset, bytes);
                    if result.is_err() {
                        bytes.fill(0xff);
                    }
                    Access::of(row, result)
                }
                None => {
                    bytes.fill(0xff);
                    Access::UNCLAIMED
                }
            };
            joined = Some(joined.map_or(access, |joined| joined.join(access)));
            address = address.wrapping_add(part.length as u64);
            rest = tail;
        }
        joined.unwrap_or(Access::UNCLAIMED)
    }

    /// Writes `data`.
    pub fn write(&self, address: u64, data: &[u8]) -> Access {
        let mut joined: Option<Access> = None;
        let (mut address, mut rest) = (address, data);
        while !rest.is_empty() {
            let part = self.find(address, rest.len());
            let (bytes, tail) = rest.split_at(part.length);
            let access = match part.found {
                Some((offset, row, device)) => Access::of(row, lock(&device).write(offset, bytes)),
                None => Access::UNCLAIMED,
            };
            joined = Some(joined.map_or(access, |joined| joined.join(access)));
            address = address.wrapping_add(part.length as u64);
            rest = tail;
        }
        joined.unwrap_or(Access::UNCLAIMED)
    }

    /// Every range with its label, by address.
    pub fn ranges(&self) -> Vec<(MmioRange, String)> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.entries.iter().map(|entry| (entry.range, entry.label.clone())).collect()
    }

    /// The first part of an access of `length` bytes (at least one).
    fn find(&self, address: u64, length: usize) -> Part {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let place = table.entries.partition_point(|entry| entry.range.last() < address);
        let until = |end: u64| usize::try_from(end).map_or(length, |end| end.min(length));
        let Some(entry) = table.entries.get(place) else { return Part { length, found: None } };
        if entry.range.first > address {
            return Part { length: until(entry.range.first - address), found: None };
        }
        let inside = entry.range.last() - address;
        let offset = entry.range.offset + (address - entry.range.first);
        let found = (offset, entry.row, Shared::clone(&entry.device));
        Part { length: until(inside.saturating_add(1)), found: Some(found) }
    }
}

fn lock<T: ?Sized>(device: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AccessError, Outcome};
    use std::sync::{Arc, Mutex};

    /// Reads as the low bytes of its offsets, remembers writes, refuses single bytes.
    #[derive(Default)]
    struct Echo(Vec<(u64, Vec<u8>)>);

    impl MmioDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
            for (byte, offset) in data.iter_mut().zip(offset..) {
                *byte = offset as u8;
            }
            if data.len() == 1 { Err(AccessError::Size) } else { Ok(()) }
        }

        fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
            self.0.push((offset, data.to_vec()));
            Ok(())
        }
    }

    fn bus() -> (MmioBus, Shared<Echo>) {
        let bus = MmioBus::default();
        let echo = Arc::new(Mutex::new(Echo::default()));
        let ranges = [
            MmioRange::new(0x2000, 0x1000),
            MmioRange::new(0x1000, 0x100).at_offset(0x80),
            MmioRange::new(u64::MAX - 0xff, 0x100),
        ];
        for (index, range) in ranges.into_iter().enumerate() {
            bus.map(range, format!("echo {index}"), Device::new(index + 1), echo.clone()).unwrap();
        }
        (bus, echo)
    }

    #[test]
    fn ranges_are_found() {
        let (bus, echo) = bus();
        let mut data = [0; 4];
        assert_eq!(bus.read(0x10fc, &mut data), Access::of(Device::new(2), Ok(())));
        assert_eq!(data, [0x7c, 0x7d, 0x7e, 0x7f]);
        assert!(bus.read(u64::MAX - 3, &mut data).served());
        assert!(bus.write(0x2ff8, &[1; 8]).served());
        assert_eq!(echo.lock().unwrap().0, [(0xff8, vec![1; 8])]);
        assert_eq!(bus.read(0x1100, &mut data), Access::UNCLAIMED);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn accesses_across_borders_are_split() {
        let (bus, echo) = bus();
        let mut data = [0; 8];
        let access = bus.read(0x10fe, &mut data);
        assert_eq!(access, Access { device: Device::new(2), outcome: Outcome::Unclaimed });
        assert_eq!(data, [0x7e, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        bus.read(0x1ffc, &mut data);
        assert_eq!(data, [0xff, 0xff, 0xff, 0xff, 0, 1, 2, 3]);
        bus.write(u64::MAX - 1, &[7; 4]);
        assert_eq!(echo.lock().unwrap().0, [(0xfe, vec![7; 2])]);
        let access = bus.read(0x2fff, &mut data[..1]);
        assert_eq!(access, Access::of(Device::new(1), Err(AccessError::Size)));
        assert_eq!(data[0], 0xff);
    }

    #[test]
    fn overlaps_are_rejected_and_unmapped_ranges_are_free() {
        let (bus, echo) = bus();
        for (first, length) in [(0xfff, 2), (0x10ff, 1), (0x0, 0x3000), (0x2800, 0x10000)] {
            let error = bus.map(MmioRange::new(first, length), "new", Device::NONE, echo.clone());
            assert!(matches!(error, Err(MapError::Overlap { .. })), "{first:#x}");
        }
        for (first, length) in [(0x10, 0), (u64::MAX, 2)] {
            let error = bus.map(MmioRange::new(first, length), "new", Device::NONE, echo.clone());
            assert!(matches!(error, Err(MapError::Range { .. })), "{first:#x}");
        }
        let range = MmioRange::new(0x1100, 0xf00);
        let mapping = bus.map(range, "gap", Device::NONE, echo.clone()).unwrap();
        assert_eq!(bus.ranges().len(), 4);
        bus.unmap(mapping);
        assert_eq!(bus.read(0x1100, &mut [0; 2]), Access::UNCLAIMED);
        bus.map(range, "again", Device::NONE, echo).unwrap();
    }
}
