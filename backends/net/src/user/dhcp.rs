//! The DHCP server (RFC 2131): one address for the one guest there is.

use super::plan;
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, Ipv4Address};
use std::net::Ipv4Addr;

/// The server's port.
pub(super) const SERVER: u16 = 67;
/// The client's port.
pub(super) const CLIENT: u16 = 68;
/// The lease, in seconds: a day.
const LEASE: u32 = 86_400;
/// Bytes of the smallest message that all clients understand.
const MESSAGE_MIN: usize = 300;

/// What to answer a client's message; where it goes, and the message.
pub(super) fn answer(message: &[u8], mtu: u16) -> Option<(Ipv4Addr, Vec<u8>)> {
    let packet = DhcpPacket::new_checked(message).ok()?;
    let asked = DhcpRepr::parse(&packet).ok()?;
    if asked.server_identifier.is_some_and(|server| server != plan::GATEWAY_V4) {
        return None;
    }
    let informed = asked.message_type == DhcpMessageType::Inform;
    let kind = match asked.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Inform => DhcpMessageType::Ack,
        DhcpMessageType::Request => {
            let client = Some(asked.client_ip).filter(|address| !address.is_unspecified());
            let wanted = asked.requested_ip.or(client);
            if wanted == Some(plan::GUEST_V4) { DhcpMessageType::Ack } else { DhcpMessageType::Nak }
        }
        _ => return None,
    };
    let given = kind != DhcpMessageType::Nak;
    let lease = (given && !informed).then_some(LEASE);
    let nobody = Ipv4Address::UNSPECIFIED;
    let mtu = mtu.to_be_bytes();
    let options = [DhcpOption { kind: 26, data: &mtu }];
    let mask = Ipv4Addr::from(u32::MAX << (32 - plan::PREFIX_V4));
    let mut repr = DhcpRepr {
        message_type: kind,
        transaction_id: asked.transaction_id,
        secs: 0,
        client_hardware_address: asked.client_hardware_address,
        client_ip: if informed { asked.client_ip } else { nobody },
        your_ip: if lease.is_some() { plan::GUEST_V4 } else { nobody },
        server_ip: nobody,
        router: given.then_some(plan::GATEWAY_V4),
        subnet_mask: given.then_some(mask),
        relay_agent_ip: nobody,
        broadcast: asked.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(plan::GATEWAY_V4),
        parameter_request_list: None,
        dns_servers: given.then(Default::default),
        max_size: None,
        lease_duration: lease,
        renew_duration: None,
        rebind_duration: None,
        additional_options: if given { &options } else { &[] },
    };
    if let Some(servers) = &mut repr.dns_servers {
        servers.push(plan::RESOLVER_V4).ok()?;
    }
    let mut answer = vec![0; repr.buffer_len().max(MESSAGE_MIN)];
    repr.emit(&mut DhcpPacket::new_unchecked(&mut answer[..])).ok()?;
    // Clients that have no address yet may not understand anything but a broadcast.
    let to = if informed { asked.client_ip } else { Ipv4Addr::BROADCAST };
    Some((to, answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::wire::EthernetAddress;

    fn ask(kind: DhcpMessageType, wanted: Option<Ipv4Addr>) -> Vec<u8> {
        let nobody = Ipv4Address::UNSPECIFIED;
        let repr = DhcpRepr {
            message_type: kind,
            transaction_id: 7,
            secs: 0,
            client_hardware_address: EthernetAddress([2, 1, 2, 3, 4, 5]),
            client_ip: nobody,
            your_ip: nobody,
            server_ip: nobody,
            router: None,
            subnet_mask: None,
            relay_agent_ip: nobody,
            broadcast: false,
            requested_ip: wanted,
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut message = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut message[..])).unwrap();
        message
    }

    fn answered(message: &[u8]) -> (DhcpMessageType, Ipv4Addr) {
        let (to, answer) = answer(message, 1500).unwrap();
        assert_eq!(to, Ipv4Addr::BROADCAST);
        let packet = DhcpPacket::new_checked(&answer[..]).unwrap();
        let repr = DhcpRepr::parse(&packet).unwrap();
        assert_eq!((repr.transaction_id, repr.server_identifier), (7, Some(plan::GATEWAY_V4)));
        (repr.message_type, repr.your_ip)
    }

    #[test]
    fn the_guest_gets_its_address_and_no_other() {
        let discover = ask(DhcpMessageType::Discover, None);
        assert_eq!(answered(&discover), (DhcpMessageType::Offer, plan::GUEST_V4));
        let request = ask(DhcpMessageType::Request, Some(plan::GUEST_V4));
        assert_eq!(answered(&request), (DhcpMessageType::Ack, plan::GUEST_V4));
        let other = ask(DhcpMessageType::Request, Some(Ipv4Addr::new(192, 168, 0, 9)));
        assert_eq!(answered(&other).0, DhcpMessageType::Nak);
        assert_eq!(answer(&ask(DhcpMessageType::Release, None), 1500), None);
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut message = ask(DhcpMessageType::Request, Some(plan::GUEST_V4));
            for (at, byte) in bytes.iter().enumerate() {
                if let Some(place) = message.get_mut(at * 3) && byte % 4 == 0 {
                    *place = *byte;
                }
            }
            let _ = (answer(&message, 1500), answer(&bytes, 1500));
        }
    }
}
