//! The stack's end of the cable: packets of the IP stack become frames, and the reverse.

use super::exchange::{Exchange, Frame};
use crate::offload::{Checksum, Offload, SegmentKind, Segmentation};
use crate::{ETHERNET_HEADER, MacAddress, checksum};
use smoltcp::phy::{
    Checksum as Sums, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken,
};
use smoltcp::time::Instant;
use smoltcp::wire::{IpProtocol, IpRepr};
use std::net::IpAddr;
use std::num::NonZeroUsize;

/// Bytes of the largest packet that a packet of the stack may stand for.
const LARGE: usize = 65_535;

/// Both ends' addresses on the cable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cable {
    pub(super) guest: MacAddress,
    pub(super) gateway: MacAddress,
}

impl Cable {
    /// The header of a frame to the guest with a payload of kind `ether_type`.
    pub(super) fn header(&self, ether_type: u16) -> [u8; ETHERNET_HEADER] {
        let mut header = [0; ETHERNET_HEADER];
        header[..6].copy_from_slice(&self.guest.0);
        header[6..12].copy_from_slice(&self.gateway.0);
        header[12..].copy_from_slice(&ether_type.to_be_bytes());
        header
    }

    /// The header of a frame with the IP packet `packet`.
    fn header_of(&self, packet: &[u8]) -> [u8; ETHERNET_HEADER] {
        let version = packet.first().map_or(4, |first| first >> 4);
        self.header(if version == 6 { 0x86dd } else { 0x0800 })
    }
}

/// Sends the guest an IP packet of `protocol` with `length` bytes that `fill` writes.
pub(super) fn send_packet(
    exchange: &Exchange,
    cable: &Cable,
    (source, destination): (IpAddr, IpAddr),
    protocol: IpProtocol,
    length: usize,
    hop_limit: u8,
    fill: impl FnOnce(&mut [u8]),
) {
    if source.is_ipv4() != destination.is_ipv4() {
        return;
    }
    let repr = IpRepr::new(source.into(), destination.into(), protocol, length, hop_limit);
    let header = repr.header_len();
    let total = ETHERNET_HEADER + header + length;
    if header + length > LARGE {
        return;
    }
    let mut frame = exchange.frame(total);
    let (ethernet, packet) = frame.bytes_mut().split_at_mut(ETHERNET_HEADER);
    repr.emit(&mut packet[..], &Default::default());
    fill(&mut packet[header..]);
    ethernet.copy_from_slice(&cable.header_of(packet));
    exchange.push(frame);
}

/// The device that the IP stack sees while it works.
pub(super) struct Link<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) cable: Cable,
    pub(super) mtu: u16,
    /// The packet of the guest that the stack is to look at.
    pub(super) received: Option<&'a [u8]>,
}

impl Device for Link<'_> {
    type RxToken<'b>
        = Packet<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Sender<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Packet<'_>, Sender<'_>)> {
        let packet = Packet(self.received.take()?);
        Some((packet, Sender::new(self.exchange, self.cable)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_>> {
        self.exchange.has_room().then(|| Sender::new(self.exchange, self.cable))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu.into();
        // Nothing gets lost on this cable. What goes to the guest gets its checksum from the
        // adapter, or on the way there.
        capabilities.checksum.ipv4 = Sums::Tx;
        capabilities.checksum.tcp = Sums::None;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(LARGE);
        // Of IPv6 the library makes large packets, but drops them before they come here.
        capabilities.segmentation.tcpv6 = None;
        capabilities
    }
}

/// A packet of the guest.
pub(super) struct Packet<'a>(&'a [u8]);

impl RxToken for Packet<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for a packet to the guest.
pub(super) struct Sender<'a> {
    exchange: &'a Exchange,
    cable: Cable,
    segment: Option<u16>,
}

impl<'a> Sender<'a> {
    fn new(exchange: &'a Exchange, cable: Cable) -> Self {
        Self { exchange, cable, segment: None }
    }
}

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = self.exchange.frame(ETHERNET_HEADER + len);
        let (ethernet, packet) = frame.bytes_mut().split_at_mut(ETHERNET_HEADER);
        let result = f(packet);
        ethernet.copy_from_slice(&self.cable.header_of(packet));
        begin_checksum(&mut frame, self.segment);
        self.exchange.push(frame);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size.map(Into::into);
    }
}

/// Begins the checksum of a packet of TCP and says what is left to do.
fn begin_checksum(frame: &mut Frame, segment: Option<u16>) {
    const TCP: u8 = 6;
    let bytes = frame.bytes_mut();
    let packet = &mut bytes[ETHERNET_HEADER..];
    let version = packet.first().map_or(0, |first| first >> 4);
    let (transport, protocol, addresses, kind) = match version {
        4 if packet.len() >= 20 => (20, packet[9], 12..20, SegmentKind::TcpV4),
        6 if packet.len() >= 40 => (40, packet[6], 8..40, SegmentKind::TcpV6),
        _ => return,
    };
    if protocol != TCP || packet.len() < transport + 20 {
        return;
    }
    let length = (packet.len() - transport) as u16;
    let sum = checksum::pseudo_header(&packet[addresses], TCP, length);
    packet[transport + 16..transport + 18].copy_from_slice(&sum.to_be_bytes());
    let header = usize::from(packet[transport + 12] >> 4) * 4;
    let start = (ETHERNET_HEADER + transport) as u16;
    frame.offload = Offload {
        checksum: Some(Checksum { start, offset: 16 }),
        valid: false,
        segmentation: segment.map(|size| Segmentation {
            kind,
            ecn: false,
            size,
            header: start + header as u16,
        }),
    };
}
