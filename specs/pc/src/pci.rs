//! Devices with a fixed place on PCI bus 0.

/// Device number of the host bridge.
pub const HOST_BRIDGE: u8 = 0;
/// Device number of the south bridge; its function 0 is the ISA bridge.
pub const SOUTH_BRIDGE: u8 = 1;
/// Function number of the IDE controller within the south bridge.
pub const IDE_FUNCTION: u8 = 1;
/// Device number of the display adapter.
pub const DISPLAY: u8 = 2;
/// First device number for devices plugged by the user.
pub const FIRST_SLOT: u8 = 3;
/// Device numbers on a bus.
pub const SLOTS: u8 = 32;
