//! Registers and commands (ATA/ATAPI-6, T13/1410D; packet commands: SFF-8020i and MMC-3; bus master
//! and configuration: 82371FB/SB data sheet, 290550-002).

use bitflags::bitflags;

/// Command block: data.
pub(super) const DATA: u16 = 0;
/// Command block: error; features when written.
pub(super) const ERROR: u16 = 1;
/// Command block: sector count; reasons of an interrupt for packet commands.
pub(super) const COUNT: u16 = 2;
/// Command block: first of the three bytes of the LBA; for packet commands, the latter two are the
/// byte count.
pub(super) const LBA_LOW: u16 = 3;
/// Command block: last byte of the LBA.
pub(super) const LBA_HIGH: u16 = 5;
/// Command block: device and head.
pub(super) const DEVICE: u16 = 6;
/// Command block: status; command when written.
pub(super) const STATUS: u16 = 7;
/// Control block: status without effect on the interrupt; device control when written.
pub(super) const CONTROL: u16 = 8;

bitflags! {
    /// Status (clause 7.15).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Status: u8 {
        /// The command failed; the error register says why.
        const ERR = 1 << 0;
        /// Data can be moved through the data port.
        const DRQ = 1 << 3;
        /// Seek complete.
        const DSC = 1 << 4;
        const DRDY = 1 << 6;
        const BSY = 1 << 7;
    }

    /// Error (clause 7.9).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Errors: u8 {
        /// The command is unknown or cannot be done.
        const ABORTED = 1 << 2;
        /// There is no such sector.
        const ID_NOT_FOUND = 1 << 4;
        /// The data cannot be had.
        const UNCORRECTABLE = 1 << 6;
    }

    /// Device control (clause 7.8).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Control: u8 {
        /// Interrupts are off.
        const NIEN = 1 << 1;
        const SOFT_RESET = 1 << 2;
        /// Reads of the command block give the previous content of two-byte registers.
        const HIGH_ORDER = 1 << 7;
    }

    /// Bus master command.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct MasterCommand: u8 {
        const START = 1 << 0;
        /// From the drive to memory.
        const TO_MEMORY = 1 << 3;
    }

    /// Bus master status.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct MasterStatus: u8 {
        const ACTIVE = 1 << 0;
        const ERROR = 1 << 1;
        const INTERRUPT = 1 << 2;
        /// Notes of software's.
        const DRIVE_0_CAPABLE = 1 << 5;
        const DRIVE_1_CAPABLE = 1 << 6;
    }
}

/// Device: drive 1 is selected.
pub(super) const DEVICE_1: u8 = 1 << 4;
/// Device: addresses are LBAs.
pub(super) const DEVICE_LBA: u8 = 1 << 6;
/// Error after a reset: the drive passed its diagnostics.
pub(super) const DIAGNOSTICS_PASSED: u8 = 1;

/// Bus master: offset of the command register.
pub(super) const MASTER_COMMAND: u16 = 0;
/// Bus master: offset of the status register.
pub(super) const MASTER_STATUS: u16 = 2;
/// Bus master: offset of the address of the descriptor table (4 bytes).
pub(super) const MASTER_TABLE: u16 = 4;
/// Bytes of the descriptor table at most; it does not cross a border of so many.
pub(super) const TABLE_LIMIT: u32 = 1 << 16;
/// Descriptor: the last one.
pub(super) const DESCRIPTOR_LAST: u32 = 1 << 31;

/// Commands (clause 8).
pub(super) mod command {
    pub(crate) const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub(crate) const DEVICE_RESET: u8 = 0x08;
    pub(crate) const RECALIBRATE: std::ops::RangeInclusive<u8> = 0x10..=0x1f;
    pub(crate) const READ_SECTORS: u8 = 0x20;
    pub(crate) const READ_SECTORS_NO_RETRY: u8 = 0x21;
    pub(crate) const READ_SECTORS_EXT: u8 = 0x24;
    pub(crate) const READ_DMA_EXT: u8 = 0x25;
    pub(crate) const READ_MULTIPLE_EXT: u8 = 0x29;
    pub(crate) const WRITE_SECTORS: u8 = 0x30;
    pub(crate) const WRITE_SECTORS_NO_RETRY: u8 = 0x31;
    pub(crate) const WRITE_SECTORS_EXT: u8 = 0x34;
    pub(crate) const WRITE_DMA_EXT: u8 = 0x35;
    pub(crate) const WRITE_MULTIPLE_EXT: u8 = 0x39;
    pub(crate) const VERIFY: u8 = 0x40;
    pub(crate) const VERIFY_NO_RETRY: u8 = 0x41;
    pub(crate) const VERIFY_EXT: u8 = 0x42;
    pub(crate) const SEEK: u8 = 0x70;
    pub(crate) const EXECUTE_DIAGNOSTIC: u8 = 0x90;
    pub(crate) const INITIALIZE_PARAMETERS: u8 = 0x91;
    pub(crate) const PACKET: u8 = 0xa0;
    pub(crate) const IDENTIFY_PACKET: u8 = 0xa1;
    pub(crate) const READ_MULTIPLE: u8 = 0xc4;
    pub(crate) const WRITE_MULTIPLE: u8 = 0xc5;
    pub(crate) const SET_MULTIPLE: u8 = 0xc6;
    pub(crate) const READ_DMA: u8 = 0xc8;
    pub(crate) const READ_DMA_NO_RETRY: u8 = 0xc9;
    pub(crate) const WRITE_DMA: u8 = 0xca;
    pub(crate) const WRITE_DMA_NO_RETRY: u8 = 0xcb;
    pub(crate) const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub(crate) const IDLE_IMMEDIATE: u8 = 0xe1;
    pub(crate) const STANDBY: u8 = 0xe2;
    pub(crate) const IDLE: u8 = 0xe3;
    pub(crate) const CHECK_POWER_MODE: u8 = 0xe5;
    pub(crate) const SLEEP: u8 = 0xe6;
    pub(crate) const FLUSH_CACHE: u8 = 0xe7;
    pub(crate) const FLUSH_CACHE_EXT: u8 = 0xea;
    pub(crate) const IDENTIFY: u8 = 0xec;
    pub(crate) const SET_FEATURES: u8 = 0xef;
}

/// Subcommands of SET FEATURES (clause 8.46).
pub(super) mod feature {
    pub(crate) const WRITE_CACHE_ON: u8 = 0x02;
    pub(crate) const TRANSFER_MODE: u8 = 0x03;
    pub(crate) const LOOK_AHEAD_OFF: u8 = 0x55;
    pub(crate) const REVERT_DEFAULTS: [u8; 2] = [0x66, 0xcc];
    pub(crate) const WRITE_CACHE_OFF: u8 = 0x82;
    pub(crate) const LOOK_AHEAD_ON: u8 = 0xaa;
}
