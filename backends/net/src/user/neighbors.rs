//! Who is where on the cable: ARP, and neighbour discovery with router advertisements (RFC 4861).

use super::exchange::Exchange;
use super::link::{Cable, send_packet};
use super::plan;
use crate::checksum;
use crate::{ETHERNET_HEADER, MacAddress};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol,
    NdiscNeighborFlags, NdiscRepr,
};
use std::net::{IpAddr, Ipv6Addr};

/// Kind of an Ethernet frame: ARP.
pub(super) const ARP: u16 = 0x0806;
/// All hosts on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Neighbour discovery never leaves the link: the hop limit shows that it has not.
const HOP_LIMIT: u8 = 255;

/// Answers an ARP message.
pub(super) fn arp(exchange: &Exchange, cable: &Cable, message: &[u8]) {
    let Ok(packet) = ArpPacket::new_checked(message) else { return };
    let Ok(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        return;
    };
    if !plan::is_own(target_protocol_addr.into()) {
        return;
    }
    let answer = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(cable.gateway.0),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let mut frame = exchange.frame(ETHERNET_HEADER + answer.buffer_len());
    let (header, rest) = frame.bytes_mut().split_at_mut(ETHERNET_HEADER);
    header.copy_from_slice(&cable.header(ARP));
    answer.emit(&mut ArpPacket::new_unchecked(rest));
    exchange.push(frame);
}

/// Answers a neighbour discovery message.
pub(super) fn discovery(
    exchange: &Exchange,
    cable: &Cable,
    mtu: u16,
    source: Ipv6Addr,
    message: &NdiscRepr<'_>,
) {
    match *message {
        NdiscRepr::NeighborSolicit { target_addr, .. } if plan::is_own(target_addr.into()) => {
            // One that looks whether its own address is free has none to be answered at.
            let to = if source.is_unspecified() { ALL_NODES } else { source };
            advertise(exchange, cable, target_addr, to, !source.is_unspecified());
        }
        NdiscRepr::RouterSolicit { .. } => advertise_router(exchange, cable, mtu),
        _ => {}
    }
}

fn advertise(exchange: &Exchange, cable: &Cable, address: Ipv6Addr, to: Ipv6Addr, solicited: bool) {
    let mut flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::SOLICITED, solicited);
    let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags,
        target_addr: address,
        lladdr: Some(EthernetAddress(cable.gateway.0).into()),
    });
    let ends = (IpAddr::V6(address), IpAddr::V6(to));
    let length = repr.buffer_len();
    send_packet(exchange, cable, ends, IpProtocol::Icmpv6, length, HOP_LIMIT, |bytes| {
        let mut packet = Icmpv6Packet::new_unchecked(bytes);
        repr.emit(&address, &to, &mut packet, &Default::default());
    });
}

/// Says what the network's prefix, router and name server are. The name server is an option (RFC
/// 8106) that the stack's library does not know, so the message is written here.
fn advertise_router(exchange: &Exchange, cable: &Cable, mtu: u16) {
    /// Seconds for which the prefix is good, and of them for new connections.
    const VALID: u32 = 86_400;
    const PREFERRED: u32 = 14_400;
    /// Seconds for which the router is one.
    const ROUTER: u16 = 9000;
    let mut message = vec![134, 0, 0, 0, 64, 0];
    message.extend(ROUTER.to_be_bytes());
    message.extend([0; 8]);
    // The router's address on the link.
    message.extend([1, 1]);
    message.extend(cable.gateway.0);
    message.extend([5, 1, 0, 0]);
    message.extend(u32::from(mtu).to_be_bytes());
    // The prefix: on the link, and hosts may make addresses of it.
    message.extend([3, 4, 64, 0xc0]);
    message.extend(VALID.to_be_bytes());
    message.extend(PREFERRED.to_be_bytes());
    message.extend([0; 4]);
    message.extend(plan::PREFIX_V6.octets());
    // The name server.
    message.extend([25, 3, 0, 0]);
    message.extend(VALID.to_be_bytes());
    message.extend(plan::RESOLVER_V6.octets());
    let mut addresses = plan::ROUTER_V6.octets().to_vec();
    addresses.extend(ALL_NODES.octets());
    let sum = checksum::pseudo_header(&addresses, 58, message.len() as u16);
    let field = checksum::field(checksum::add(sum, &message));
    message[2..4].copy_from_slice(&field);
    let ends = (IpAddr::V6(plan::ROUTER_V6), IpAddr::V6(ALL_NODES));
    let all = Cable { guest: MacAddress([0x33, 0x33, 0, 0, 0, 1]), ..*cable };
    send_packet(exchange, &all, ends, IpProtocol::Icmpv6, message.len(), HOP_LIMIT, |bytes| {
        bytes.copy_from_slice(&message);
    });
}
