//! The memory map that every guest is told (e820).

use super::Reserved;
use ambos_memory::GuestRam;
use ambos_pc_map::memory as map;

/// What a range is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// Usable RAM; type 1 in every protocol.
    Ram = 1,
    /// Not to be used; type 2 in every protocol.
    Reserved = 2,
}

/// One range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapEntry {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: MapKind,
}

impl MapEntry {
    /// The address behind the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.size
    }
}

/// The memory map, ascending and without overlaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMap {
    entries: Vec<MapEntry>,
}

impl MemoryMap {
    /// The most ranges: what fits into Linux's zero page.
    const MAX_ENTRIES: usize = 128;

    /// The map of a guest with `ram`, without the ranges in `reserved`.
    pub fn of(ram: &GuestRam, reserved: &[Reserved]) -> Self {
        let mut holes: Vec<(u64, u64)> = vec![
            (map::EBDA_START, map::HIGH_MEMORY_START),
            (map::ECAM_START, map::ECAM_START + map::ECAM_SIZE),
        ];
        let extra = reserved.iter().filter(|range| range.size > 0);
        // The zero page has a fixed number of places; each hole takes up to two.
        holes.extend(
            extra
                .map(|range| (range.start, range.start.saturating_add(range.size)))
                .take(Self::MAX_ENTRIES / 2 - 8),
        );
        holes.sort_unstable();
        let mut entries: Vec<MapEntry> = Vec::new();
        let mut cursor = 0;
        for &(start, end) in &holes {
            let start = start.max(cursor);
            if end <= start {
                continue;
            }
            add_ram(&mut entries, ram, cursor, start);
            match entries.last_mut() {
                Some(last) if last.kind == MapKind::Reserved && last.end() == start => {
                    last.size = end - last.start;
                }
                _ => {
                    entries.push(MapEntry { start, size: end - start, kind: MapKind::Reserved });
                }
            }
            cursor = end;
        }
        add_ram(&mut entries, ram, cursor, u64::MAX);
        Self { entries }
    }

    /// The ranges, ascending.
    pub fn entries(&self) -> &[MapEntry] {
        &self.entries
    }

    /// The ranges of usable RAM, ascending.
    pub fn usable(&self) -> impl Iterator<Item = &MapEntry> {
        self.entries.iter().filter(|entry| entry.kind == MapKind::Ram)
    }

    /// The end of the usable range that holds `address`, or `address` where it is not usable.
    pub fn usable_end(&self, address: u64) -> u64 {
        self.usable()
            .find(|entry| entry.start <= address && address < entry.end())
            .map_or(address, MapEntry::end)
    }
}

/// Adds what RAM there is between `start` and `end`.
fn add_ram(entries: &mut Vec<MapEntry>, ram: &GuestRam, start: u64, end: u64) {
    for region in ram.regions() {
        let start = start.max(region.start);
        let end = end.min(region.start + region.size);
        if start < end {
            entries.push(MapEntry { start, size: end - start, kind: MapKind::Ram });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(map: &MemoryMap) -> Vec<(u64, u64, MapKind)> {
        map.entries().iter().map(|entry| (entry.start, entry.end(), entry.kind)).collect()
    }

    #[test]
    fn a_small_guest_has_conventional_and_extended_memory() {
        let ram = GuestRam::new(64 << 20).unwrap();
        let map = MemoryMap::of(&ram, &[]);
        let expected = [
            (0, 0x9_fc00, MapKind::Ram),
            (0x9_fc00, 0x10_0000, MapKind::Reserved),
            (0x10_0000, 64 << 20, MapKind::Ram),
            (0xe000_0000, 0xf000_0000, MapKind::Reserved),
        ];
        assert_eq!(shape(&map), expected);
        assert_eq!(map.usable_end(0x10_0000), 64 << 20);
        assert_eq!(map.usable_end(0x9_fc00), 0x9_fc00);
    }

    #[test]
    fn a_large_guest_goes_on_above_4_gib() {
        let ram = GuestRam::new(4 << 30).unwrap();
        let map = MemoryMap::of(&ram, &[]);
        assert_eq!(shape(&map)[2], (0x10_0000, 0xc000_0000, MapKind::Ram));
        assert_eq!(shape(&map)[4], (1 << 32, 5 << 30, MapKind::Ram));
    }

    #[test]
    fn reserved_ranges_are_cut_out() {
        let ram = GuestRam::new(64 << 20).unwrap();
        let reserved = [
            Reserved { start: 0x20_0000, size: 0x1000 },
            Reserved { start: 0xf_0000, size: 0x2_0000 },
            Reserved { start: 0x20_1000, size: 0x1000 },
            Reserved { start: u64::MAX - 1, size: 100 },
            Reserved { start: 0, size: 0 },
        ];
        let map = MemoryMap::of(&ram, &reserved);
        let expected = [
            (0, 0x9_fc00, MapKind::Ram),
            (0x9_fc00, 0x11_0000, MapKind::Reserved),
            (0x11_0000, 0x20_0000, MapKind::Ram),
            (0x20_0000, 0x20_2000, MapKind::Reserved),
            (0x20_2000, 64 << 20, MapKind::Ram),
            (0xe000_0000, 0xf000_0000, MapKind::Reserved),
            (u64::MAX - 1, u64::MAX, MapKind::Reserved),
        ];
        assert_eq!(shape(&map), expected);
    }
}
