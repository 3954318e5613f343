//! Who has which part of guest memory while it is being filled.

use super::{MapEntry, MemoryMap};
use ambos_pc_map::memory::{EBDA_START, HIGH_MEMORY_START};

/// The first page: interrupt vectors and BIOS data, left to guests that use real mode.
const FIRST_PAGE: u64 = ambos_x86::PAGE_SIZE;

/// Free and taken ranges of usable memory.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Free ranges (start, end), ascending.
    free: Vec<(u64, u64)>,
}

impl Layout {
    /// All usable memory of `map` is free, but for the first page.
    pub fn new(map: &MemoryMap) -> Self {
        let range = |entry: &MapEntry| (entry.start.max(FIRST_PAGE), entry.end());
        Self { free: map.usable().map(range).filter(|(start, end)| start < end).collect() }
    }

    /// Takes exactly `start..end`; `false` if part of it is not free.
    pub fn take(&mut self, start: u64, end: u64) -> bool {
        if start >= end {
            return start == end;
        }
        let Some(index) = self.free.iter().position(|&(from, to)| from <= start && end <= to)
        else {
            return false;
        };
        let (from, to) = self.free[index];
        let rest = [(from, start), (end, to)].into_iter().filter(|(start, end)| start < end);
        self.free.splice(index..=index, rest);
        true
    }

    /// Takes `size` bytes of conventional memory (below 640 KiB), as low as possible.
    pub fn take_low(&mut self, size: u64, align: u64) -> Option<u64> {
        self.take_first(size, align, 0, EBDA_START)
    }

    /// Takes `size` bytes of extended memory at or above `least` and below `limit`, as low as
    /// possible.
    pub fn take_above(&mut self, least: u64, size: u64, align: u64, limit: u64) -> Option<u64> {
        self.take_first(size, align, least.max(HIGH_MEMORY_START), limit)
    }

    /// Takes `size` bytes of extended memory below `limit`, as high as possible.
    pub fn take_high(&mut self, size: u64, align: u64, limit: u64) -> Option<u64> {
        let start = self.free.iter().rev().find_map(|&(from, to)| {
            let start = to.min(limit).checked_sub(size)? / align * align;
            (start >= from.max(HIGH_MEMORY_START)).then_some(start)
        })?;
        self.take(start, start + size).then_some(start)
    }

    fn take_first(&mut self, size: u64, align: u64, least: u64, limit: u64) -> Option<u64> {
        let start = self.free.iter().find_map(|&(from, to)| {
            let start = from.max(least).checked_next_multiple_of(align)?;
            (start.checked_add(size)? <= to.min(limit)).then_some(start)
        })?;
        self.take(start, start + size).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambos_memory::GuestRam;

    fn layout() -> Layout {
        Layout::new(&MemoryMap::of(&GuestRam::new(16 << 20).unwrap(), &[]))
    }

    #[test]
    fn ranges_are_taken_once() {
        let mut layout = layout();
        assert!(layout.take(0x10_0000, 0x20_0000));
        assert!(!layout.take(0x1f_f000, 0x20_1000));
        assert!(layout.take(0x20_0000, 0x20_0000));
        assert!(!layout.take(0, 0x1000), "the first page is kept");
        assert!(!layout.take(0xf_0000, 0xf_1000), "firmware is kept");
        assert!(!layout.take(0xff_f000, 0x100_1000), "there is no RAM");
    }

    #[test]
    fn places_are_found_around_what_is_taken() {
        let mut layout = layout();
        assert_eq!(layout.take_low(0x1000, 0x1000), Some(0x1000));
        assert_eq!(layout.take_low(1, 16), Some(0x2000));
        assert_eq!(layout.take_low(0x1000, 0x1000), Some(0x3000));
        assert_eq!(layout.take_low(0xa_0000, 1), None);
        assert_eq!(layout.take_high(0x1800, 0x1000, u64::MAX), Some(0xff_e000));
        assert_eq!(layout.take_high(0x1000, 0x1000, u64::MAX), Some(0xff_d000));
        assert_eq!(layout.take_high(0x1000, 0x1000, 0x20_0000), Some(0x1f_f000));
        assert_eq!(layout.take_high(16 << 20, 0x1000, u64::MAX), None);
        assert_eq!(layout.take_above(0x20_0800, 8, 0x1000, u64::MAX), Some(0x20_1000));
    }

    #[test]
    fn small_ranges_fill_gaps() {
        let mut layout = layout();
        assert!(layout.take(0x1000, 0x9_0000));
        assert_eq!(layout.take_low(0x1000, 0x1000), Some(0x9_0000));
        assert_eq!(layout.take_low(0x1_0000, 0x1000), None);
    }
}
