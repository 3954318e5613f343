//! What sits on a PCI bus.
//!
//! A host bridge reaches a function through [`PciFunction`]. Most functions keep their registers in
//! a [`ConfigSpace`] and let a [`BarMapper`] put them on the buses where the guest's base address
//! registers say.

mod bar_mapper;
mod config_space;

pub use bar_mapper::BarMapper;
pub use config_space::{Bar, BarKind, ConfigError, ConfigSpace, MsiMessage, PciIdentity};

use std::fmt;

/// Where a function sits on bus zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    device: u8,
    function: u8,
}

impl PciAddress {
    /// Device 0–31, function 0–7; `None` outside.
    pub const fn new(device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 { Some(Self { device, function }) } else { None }
    }

    /// Device number, 0–31.
    pub const fn device(self) -> u8 {
        self.device
    }

    /// Function number, 0–7.
    pub const fn function(self) -> u8 {
        self.function
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00:{:02x}.{}", self.device, self.function)
    }
}

/// A PCI function as its host bridge sees it: its configuration space.
///
/// Accesses are 1, 2 or 4 bytes long and lie within one aligned group of four; `offset` is below
/// 256 through the configuration ports and below 4096 through the memory window. Registers that do
/// not exist read as zero.
pub trait PciFunction: Send {
    /// Reads the configuration space.
    fn config_read(&mut self, offset: u16, data: &mut [u8]);

    /// Writes the configuration space.
    fn config_write(&mut self, offset: u16, data: &[u8]);
}
