//! What a device is, and the buses that carry accesses to it.
//!
//! A device implements the narrow traits of what it can do: [`PortDevice`], [`MmioDevice`],
//! [`PciFunction`]. It is plain `&mut self` code; the lock around it belongs to the bus. A [`PortBus`] or [`MmioBus`] owns the ranges, finds the
//! device of an access, splits accesses that cross a border, and decides what the guest reads where
//! a device fails: all ones.
//!
//! Each access returns an [`Access`] that names the device's row for accounting and tells an
//! unclaimed access from a refused one. The rows and their labels are in a [`DeviceTable`].
//!
//! # Locks
//!
//! A bus looks a device up under its table's lock, releases that, then locks the device. So a
//! device that is being accessed may map and unmap ranges of any bus (PCI base address registers).
#![forbid(unsafe_code)]

mod bytes;
mod mmio_bus;
mod pci;
mod port_bus;
mod table;

pub use bytes::{read_bytes, read_dwords, write_bytes, write_dwords};
pub use mmio_bus::{MmioBus, MmioRange};
pub use pci::{
    Bar, BarKind, BarMapper, ConfigError, ConfigSpace, MsiMessage, PciAddress, PciFunction,
    PciIdentity,
};
pub use port_bus::{PortBus, PortRange};
pub use table::DeviceTable;

use ambos_intercept::Device;
use std::sync::{Arc, Mutex};
use thiserror::Error;

/// A device as several owners share it.
pub type Shared<T> = Arc<Mutex<T>>;

/// Why a device refused an access. The guest sees all ones or nothing; the monitor's list of
/// unserved requests gets the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AccessError {
    /// The device has no register there.
    #[error("no such register")]
    NoRegister,
    /// The register cannot be accessed with this width or alignment.
    #[error("width or alignment not supported")]
    Size,
    /// The register exists but the monitor does not implement what is asked.
    #[error("not implemented")]
    Unimplemented,
}

/// A device with I/O ports. `data` is 1, 2 or 4 bytes long and lies within the window.
pub trait PortDevice: Send {
    /// Reads from `offset` in the device's port space.
    ///
    /// # Errors
    ///
    /// [`AccessError`] if nothing can be read; what is in `data` then does not matter.
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError>;

    /// Writes to `offset` in the device's port space.
    ///
    /// # Errors
    ///
    /// [`AccessError`] if the write was dropped.
    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError>;
}

/// A device with memory-mapped registers. `data` is 1 to 64 bytes long and lies within the window;
/// it need not be aligned.
pub trait MmioDevice: Send {
    /// Reads from `offset` in the device's register space.
    ///
    /// # Errors
    ///
    /// [`AccessError`] if nothing can be read; what is in `data` then does not matter.
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError>;

    /// Writes to `offset` in the device's register space.
    ///
    /// # Errors
    ///
    /// [`AccessError`] if the write was dropped.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError>;
}

/// What became of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The device that was asked; [`Device::NONE`] if nobody claims the address. Where an access
    /// crosses a border, the device of its first byte.
    pub device: Device,
    /// Whether it was served.
    pub outcome: Outcome,
}

/// Whether an access was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Served in full.
    Served,
    /// Nobody claims the address: reads are all ones, writes are dropped.
    Unclaimed,
    /// The device refused: reads are all ones, writes are dropped.
    Refused(AccessError),
}

impl Access {
    pub(crate) const UNCLAIMED: Self = Self { device: Device::NONE, outcome: Outcome::Unclaimed };

    pub(crate) fn of(device: Device, result: Result<(), AccessError>) -> Self {
        let outcome = match result {
            Ok(()) => Outcome::Served,
            Err(error) => Outcome::Refused(error),
        };
        Self { device, outcome }
    }

    /// Joins the accesses to the single bytes of one that crosses a border: the first device
    /// stands for all, the first failure counts.
    pub(crate) fn join(self, other: Self) -> Self {
        let outcome = if self.outcome == Outcome::Served { other.outcome } else { self.outcome };
        Self { device: self.device, outcome }
    }
}

/// Why a range cannot be put on a bus.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MapError {
    /// Part of the range belongs to another device.
    #[error("{label}: addresses {first:#x} to {last:#x} overlap those of {other}")]
    Overlap {
        /// The device to be mapped.
        label: String,
        /// First address.
        first: u64,
        /// Last address.
        last: u64,
        /// Label of the device that is there.
        other: String,
    },
    /// The range is empty or leaves the address space.
    #[error("{label}: no valid range of {length:#x} addresses at {first:#x}")]
    Range {
        /// The device to be mapped.
        label: String,
        /// First address.
        first: u64,
        /// How many addresses were asked for.
        length: u64,
    },
    /// The bus carries no more ranges.
    #[error("{label}: the bus has no room for another range")]
    Full {
        /// The device to be mapped.
        label: String,
    },
}

/// A range on a bus, to take it off again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mapping(pub(crate) u64);
