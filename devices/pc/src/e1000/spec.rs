//! Registers and descriptors (PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's
//! Manual, chapters 3 and 13).

/// Offsets of registers.
pub(super) mod register {
    pub(in crate::e1000) const CTRL: u32 = 0x0000;
    /// The same register again.
    pub(in crate::e1000) const CTRL_COPY: u32 = 0x0004;
    pub(in crate::e1000) const STATUS: u32 = 0x0008;
    pub(in crate::e1000) const EECD: u32 = 0x0010;
    pub(in crate::e1000) const EERD: u32 = 0x0014;
    pub(in crate::e1000) const MDIC: u32 = 0x0020;
    pub(in crate::e1000) const VET: u32 = 0x0038;
    pub(in crate::e1000) const ICR: u32 = 0x00c0;
    pub(in crate::e1000) const ITR: u32 = 0x00c4;
    pub(in crate::e1000) const ICS: u32 = 0x00c8;
    pub(in crate::e1000) const IMS: u32 = 0x00d0;
    pub(in crate::e1000) const IMC: u32 = 0x00d8;
    pub(in crate::e1000) const RCTL: u32 = 0x0100;
    pub(in crate::e1000) const TCTL: u32 = 0x0400;
    pub(in crate::e1000) const PBA: u32 = 0x1000;
    pub(in crate::e1000) const RDBAL: u32 = 0x2800;
    pub(in crate::e1000) const RDBAH: u32 = 0x2804;
    pub(in crate::e1000) const RDLEN: u32 = 0x2808;
    pub(in crate::e1000) const RDH: u32 = 0x2810;
    pub(in crate::e1000) const RDT: u32 = 0x2818;
    pub(in crate::e1000) const RDTR: u32 = 0x2820;
    pub(in crate::e1000) const RADV: u32 = 0x282c;
    pub(in crate::e1000) const TDBAL: u32 = 0x3800;
    pub(in crate::e1000) const TDBAH: u32 = 0x3804;
    pub(in crate::e1000) const TDLEN: u32 = 0x3808;
    pub(in crate::e1000) const TDH: u32 = 0x3810;
    pub(in crate::e1000) const TDT: u32 = 0x3818;
    pub(in crate::e1000) const TIDV: u32 = 0x3820;
    pub(in crate::e1000) const TADV: u32 = 0x382c;
    pub(in crate::e1000) const STATISTICS: u32 = 0x4000;
    pub(in crate::e1000) const STATISTICS_END: u32 = 0x4100;
    pub(in crate::e1000) const RXCSUM: u32 = 0x5000;
    /// 128 words: a filter for groups.
    pub(in crate::e1000) const MTA: u32 = 0x5200;
    /// 16 pairs of words: addresses.
    pub(in crate::e1000) const RAL: u32 = 0x5400;
    /// 128 words: a filter for VLANs.
    pub(in crate::e1000) const VFTA: u32 = 0x5600;
    pub(in crate::e1000) const VFTA_END: u32 = 0x5800;

    /// Bytes of the window; what is behind the registers is the packet buffer's diagnostic view.
    pub(in crate::e1000) const WINDOW: u64 = 0x2_0000;
    /// First byte behind the registers.
    pub(in crate::e1000) const END: u32 = 0x6000;

    /// Registers that only keep what is written: flow control, timing, LEDs, thresholds, wake-up,
    /// management, diagnostics.
    pub(in crate::e1000) const PLAIN: &[(u32, u32)] = &[
        (0x0018, 0x0018), // CTRL_EXT
        (0x0028, 0x0030), // FCAL, FCAH, FCT
        (VET, VET),
        (0x0170, 0x0178), // FCTTV, TXCW
        (0x0404, 0x0410), // TCTL_EXT, TIPG
        (0x0458, 0x0458), // AIT
        (0x0e00, 0x0e00), // LEDCTL
        (PBA, PBA),
        (0x2160, 0x2168), // FCRTL, FCRTH
        (0x2410, 0x2430), // diagnostics of the receive buffer
        (0x2828, 0x2828), // RXDCTL
        (0x2c00, 0x2c00), // RSRPD
        (0x3000, 0x3000), // TXDMAC
        (0x3410, 0x3430), // diagnostics of the transmit buffer
        (0x3828, 0x3830), // TXDCTL, TADV, TSPMT
        (RXCSUM, RXCSUM),
        (0x5800, 0x5838), // wake-up, management, IPAV
        (0x5840, 0x5858), // IP4AT
        (0x5880, 0x588c), // IP6AT
        (0x5900, 0x5900), // WUPL
        (0x5a00, 0x5a7c), // WUPM
        (0x5b30, 0x5b30), // FACTPS
        (0x5f00, 0x5f18), // FFLT
    ];
    /// Registers that read as zero.
    pub(in crate::e1000) const ZERO: &[u32] = &[
        0x001c, // FLA
        0x0180, // RXCW
        0x5b50, // SWSM
    ];
}

/// Bits of CTRL.
pub(super) mod ctrl {
    pub(in crate::e1000) const RESET: u32 = 1 << 26;
    /// Tags of VLANs are taken out and put in.
    pub(in crate::e1000) const VLAN: u32 = 1 << 30;
    /// Full duplex, 1000 Mbit/s.
    pub(in crate::e1000) const DEFAULT: u32 = 0x0000_0201;
}

/// STATUS: full duplex, link up, 1000 Mbit/s.
pub(super) const STATUS_UP: u32 = 0x0000_0283;

/// Causes of interrupts.
pub(super) mod cause {
    /// Transmit descriptors were written back.
    pub(in crate::e1000) const TXDW: u32 = 1 << 0;
    /// The transmit queue is empty.
    pub(in crate::e1000) const TXQE: u32 = 1 << 1;
    /// The link changed.
    pub(in crate::e1000) const LSC: u32 = 1 << 2;
    /// Few receive descriptors are left.
    pub(in crate::e1000) const RXDMT0: u32 = 1 << 4;
    /// Frames were received.
    pub(in crate::e1000) const RXT0: u32 = 1 << 7;
    /// A management cycle is complete.
    pub(in crate::e1000) const MDAC: u32 = 1 << 9;
    /// All that exist.
    pub(in crate::e1000) const ALL: u32 = 0x0001_ffff;
}

/// Bits of RCTL.
pub(super) mod rctl {
    pub(in crate::e1000) const ENABLE: u32 = 1 << 1;
    pub(in crate::e1000) const UNICAST_ALL: u32 = 1 << 3;
    pub(in crate::e1000) const MULTICAST_ALL: u32 = 1 << 4;
    pub(in crate::e1000) const LONG: u32 = 1 << 5;
    pub(in crate::e1000) const BROADCAST: u32 = 1 << 15;
    pub(in crate::e1000) const VLAN_FILTER: u32 = 1 << 18;
    pub(in crate::e1000) const SIZE_EXTENDED: u32 = 1 << 25;
    pub(in crate::e1000) const STRIP_CRC: u32 = 1 << 26;
}

/// TCTL: enabled.
pub(super) const TCTL_ENABLE: u32 = 1 << 1;
/// RXCSUM: checksums of IP and of TCP and UDP are looked at.
pub(super) const RXCSUM_IP: u32 = 1 << 8;
pub(super) const RXCSUM_TRANSPORT: u32 = 1 << 9;
/// RAH: the address is valid.
pub(super) const RAH_VALID: u32 = 1 << 31;

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: u64 = 16;

/// Bits of a receive descriptor's status.
pub(super) mod receive {
    pub(in crate::e1000) const DONE: u8 = 1 << 0;
    pub(in crate::e1000) const END: u8 = 1 << 1;
    pub(in crate::e1000) const IGNORE_CHECKSUM: u8 = 1 << 2;
    pub(in crate::e1000) const VLAN: u8 = 1 << 3;
    pub(in crate::e1000) const TRANSPORT_CHECKED: u8 = 1 << 5;
    pub(in crate::e1000) const IP_CHECKED: u8 = 1 << 6;
    pub(in crate::e1000) const OTHER_ADDRESS: u8 = 1 << 7;
}

/// Bits of a transmit descriptor.
pub(super) mod transmit {
    /// Command: last of a frame.
    pub(in crate::e1000) const END: u8 = 1 << 0;
    /// Command of a legacy descriptor: insert a checksum.
    pub(in crate::e1000) const INSERT_CHECKSUM: u8 = 1 << 2;
    /// Command of other descriptors: segmentation.
    pub(in crate::e1000) const SEGMENT: u8 = 1 << 2;
    /// Command: write the status back.
    pub(in crate::e1000) const REPORT: u8 = 1 << 3;
    /// Command: not a legacy descriptor.
    pub(in crate::e1000) const EXTENDED: u8 = 1 << 5;
    /// Command: insert the VLAN tag.
    pub(in crate::e1000) const VLAN: u8 = 1 << 6;
    /// Command: delay the interrupt.
    pub(in crate::e1000) const DELAY: u8 = 1 << 7;
    /// Command of a context: TCP, else UDP.
    pub(in crate::e1000) const TCP: u8 = 1 << 0;
    /// Command of a context: IPv4.
    pub(in crate::e1000) const IP_V4: u8 = 1 << 1;
    /// Options: insert the IP header's checksum; that of TCP or UDP.
    pub(in crate::e1000) const IP_CHECKSUM: u8 = 1 << 0;
    pub(in crate::e1000) const TRANSPORT_CHECKSUM: u8 = 1 << 1;
    /// Status: done.
    pub(in crate::e1000) const DONE: u8 = 1 << 0;
}
