//! Where the transport of a frame is, which requests do not say.

use ambos_net::{Checksum, ETHERNET_HEADER};

/// Bytes at a frame's beginning in which its headers are.
pub(super) const LENGTH: usize = 192;

const VLAN: [u8; 2] = [0x81, 0x00];
const IP_V4: [u8; 2] = [0x08, 0x00];
const IP_V6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Headers of IPv6 that stand before the transport's: options, routing, options for the destination.
const EXTENSIONS: [u8; 3] = [0, 43, 60];

/// The transport's header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transport {
    /// Where its checksum is.
    pub(super) checksum: Checksum,
    /// Bytes of all headers up to the payload.
    pub(super) headers: u16,
}

impl Transport {
    /// The transport of the frame that begins with `head`, if it is TCP or UDP.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        let mut network = ETHERNET_HEADER;
        let mut kind = pair(head, network - 2)?;
        if kind == VLAN {
            network += 4;
            kind = pair(head, network - 2)?;
        }
        let (start, protocol) = match kind {
            IP_V4 => {
                let length = usize::from(*head.get(network)? & 0xf) * 4;
                (network + length, *head.get(network + 9)?)
            }
            IP_V6 => {
                let (mut at, mut next) = (network + 40, *head.get(network + 6)?);
                while EXTENSIONS.contains(&next) {
                    let [following, length] = pair(head, at)?;
                    next = following;
                    at += 8 + usize::from(length) * 8;
                }
                (at, next)
            }
            _ => return None,
        };
        let (offset, length) = match protocol {
            TCP => (16, usize::from(*head.get(start + 12)? >> 4) * 4),
            UDP => (6, 8),
            _ => return None,
        };
        let (start, headers) = (u16::try_from(start).ok()?, u16::try_from(start + length).ok()?);
        Some(Self { checksum: Checksum { start, offset }, headers })
    }
}

/// A number that is the same for all frames of one stream in one direction.
pub(super) fn stream(head: &[u8]) -> usize {
    let network = ETHERNET_HEADER;
    let addresses = match pair(head, network - 2) {
        Some(IP_V4) => head.get(network + 12..network + 24),
        Some(IP_V6) => head.get(network + 8..network + 44),
        _ => None,
    };
    let bytes = addresses.unwrap_or_default();
    bytes.iter().fold(0, |sum, byte| sum * 31 % 65_521 + usize::from(*byte))
}

fn pair(bytes: &[u8], at: usize) -> Option<[u8; 2]> {
    Some([*bytes.get(at)?, *bytes.get(at + 1)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checksum(head: &[u8]) -> Option<(u16, u16, u16)> {
        let Transport { checksum, headers } = Transport::of(head)?;
        Some((checksum.start, checksum.offset, headers))
    }

    #[test]
    fn the_transport_is_found() {
        let mut v4 = [&[0; 12][..], &IP_V4, &[0x46, 0, 0, 0, 0, 0, 0, 0, 64, TCP]].concat();
        v4.resize(200, 0);
        v4[14 + 24 + 12] = 0x80;
        assert_eq!(checksum(&v4), Some((38, 16, 70)));
        v4[23] = UDP;
        assert_eq!(checksum(&v4), Some((38, 6, 46)));
        v4[23] = 1;
        assert_eq!(checksum(&v4), None);
        let mut v6 = [&[0; 12][..], &VLAN, &[0, 1], &IP_V6, &[0x60, 0, 0, 0, 0, 0, 0, 64]].concat();
        v6.resize(200, 0);
        v6[18 + 40..18 + 42].copy_from_slice(&[UDP, 1]);
        assert_eq!(checksum(&v6), Some((18 + 56, 6, 18 + 64)));
    }

    #[test]
    fn streams_differ() {
        let frame = |port: u8| {
            let mut frame = [&[0; 12][..], &IP_V4, &[0x45; 40]].concat();
            frame[37] = port;
            frame
        };
        assert_eq!(stream(&frame(1)), stream(&frame(1)));
        assert_ne!(stream(&frame(1)) % 2, stream(&frame(2)) % 2);
        assert_eq!(stream(&[]), 0);
    }

    proptest! {
        #[test]
        fn nonsense_has_no_transport(head in prop::collection::vec(any::<u8>(), 0..LENGTH)) {
            Transport::of(&head);
            stream(&head);
        }
    }
}
