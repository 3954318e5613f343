//! The clock: a linear function of the time-stamp counter, in guest memory.

use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};
use std::sync::atomic::{Ordering, fence};

/// Nanoseconds in a second.
const NANOSECONDS: u128 = 1_000_000_000;
/// Flag of the structure: all vCPUs' clocks are one.
const STABLE: u8 = 1;

/// When a machine's time began. All its vCPUs' clocks count from there, so that they agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The host's time-stamp counter then.
    pub tsc: u64,
    /// Its frequency in hertz.
    pub hz: u64,
    /// The time of day then, in nanoseconds since 1970 began (UTC).
    pub unix_time_ns: u64,
}

/// Nanoseconds are ticks, shifted by `shift`, times `factor` / 2³².
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scale {
    factor: u32,
    shift: i8,
}

impl Scale {
    /// The most precise one for `hz` ticks in a second.
    fn new(hz: u64) -> Self {
        let hz = u128::from(hz.max(1));
        let factor = |shift: i8| {
            let numerator = NANOSECONDS << 32;
            if shift < 0 { (numerator << -shift) / hz } else { numerator / (hz << shift) }
        };
        // The factor grows as the shift falls; the largest that fits is the most precise.
        let shift = (-31..=31).find(|shift| factor(*shift) <= u128::from(u32::MAX)).unwrap_or(31);
        Self { factor: u32::try_from(factor(shift)).unwrap_or(u32::MAX), shift }
    }
}

/// Writes the clock of a vCPU whose counter is the host's plus `tsc_offset` to `address`.
pub(crate) fn write_clock(ram: &GuestRam, address: u64, origin: &Origin, tsc_offset: u64) {
    let Scale { factor, shift } = Scale::new(origin.hz);
    let mut body = [0; 28];
    body[4..12].copy_from_slice(&origin.tsc.wrapping_add(tsc_offset).to_le_bytes());
    body[20..24].copy_from_slice(&factor.to_le_bytes());
    body[24] = shift as u8;
    body[25] = STABLE;
    write_versioned(ram, address, &body);
}

/// Writes the time of day at the machine's start to `address`.
pub(crate) fn write_wall_clock(ram: &GuestRam, address: u64, origin: &Origin) {
    let seconds = origin.unix_time_ns / NANOSECONDS as u64;
    let nanoseconds = origin.unix_time_ns % NANOSECONDS as u64;
    let mut body = [0; 8];
    // The structure's seconds have 32 bits.
    body[..4].copy_from_slice(&(seconds as u32).to_le_bytes());
    body[4..].copy_from_slice(&(nanoseconds as u32).to_le_bytes());
    write_versioned(ram, address, &body);
}

/// Writes a structure that begins with a version, which is odd while the rest changes.
fn write_versioned(ram: &GuestRam, address: u64, body: &[u8]) {
    let memory = ram.memory();
    let place = GuestPhysAddr(address);
    let Ok(version) = memory.read_obj::<u32>(place) else { return };
    let odd = version | 1;
    let _ = memory.write_obj(odd, place);
    fence(Ordering::SeqCst);
    if let Some(rest) = address.checked_add(4) {
        let _ = memory.write_slice(body, GuestPhysAddr(rest));
    }
    fence(Ordering::SeqCst);
    let _ = memory.write_obj(odd.wrapping_add(1), place);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanoseconds(scale: Scale, ticks: u64) -> u64 {
        let ticks = if scale.shift < 0 { ticks >> -scale.shift } else { ticks << scale.shift };
        ((u128::from(ticks) * u128::from(scale.factor)) >> 32) as u64
    }

    #[test]
    fn all_frequencies_are_scaled() {
        for hz in [1_000_000, 999_999_999, 1_000_000_000, 1_000_000_001, 2_445_406_000, 9 << 30] {
            let scale = Scale::new(hz);
            let hour = nanoseconds(scale, hz * 3600);
            assert!(hour.abs_diff(3_600_000_000_000) < 10_000, "{hz}: {hour} {scale:?}");
        }
        for hz in [0, 1, u64::MAX] {
            let _ = Scale::new(hz);
        }
    }

    #[test]
    fn versions_are_even_and_rise() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let origin =
            Origin { tsc: 1000, hz: 2_000_000_000, unix_time_ns: 1_700_000_000_000_000_005 };
        for (count, version) in [(1, 2u32), (2, 4)] {
            write_clock(&ram, 0x1000, &origin, count);
            assert_eq!(ram.memory().read_obj::<u32>(GuestPhysAddr(0x1000)).unwrap(), version);
            let tsc = ram.memory().read_obj::<u64>(GuestPhysAddr(0x1008)).unwrap();
            assert_eq!(tsc, 1000 + count);
        }
        write_wall_clock(&ram, 0x2000, &origin);
        let wall = ram.memory().read_obj::<[u32; 3]>(GuestPhysAddr(0x2000)).unwrap();
        assert_eq!(wall, [2, 1_700_000_000, 5]);
        write_clock(&ram, u64::MAX - 3, &origin, 0);
        write_clock(&ram, (1 << 20) - 4, &origin, 0);
    }
}
