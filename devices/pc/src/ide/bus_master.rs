//! The bus master of one channel: its registers and the table that tells it where data go.

use super::spec::{self, MasterCommand, MasterStatus};
use ambos_memory::{Bytes, DmaRange, GuestPhysAddr, GuestRam};

/// Where the bytes of a transfer are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    /// All of them; whether the table says more than that.
    Whole(Vec<DmaRange>, bool),
    /// The table has too few: the bus master stops and the drive waits for ever.
    Short,
    /// The table is not in memory.
    Fault,
}

/// The registers.
#[derive(Debug, Default)]
pub(super) struct BusMaster {
    pub(super) command: MasterCommand,
    pub(super) status: MasterStatus,
    table: u32,
}

impl BusMaster {
    /// A byte of the registers.
    pub(super) fn read(&self, offset: u16) -> u8 {
        match offset {
            spec::MASTER_COMMAND => self.command.bits(),
            spec::MASTER_STATUS => self.status.bits(),
            spec::MASTER_TABLE.. => (self.table >> (8 * u32::from(offset & 3))) as u8,
            _ => 0,
        }
    }

    /// Writes a byte of the registers; returns whether the bus master was started by that.
    pub(super) fn write(&mut self, offset: u16, value: u8) -> bool {
        match offset {
            spec::MASTER_COMMAND => {
                let before = self.command;
                self.command = MasterCommand::from_bits_truncate(value);
                let started = self.command.contains(MasterCommand::START);
                if !started {
                    self.status.remove(MasterStatus::ACTIVE);
                } else if !before.contains(MasterCommand::START) {
                    self.status.insert(MasterStatus::ACTIVE);
                    return true;
                }
            }
            spec::MASTER_STATUS => {
                let written = MasterStatus::from_bits_truncate(value);
                let notes = MasterStatus::DRIVE_0_CAPABLE | MasterStatus::DRIVE_1_CAPABLE;
                let cleared = written & (MasterStatus::ERROR | MasterStatus::INTERRUPT);
                self.status = self.status.difference(notes | cleared) | written & notes;
            }
            spec::MASTER_TABLE.. => {
                let shift = 8 * u32::from(offset & 3);
                self.table = (self.table & !(0xff << shift) | u32::from(value) << shift) & !3;
            }
            _ => {}
        }
        false
    }

    /// Whether it is started and has not stopped.
    pub(super) fn is_active(&self) -> bool {
        self.command.contains(MasterCommand::START) && self.status.contains(MasterStatus::ACTIVE)
    }

    /// Collects from the table where `length` bytes are. The table's size bounds the work.
    pub(super) fn gather(&self, ram: &GuestRam, length: u64) -> Gathered {
        let entries = (spec::TABLE_LIMIT - self.table % spec::TABLE_LIMIT) / 8;
        let (mut left, mut ranges) = (length, Vec::new());
        for entry in 0..entries {
            let address = GuestPhysAddr(u64::from(self.table) + u64::from(entry) * 8);
            let Ok([address, control]) = ram.memory().read_obj::<[u32; 2]>(address) else {
                return Gathered::Fault;
            };
            let count = match control & 0xfffe {
                0 => 1 << 16,
                count => u64::from(count),
            };
            let taken = count.min(left);
            ranges.push(DmaRange { address: u64::from(address & !1), length: taken as u32 });
            left -= taken;
            let last = control & spec::DESCRIPTOR_LAST != 0;
            if left == 0 {
                return Gathered::Whole(ranges, count > taken || !last);
            }
            if last {
                break;
            }
        }
        Gathered::Short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(entries: &[(u32, u32)]) -> (BusMaster, GuestRam) {
        let ram = GuestRam::new(1 << 20).unwrap();
        for (index, (address, control)) in entries.iter().enumerate() {
            let place = GuestPhysAddr(0x1000 + index as u64 * 8);
            ram.memory().write_obj([*address, *control], place).unwrap();
        }
        let mut master = BusMaster::default();
        for (offset, byte) in (4..).zip(0x1003u32.to_le_bytes()) {
            master.write(offset, byte);
        }
        (master, ram)
    }

    fn range(address: u64, length: u32) -> DmaRange {
        DmaRange { address, length }
    }

    #[test]
    fn the_table_is_followed() {
        let (master, ram) = master(&[(0x2001, 0x200), (0x8000, 0x8000_0000)]);
        let whole = |ranges, more| Gathered::Whole(ranges, more);
        let ranges = vec![range(0x2000, 0x200), range(0x8000, 0x600)];
        assert_eq!(master.gather(&ram, 0x800), whole(ranges, true));
        assert_eq!(master.gather(&ram, 0x200), whole(vec![range(0x2000, 0x200)], true));
        let ranges = vec![range(0x2000, 0x200), range(0x8000, 0x1_0000)];
        assert_eq!(master.gather(&ram, 0x1_0200), whole(ranges, false));
        assert_eq!(master.gather(&ram, 0x1_0400), Gathered::Short);
    }

    #[test]
    fn a_table_without_end_ends_at_its_limit() {
        let (mut master, ram) = master(&[]);
        master.table = 0x1_0008;
        assert_eq!(master.gather(&ram, u64::MAX), Gathered::Short);
        master.table = 0xffff_fffc;
        assert_eq!(master.gather(&ram, 512), Gathered::Short);
        master.table = 0x8000_0000;
        assert_eq!(master.gather(&ram, 512), Gathered::Fault);
    }

    #[test]
    fn status_bits_are_cleared_by_ones() {
        let (mut master, _) = master(&[]);
        assert!(master.write(0, 9));
        assert!(!master.write(0, 9));
        master.status |= MasterStatus::INTERRUPT | MasterStatus::ERROR;
        master.write(2, 0x24);
        assert_eq!(master.read(2), 0x23);
        master.write(0, 8);
        assert_eq!(master.read(2), 0x22);
        assert_eq!([4, 5, 6, 7].map(|offset| master.read(offset)), [0, 0x10, 0, 0]);
    }
}
