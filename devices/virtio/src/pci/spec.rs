//! Registers (virtio 1.2, section 4.1; MSI-X: PCI Local Bus Specification 3.0, section 6.8.2).

use bitflags::bitflags;

/// Vendor of all virtio devices.
pub(super) const VENDOR: u16 = 0x1af4;
/// PCI device ID of device ID 0.
pub(super) const DEVICE_BASE: u16 = 0x1040;
/// Revision of devices that are not transitional.
pub(super) const REVISION: u8 = 1;

/// The base address register that shows everything.
pub(super) const BAR: usize = 4;
/// Bytes that it shows.
pub(super) const BAR_SIZE: u64 = 0x8000;
/// Each structure has a page.
pub(super) const PAGE: u64 = 0x1000;
/// Page of the common configuration.
pub(super) const COMMON: u64 = 0;
/// Page of the interrupt status.
pub(super) const ISR: u64 = 1;
/// Page of the device's own configuration.
pub(super) const DEVICE: u64 = 2;
/// Page of the doorbells.
pub(super) const NOTIFY: u64 = 3;
/// Page of the table of messages.
pub(super) const MSIX_TABLE: u64 = 4;
/// Page of the pending messages.
pub(super) const MSIX_PENDING: u64 = 5;

/// Bytes of the common configuration.
pub(super) const COMMON_LENGTH: usize = 64;
/// Bytes between doorbells.
pub(super) const NOTIFY_STRIDE: u64 = 4;
/// No message.
pub(super) const NO_VECTOR: u16 = 0xffff;

/// Capability: vendor-specific.
pub(super) const CAPABILITY: u8 = 0x09;
/// Capability: MSI-X.
pub(super) const MSIX: u8 = 0x11;
/// Structures that a capability can name (section 4.1.4).
pub(super) const CAP_COMMON: u8 = 1;
pub(super) const CAP_NOTIFY: u8 = 2;
pub(super) const CAP_ISR: u8 = 3;
pub(super) const CAP_DEVICE: u8 = 4;
pub(super) const CAP_PCI_ACCESS: u8 = 5;
/// MSI-X control, high byte: messages are masked.
pub(super) const MSIX_MASKED: u8 = 1 << 6;
/// MSI-X control, high byte: enabled.
pub(super) const MSIX_ENABLED: u8 = 1 << 7;

bitflags! {
    /// Device status (section 2.1).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Status: u8 {
        const ACKNOWLEDGE = 1 << 0;
        const DRIVER = 1 << 1;
        const DRIVER_OK = 1 << 2;
        const FEATURES_OK = 1 << 3;
        const NEEDS_RESET = 1 << 6;
        const FAILED = 1 << 7;
    }

    /// Interrupt status (section 4.1.4.5).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Isr: u8 {
        const QUEUE = 1 << 0;
        const CONFIGURATION = 1 << 1;
    }
}

/// Offsets in the common configuration (section 4.1.4.3).
pub(super) mod common {
    pub(crate) const DEVICE_FEATURE_SELECT: usize = 0;
    pub(crate) const DEVICE_FEATURE: usize = 4;
    pub(crate) const DRIVER_FEATURE_SELECT: usize = 8;
    pub(crate) const DRIVER_FEATURE: usize = 12;
    pub(crate) const CONFIG_VECTOR: usize = 16;
    pub(crate) const QUEUES: usize = 18;
    pub(crate) const STATUS: usize = 20;
    pub(crate) const CONFIG_GENERATION: usize = 21;
    pub(crate) const QUEUE_SELECT: usize = 22;
    pub(crate) const QUEUE_SIZE: usize = 24;
    pub(crate) const QUEUE_VECTOR: usize = 26;
    pub(crate) const QUEUE_ENABLE: usize = 28;
    pub(crate) const QUEUE_NOTIFY_OFFSET: usize = 30;
    /// First of three addresses of eight bytes: descriptors, available ring, used ring.
    pub(crate) const QUEUE_ADDRESSES: usize = 32;
    /// End of the addresses.
    pub(crate) const QUEUE_ADDRESSES_END: usize = 56;
}
