//! Cuts large frames into segments and completes checksums, for adapters that cannot do it.

use crate::checksum;
use crate::offload::{Accepts, Checksum, Offload, SegmentKind, Segmentation};
use crate::{ETHERNET_HEADER, FRAME_MAX};

/// Bytes of the longest headers: Ethernet with a VLAN tag, IPv4 and TCP with all options.
const HEADERS_MAX: usize = ETHERNET_HEADER + 4 + 60 + 60;

/// What the headers of TCP and IP have where.
mod spec {
    pub(super) const VLAN: [u8; 2] = [0x81, 0x00];
    pub(super) const PROTOCOL_TCP: u8 = 6;
    pub(super) const PROTOCOL_UDP: u8 = 17;
    pub(super) const IPV6_HEADER: usize = 40;
    pub(super) const UDP_HEADER: usize = 8;
    pub(super) const TCP_SEQUENCE: usize = 4;
    pub(super) const TCP_FLAGS: usize = 13;
    pub(super) const TCP_CHECKSUM: u16 = 16;
    pub(super) const UDP_CHECKSUM: u16 = 6;
    /// Flags that belong to the last segment only: FIN, PSH.
    pub(super) const TCP_LAST: u8 = 0x09;
    /// The flag that belongs to the first segment only: CWR.
    pub(super) const TCP_FIRST: u8 = 0x80;
}

/// A frame on its way to an adapter: the bytes of both parts, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// What the adapter, or its guest, has to do itself.
    pub offload: Offload,
    /// The frame.
    pub parts: [&'a [u8]; 2],
}

impl Received<'_> {
    /// Bytes of the frame.
    pub fn length(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }
}

/// Where the headers of a frame are.
#[derive(Debug, Clone, Copy)]
struct Layout {
    kind: SegmentKind,
    /// Offset of the IP header.
    network: usize,
    version_6: bool,
    /// Offset of the transport's header.
    transport: usize,
    /// Offset of the payload.
    payload: usize,
}

impl Layout {
    fn of(frame: &[u8], kind: SegmentKind) -> Option<Self> {
        let tagged = frame.get(12..14)? == spec::VLAN;
        let network = ETHERNET_HEADER + if tagged { 4 } else { 0 };
        let version = frame.get(network)? >> 4;
        let (transport, protocol) = match version {
            4 => {
                let length = usize::from(frame[network] & 0xf) * 4;
                (network + length.max(20), *frame.get(network + 9)?)
            }
            6 => (network + spec::IPV6_HEADER, *frame.get(network + 6)?),
            _ => return None,
        };
        let version_6 = version == 6;
        let (right, header) = match kind {
            SegmentKind::TcpV4 | SegmentKind::TcpV6 => {
                let header = usize::from(*frame.get(transport + 12)? >> 4) * 4;
                let right = version_6 == (kind == SegmentKind::TcpV6);
                (right && protocol == spec::PROTOCOL_TCP, header.max(20))
            }
            SegmentKind::Udp => (protocol == spec::PROTOCOL_UDP, spec::UDP_HEADER),
        };
        let payload = transport + header;
        let whole = right && payload <= frame.len() && payload <= HEADERS_MAX;
        whole.then_some(Self { kind, network, version_6, transport, payload })
    }

    /// Where the transport's checksum is, from its header on.
    fn checksum(&self) -> u16 {
        if self.kind == SegmentKind::Udp { spec::UDP_CHECKSUM } else { spec::TCP_CHECKSUM }
    }

    /// Makes the headers in `head` those of the segment number `index`, whose `payload` begins at
    /// `offset` of the whole payload. The transport's checksum is only begun.
    fn patch(&self, head: &mut [u8], index: usize, offset: usize, payload: usize, last: bool) {
        let put = |head: &mut [u8], at: usize, value: u16| {
            head[at..at + 2].copy_from_slice(&value.to_be_bytes());
        };
        let get = |head: &[u8], at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let transport = (self.payload - self.transport + payload) as u16;
        let sum = if self.version_6 {
            let options = self.transport - self.network - spec::IPV6_HEADER;
            put(head, self.network + 4, (options as u16).wrapping_add(transport));
            let addresses = &head[self.network + 8..self.network + 40];
            checksum::pseudo_header(addresses, head[self.network + 6], transport)
        } else {
            let header = self.transport - self.network;
            put(head, self.network + 2, (header as u16).wrapping_add(transport));
            let identification = get(head, self.network + 4).wrapping_add(index as u16);
            put(head, self.network + 4, identification);
            put(head, self.network + 10, 0);
            let field = checksum::field(checksum::add(0, &head[self.network..self.transport]));
            head[self.network + 10..self.network + 12].copy_from_slice(&field);
            let addresses = &head[self.network + 12..self.network + 20];
            checksum::pseudo_header(addresses, head[self.network + 9], transport)
        };
        put(head, self.transport + usize::from(self.checksum()), sum);
        if self.kind == SegmentKind::Udp {
            return put(head, self.transport + 4, transport);
        }
        let at = self.transport + spec::TCP_SEQUENCE;
        let sequence = u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        head[at..at + 4].copy_from_slice(&sequence.wrapping_add(offset as u32).to_be_bytes());
        let flags = &mut head[self.transport + spec::TCP_FLAGS];
        if !last {
            *flags &= !spec::TCP_LAST;
        }
        if index > 0 {
            *flags &= !spec::TCP_FIRST;
        }
    }
}

/// How far a frame has been given to an adapter.
#[derive(Debug, Default)]
pub struct Segments {
    /// Bytes of payload that were given in segments.
    offset: usize,
    /// How many segments that were.
    index: usize,
}

impl Segments {
    /// Gives `frame`, as far as that was not done yet, to `take` in a form that its adapter
    /// `accepts`. Returns whether all of it was taken; if not, it goes on there next time. A frame
    /// that is not what `offload` says is dropped.
    ///
    /// Payload is not copied for that; headers are, because they differ.
    pub fn give(
        &mut self,
        frame: &mut [u8],
        offload: &mut Offload,
        accepts: Accepts,
        take: &mut dyn FnMut(&Received<'_>) -> bool,
    ) -> bool {
        if frame.len() > FRAME_MAX {
            return true;
        }
        if self.index == 0 {
            if !offload.is_accepted(accepts) && offload.segmentation.is_none() {
                if let Some(checksum) = offload.checksum.take() {
                    complete(frame, &[], checksum);
                }
                offload.valid = true;
            }
            if offload.is_accepted(accepts) {
                return take(&Received { offload: *offload, parts: [frame, &[]] });
            }
        }
        let Some(segmentation) = offload.segmentation else { return true };
        self.cut(frame, segmentation, accepts, take)
    }

    fn cut(
        &mut self,
        frame: &[u8],
        segmentation: Segmentation,
        accepts: Accepts,
        take: &mut dyn FnMut(&Received<'_>) -> bool,
    ) -> bool {
        let Some(layout) = Layout::of(frame, segmentation.kind) else { return true };
        let (headers, payload) = frame.split_at(layout.payload);
        let size = usize::from(segmentation.size.max(1));
        while self.offset < payload.len() || self.index == 0 {
            let end = payload.len().min(self.offset + size);
            let piece = &payload[self.offset..end];
            let mut head = [0; HEADERS_MAX];
            let head = &mut head[..headers.len()];
            head.copy_from_slice(headers);
            let last = end == payload.len();
            layout.patch(head, self.index, self.offset, piece.len(), last);
            let checksum = Checksum { start: layout.transport as u16, offset: layout.checksum() };
            let offload = if accepts.contains(Accepts::CHECKSUM) {
                Offload { checksum: Some(checksum), ..Offload::NONE }
            } else {
                complete(head, piece, checksum);
                Offload { valid: true, ..Offload::NONE }
            };
            if !take(&Received { offload, parts: [head, piece] }) {
                return false;
            }
            self.offset = end;
            self.index += 1;
        }
        true
    }
}

/// Computes the checksum of a frame whose second part is `rest`, and puts it into the first part,
/// `head`; not if it has no place there.
fn complete(head: &mut [u8], rest: &[u8], checksum: Checksum) {
    let start = usize::from(checksum.start);
    let at = start + usize::from(checksum.offset);
    if start > head.len() || at + 2 > head.len() {
        return;
    }
    let mut sum = checksum::add(0, &head[start..]);
    // The parts are summed up apart, so the second one must begin at an even place.
    let odd = (head.len() - start) % 2 == 1;
    let second = checksum::add(0, rest);
    sum = checksum::join(sum, if odd { second.swap_bytes() } else { second });
    let mut field = checksum::field(sum);
    // Zero says that there is no checksum in UDP, and is the same number as all ones in TCP.
    if field == [0, 0] {
        field = [0xff, 0xff];
    }
    head[at..at + 2].copy_from_slice(&field);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame of TCP over IPv4 or IPv6 with a begun checksum.
    fn frame(version_6: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        let length = 20 + payload.len() as u16;
        let sum = if version_6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([6, 64]);
            frame.extend((0..32).collect::<Vec<u8>>());
            checksum::pseudo_header(&frame[22..54], 6, length)
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + length).to_be_bytes());
            frame.extend([0xff, 0xff, 0x40, 0, 64, 6, 0, 0]);
            frame.extend([10, 0, 2, 2, 10, 0, 2, 15]);
            checksum::pseudo_header(&frame[26..34], 6, length)
        };
        frame.extend([0, 80, 0x12, 0x34, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 1, 0x50, 0x19, 1, 0]);
        frame.extend(sum.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }

    fn offload(version_6: bool, size: u16) -> Offload {
        let kind = if version_6 { SegmentKind::TcpV6 } else { SegmentKind::TcpV4 };
        let start = if version_6 { 54 } else { 34 };
        Offload {
            checksum: Some(Checksum { start, offset: 16 }),
            valid: false,
            segmentation: Some(Segmentation { kind, ecn: false, size, header: start + 20 }),
        }
    }

    fn collect(
        frame: &mut [u8],
        mut offload: Offload,
        accepts: Accepts,
    ) -> Vec<(Offload, Vec<u8>)> {
        let (mut segments, mut all, mut refuse) = (Segments::default(), Vec::new(), true);
        let mut tries = 0;
        while !segments.give(frame, &mut offload, accepts, &mut |received| {
            // Every other offer is refused.
            refuse = !refuse;
            if !refuse {
                all.push((received.offload, received.parts.concat()));
            }
            !refuse
        }) {
            tries += 1;
            assert!(tries < 100_000);
        }
        all
    }

    proptest! {
        #[test]
        fn segments_are_the_stream_with_right_checksums(
            version_6 in any::<bool>(),
            payload in proptest::collection::vec(any::<u8>(), 0..5000),
            size in 1u16..2000,
        ) {
            let start = if version_6 { 54 } else { 34 };
            let mut whole = frame(version_6, &payload);
            let segments = collect(&mut whole, offload(version_6, size), Accepts::empty());
            let mut stream: Vec<u8> = Vec::new();
            for (index, (offload, segment)) in segments.iter().enumerate() {
                prop_assert_eq!(*offload, Offload { valid: true, ..Offload::NONE });
                let body = &segment[start..];
                let addresses = if version_6 { &segment[22..54] } else { &segment[26..34] };
                let pseudo = checksum::pseudo_header(addresses, 6, body.len() as u16);
                prop_assert_eq!(checksum::add(pseudo, body), 0xffff);
                if !version_6 {
                    prop_assert_eq!(checksum::add(0, &segment[14..34]), 0xffff);
                    prop_assert_eq!(&segment[16..18], &((segment.len() - 14) as u16).to_be_bytes());
                }
                let sequence = u32::from_be_bytes(segment[start + 4..start + 8].try_into().unwrap());
                prop_assert_eq!(sequence, 0xffff_fff0u32.wrapping_add(stream.len() as u32));
                let last = index + 1 == segments.len();
                prop_assert_eq!(segment[start + 13], if last { 0x19 } else { 0x10 });
                stream.extend(&segment[start + 20..]);
            }
            prop_assert_eq!(stream, payload);
        }

        #[test]
        fn nonsense_is_dropped_or_passed_but_nothing_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            header in any::<[u8; crate::HEADER_LENGTH]>(),
            accepts in any::<u8>(),
        ) {
            let mut bytes = bytes;
            let offload = Offload::from_header(&header);
            collect(&mut bytes, offload, Accepts::from_bits_truncate(accepts));
        }
    }

    #[test]
    fn what_an_adapter_takes_is_not_touched() {
        let mut whole = frame(false, &[7; 3000]);
        let before = whole.clone();
        let offload = offload(false, 1460);
        let all = collect(&mut whole, offload, Accepts::all());
        assert_eq!(all, [(offload, before)]);
        let all = collect(&mut whole, offload, Accepts::CHECKSUM);
        let lengths: Vec<_> = all.iter().map(|(_, segment)| segment.len() - 54).collect();
        assert_eq!(lengths, [1460, 1460, 80]);
        assert!(all.iter().all(|(offload, _)| offload.checksum.is_some()));
    }
}
