//! PCI: bus 0, the ways to its configuration spaces, the bridges on it, its interrupt lines.

mod bus;
mod i440fx;
mod piix3;
mod routing;

pub use bus::{ConfigPorts, ConfigWindow, PciBus, PlugError};
pub use i440fx::HostBridge;
pub use piix3::IsaBridge;
pub use routing::{LINES, LineRouter};
