//! What is left to be done to a frame: the header that virtio puts before it (virtio 1.2, section
//! 5.1.6), which TAP interfaces speak, too.

use bitflags::bitflags;

/// Bytes of the header in front of a frame.
pub const HEADER_LENGTH: usize = 12;

/// Values of the header.
mod spec {
    pub(super) const NEEDS_CHECKSUM: u8 = 1;
    pub(super) const DATA_VALID: u8 = 2;
    pub(super) const GSO_TCP_V4: u8 = 1;
    pub(super) const GSO_TCP_V6: u8 = 4;
    pub(super) const GSO_UDP: u8 = 5;
    pub(super) const GSO_ECN: u8 = 0x80;
}

bitflags! {
    /// The frames that an adapter takes besides plain ones.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Accepts: u8 {
        /// Frames whose transport checksum is only begun.
        const CHECKSUM = 1 << 0;
        /// Large frames of TCP over IPv4.
        const TCP_V4 = 1 << 1;
        /// Large frames of TCP over IPv6.
        const TCP_V6 = 1 << 2;
        /// Large frames of TCP with ECN in use.
        const ECN = 1 << 3;
        /// Large frames of UDP.
        const UDP = 1 << 4;
    }
}

/// A checksum that is to be computed: the sum from `start` to the frame's end is put at `start` +
/// `offset`, where the sum of the pseudo-header is already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum {
    /// Offset of the first byte that is summed up.
    pub start: u16,
    /// Where the sum goes, from there.
    pub offset: u16,
}

/// What the segments of a large frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams of equal size, over either.
    Udp,
}

/// A frame that stands for a row of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// What they are.
    pub kind: SegmentKind,
    /// Whether a congestion-window-reduced flag belongs to the first one only.
    pub ecn: bool,
    /// Bytes of payload in each but the last.
    pub size: u16,
    /// Bytes of all headers together; a hint that need not be right.
    pub header: u16,
}

/// What is left to be done to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The checksum that is to be computed.
    pub checksum: Option<Checksum>,
    /// Whether the frame's checksums have been found right.
    pub valid: bool,
    /// The segments that the frame is to be cut into.
    pub segmentation: Option<Segmentation>,
}

impl Offload {
    /// Nothing.
    pub const NONE: Self = Self { checksum: None, valid: false, segmentation: None };

    /// Reads a header. Kinds of segmentation that nobody offers are taken for none.
    pub fn from_header(header: &[u8; HEADER_LENGTH]) -> Self {
        let [
            flags,
            kind,
            length_0,
            length_1,
            size_0,
            size_1,
            start_0,
            start_1,
            offset_0,
            offset_1,
            ..,
        ] = *header;
        let checksum = (flags & spec::NEEDS_CHECKSUM != 0).then_some(Checksum {
            start: u16::from_le_bytes([start_0, start_1]),
            offset: u16::from_le_bytes([offset_0, offset_1]),
        });
        let segments = match kind & !spec::GSO_ECN {
            spec::GSO_TCP_V4 => Some(SegmentKind::TcpV4),
            spec::GSO_TCP_V6 => Some(SegmentKind::TcpV6),
            spec::GSO_UDP => Some(SegmentKind::Udp),
            _ => None,
        };
        let segmentation = segments.map(|segments| Segmentation {
            kind: segments,
            ecn: kind & spec::GSO_ECN != 0,
            size: u16::from_le_bytes([size_0, size_1]),
            header: u16::from_le_bytes([length_0, length_1]),
        });
        Self { checksum, valid: flags & spec::DATA_VALID != 0, segmentation }
    }

    /// The header; the number of buffers in its last two bytes is 1.
    pub fn to_header(&self) -> [u8; HEADER_LENGTH] {
        let mut header = [0; HEADER_LENGTH];
        let mut put = |at: usize, value: u16| {
            header[at..at + 2].copy_from_slice(&value.to_le_bytes());
        };
        let mut flags = if self.valid { spec::DATA_VALID } else { 0 };
        let mut kind = 0;
        if let Some(checksum) = self.checksum {
            flags = spec::NEEDS_CHECKSUM;
            put(6, checksum.start);
            put(8, checksum.offset);
        }
        if let Some(segmentation) = self.segmentation {
            kind = match segmentation.kind {
                SegmentKind::TcpV4 => spec::GSO_TCP_V4,
                SegmentKind::TcpV6 => spec::GSO_TCP_V6,
                SegmentKind::Udp => spec::GSO_UDP,
            };
            if segmentation.ecn {
                kind |= spec::GSO_ECN;
            }
            put(2, segmentation.header);
            put(4, segmentation.size);
        }
        put(10, 1);
        header[0] = flags;
        header[1] = kind;
        header
    }

    /// Whether an adapter that takes `accepts` takes such a frame.
    pub fn is_accepted(&self, accepts: Accepts) -> bool {
        let mut needed = Accepts::empty();
        if self.checksum.is_some() {
            needed |= Accepts::CHECKSUM;
        }
        if let Some(segmentation) = self.segmentation {
            needed |= match segmentation.kind {
                SegmentKind::TcpV4 => Accepts::TCP_V4,
                SegmentKind::TcpV6 => Accepts::TCP_V6,
                SegmentKind::Udp => Accepts::UDP,
            };
            if segmentation.ecn {
                needed |= Accepts::ECN;
            }
        }
        accepts.contains(needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_say_what_they_are_made_of(bytes in any::<[u8; HEADER_LENGTH]>()) {
            let offload = Offload::from_header(&bytes);
            let again = Offload::from_header(&offload.to_header());
            prop_assert_eq!(again.checksum, offload.checksum);
            prop_assert_eq!(again.segmentation, offload.segmentation);
            // A checksum that is still to be computed has not been found right.
            prop_assert_eq!(again.valid, offload.valid && offload.checksum.is_none());
        }
    }

    #[test]
    fn what_is_accepted_is_what_was_asked_for() {
        let segmentation =
            Segmentation { kind: SegmentKind::TcpV6, ecn: true, size: 1440, header: 74 };
        let checksum = Some(Checksum { start: 54, offset: 16 });
        let offload = Offload { checksum, valid: false, segmentation: Some(segmentation) };
        assert!(!offload.is_accepted(Accepts::CHECKSUM | Accepts::TCP_V6));
        assert!(offload.is_accepted(Accepts::CHECKSUM | Accepts::TCP_V6 | Accepts::ECN));
        assert!(Offload::NONE.is_accepted(Accepts::empty()));
    }
}
