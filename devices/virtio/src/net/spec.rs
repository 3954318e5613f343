//! Names and layouts of the standard (section 5.1).

use bitflags::bitflags;

bitflags! {
    /// The device's own features (section 5.1.3).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Features: u64 {
        /// The device completes checksums.
        const CHECKSUM = 1 << 0;
        /// The driver takes frames whose checksum is only begun.
        const GUEST_CHECKSUM = 1 << 1;
        /// The driver may change what it takes.
        const CONTROL_OFFLOADS = 1 << 2;
        const MTU = 1 << 3;
        const MAC = 1 << 5;
        const GUEST_TCP_V4 = 1 << 7;
        const GUEST_TCP_V6 = 1 << 8;
        const GUEST_ECN = 1 << 9;
        const HOST_TCP_V4 = 1 << 11;
        const HOST_TCP_V6 = 1 << 12;
        const HOST_ECN = 1 << 13;
        /// Frames may be spread over several buffers.
        const MERGEABLE = 1 << 15;
        const STATUS = 1 << 16;
        const CONTROL_QUEUE = 1 << 17;
        const CONTROL_RECEIVE = 1 << 18;
        const CONTROL_RECEIVE_EXTRA = 1 << 20;
        const ANNOUNCE = 1 << 21;
        const CONTROL_MAC = 1 << 23;
        const GUEST_UDP_V4 = 1 << 54;
        const GUEST_UDP_V6 = 1 << 55;
        const HOST_UDP = 1 << 56;
        const SPEED = 1 << 63;
    }
}

/// Queues, where there is one pair of them.
pub(super) mod queue {
    pub(in crate::net) const RECEIVE: usize = 0;
    pub(in crate::net) const TRANSMIT: usize = 1;
    pub(in crate::net) const CONTROL: usize = 2;
}

/// The configuration space (section 5.1.4).
pub(super) mod config {
    pub(in crate::net) const LENGTH: usize = 17;
    pub(in crate::net) const STATUS: usize = 6;
    pub(in crate::net) const PAIRS: usize = 8;
    pub(in crate::net) const MTU: usize = 10;
    pub(in crate::net) const SPEED: usize = 12;
    pub(in crate::net) const DUPLEX: usize = 16;
    /// Status: the link is up.
    pub(in crate::net) const LINK_UP: u16 = 1;
}

/// Commands of the control queue (section 5.1.6.5), by class and number.
pub(super) mod control {
    pub(in crate::net) const PROMISCUOUS: (u8, u8) = (0, 0);
    pub(in crate::net) const ALL_MULTICAST: (u8, u8) = (0, 1);
    pub(in crate::net) const ALL_UNICAST: (u8, u8) = (0, 2);
    pub(in crate::net) const NO_MULTICAST: (u8, u8) = (0, 3);
    pub(in crate::net) const NO_UNICAST: (u8, u8) = (0, 4);
    pub(in crate::net) const NO_BROADCAST: (u8, u8) = (0, 5);
    pub(in crate::net) const MAC_TABLE: (u8, u8) = (1, 0);
    pub(in crate::net) const MAC_ADDRESS: (u8, u8) = (1, 1);
    pub(in crate::net) const ANNOUNCED: (u8, u8) = (3, 0);
    pub(in crate::net) const OFFLOADS: (u8, u8) = (5, 0);
    /// How a command ended.
    pub(in crate::net) const OK: u8 = 0;
    pub(in crate::net) const ERROR: u8 = 1;
}
