//! The command block of one drive.

use super::spec::{self, Errors, Status};

/// Heads of the geometry that drives report.
pub(super) const HEADS: u64 = 16;
/// Sectors of a track of the geometry that drives report.
pub(super) const TRACK: u64 = 63;

/// A register of two bytes that are written one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Register {
    pub(super) current: u8,
    pub(super) previous: u8,
}

impl Register {
    fn write(&mut self, value: u8) {
        *self = Self { current: value, previous: self.current };
    }

    fn read(self, high_order: bool) -> u8 {
        if high_order { self.previous } else { self.current }
    }
}

/// The registers of one drive.
#[derive(Debug, Clone, Default)]
pub(super) struct TaskFile {
    pub(super) features: Register,
    pub(super) count: Register,
    /// LBA: low, middle, high.
    pub(super) lba: [Register; 3],
    pub(super) device: u8,
    pub(super) status: Status,
    pub(super) error: u8,
}

impl TaskFile {
    /// Writes a register that takes part in a command: features to device.
    pub(super) fn write(&mut self, register: u16, value: u8) {
        match register {
            spec::ERROR => self.features.write(value),
            spec::COUNT => self.count.write(value),
            spec::LBA_LOW..=spec::LBA_HIGH => {
                self.lba[usize::from(register - spec::LBA_LOW)].write(value);
            }
            spec::DEVICE => self.device = value,
            _ => {}
        }
    }

    /// Reads a register from error to device.
    pub(super) fn read(&self, register: u16, high_order: bool) -> u8 {
        match register {
            spec::ERROR => self.error,
            spec::COUNT => self.count.read(high_order),
            spec::LBA_LOW..=spec::LBA_HIGH => {
                self.lba[usize::from(register - spec::LBA_LOW)].read(high_order)
            }
            // The two bits that are obsolete read as one.
            spec::DEVICE => self.device | 0xa0,
            _ => 0,
        }
    }

    /// What a reset leaves: the signature, whose last two bytes tell the kind of drive.
    pub(super) fn reset(&mut self, kind: [u8; 2], status: Status) {
        let register = |current| Register { current, previous: 0 };
        *self = Self {
            features: Register::default(),
            count: register(1),
            lba: [register(1), register(kind[0]), register(kind[1])],
            device: 0,
            status,
            error: spec::DIAGNOSTICS_PASSED,
        };
    }

    /// The command has ended well.
    pub(super) fn succeed(&mut self) {
        self.status = Status::DRDY | Status::DSC;
        self.error = 0;
    }

    /// The command has failed.
    pub(super) fn fail(&mut self, errors: Errors) {
        self.status = Status::DRDY | Status::DSC | Status::ERR;
        self.error = errors.bits();
    }

    /// The first sector that a command means; `None` for a place that no drive has.
    pub(super) fn first_sector(&self, ext: bool) -> Option<u64> {
        let current = self.lba.iter().rev().fold(0, |lba, byte| lba << 8 | u64::from(byte.current));
        let head = u64::from(self.device & 0xf);
        if ext {
            let previous =
                self.lba.iter().rev().fold(0, |lba, byte| lba << 8 | u64::from(byte.previous));
            return Some(previous << 24 | current);
        }
        if self.device & spec::DEVICE_LBA != 0 {
            return Some(head << 24 | current);
        }
        let (sector, cylinder) = (current & 0xff, current >> 8);
        let sector = sector.checked_sub(1).filter(|sector| *sector < TRACK)?;
        Some((cylinder * HEADS + head) * TRACK + sector)
    }

    /// How many sectors a command means; zero in the registers is the most.
    pub(super) fn sectors(&self, ext: bool) -> u64 {
        let count = u64::from(self.count.current);
        if ext {
            let count = u64::from(self.count.previous) << 8 | count;
            if count == 0 { 1 << 16 } else { count }
        } else if count == 0 {
            256
        } else {
            count
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(values: &[(u16, u8)]) -> TaskFile {
        let mut task = TaskFile::default();
        for (register, value) in values {
            task.write(*register, *value);
        }
        task
    }

    #[test]
    fn addresses_of_28_and_48_bits() {
        let task = written(&[
            (spec::LBA_LOW, 6),
            (spec::LBA_LOW, 3),
            (4, 5),
            (4, 2),
            (spec::LBA_HIGH, 4),
            (spec::LBA_HIGH, 1),
            (spec::COUNT, 0x12),
            (spec::COUNT, 0),
            (spec::DEVICE, 0x4f),
        ]);
        assert_eq!(task.first_sector(true), Some(0x0405_0601_0203));
        assert_eq!(task.first_sector(false), Some(0x0f01_0203));
        assert_eq!((task.sectors(true), task.sectors(false)), (0x1200, 256));
        assert_eq!((task.read(4, false), task.read(4, true)), (2, 5));
    }

    #[test]
    fn addresses_by_cylinder_head_and_sector() {
        let place = [(spec::LBA_LOW, 2), (4, 1), (spec::DEVICE, 3)];
        assert_eq!(written(&place).first_sector(false), Some((16 + 3) * 63 + 1));
        assert_eq!(written(&[(spec::LBA_LOW, 0)]).first_sector(false), None);
        assert_eq!(written(&[(spec::LBA_LOW, 64)]).first_sector(false), None);
    }
}
