//! The addresses of the network, and which addresses of the host stand behind them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The network's IPv4 addresses: 10.0.2.0/24.
pub(super) const NETWORK_V4: [u8; 3] = [10, 0, 2];
/// Bits of the network's part.
pub(super) const PREFIX_V4: u8 = 24;
/// The gateway; connections to it go to the host itself.
pub(super) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The name server.
pub(super) const RESOLVER_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// What the guest gets by DHCP.
pub(super) const GUEST_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// The network's IPv6 prefix, 64 bits.
pub(super) const PREFIX_V6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0);
/// The gateway's global address; connections to it go to the host itself.
pub(super) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);
/// The name server.
pub(super) const RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 3);
/// The gateway as a router.
pub(super) const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// Port of the domain name system.
const DOMAIN: u16 = 53;

/// Whether the gateway answers for `address` itself.
pub(super) fn is_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => [GATEWAY_V4, RESOLVER_V4].contains(&address),
        IpAddr::V6(address) => [GATEWAY_V6, RESOLVER_V6, ROUTER_V6].contains(&address),
    }
}

/// The host's address behind what the guest calls `address`, for anything but names; `None` if
/// there is nothing behind it. The host's loopback interface is behind the gateway only.
pub(super) fn behind(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(GATEWAY_V4) => Some(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(GATEWAY_V6) => Some(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(address) => {
            let nobody = address.octets()[..3] == NETWORK_V4
                || address.is_loopback()
                || address.is_multicast()
                || address.is_broadcast()
                || address.octets()[0] == 0;
            (!nobody).then_some(address.into())
        }
        IpAddr::V6(address) => {
            let nobody = address.segments()[..4] == PREFIX_V6.segments()[..4]
                || address.is_loopback()
                || address.is_multicast()
                || address.is_unspecified()
                || address.is_unicast_link_local()
                // IPv4 in disguise.
                || address.to_ipv4_mapped().is_some();
            (!nobody).then_some(address.into())
        }
    }
}

/// Where a connection or datagram of the guest to `address` goes. `resolver` is the host's name
/// server.
pub(super) fn target(address: SocketAddr, resolver: Option<IpAddr>) -> Option<SocketAddr> {
    let names = [IpAddr::V4(RESOLVER_V4), IpAddr::V6(RESOLVER_V6)].contains(&address.ip());
    let host = if names && address.port() == DOMAIN { resolver } else { behind(address.ip()) };
    host.map(|host| SocketAddr::new(host, address.port()))
}

/// The gateway's address that stands for hosts of the same version as `guest`.
pub(super) fn gateway_for(guest: IpAddr) -> IpAddr {
    if guest.is_ipv4() { GATEWAY_V4.into() } else { GATEWAY_V6.into() }
}

#[cfg(test)]
mod tests {

    #[test]
    fn the_hosts_loopback_is_behind_the_gateway_only() {
        let behind = |text: &str| super::behind(text.parse().unwrap()).map(|ip| ip.to_string());
        assert_eq!(behind("10.0.2.2").as_deref(), Some("127.0.0.1"));
        assert_eq!(behind("fec0::2").as_deref(), Some("::1"));
        assert_eq!(behind("192.0.2.1").as_deref(), Some("192.0.2.1"));
        for nobody in [
            "127.0.0.1",
            "10.0.2.3",
            "10.0.2.77",
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "::1",
            "::",
            "fec0::9",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
        ] {
            assert_eq!(behind(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn names_go_to_the_hosts_resolver() {
        let resolver = Some("192.0.2.53".parse().unwrap());
        let target = |text: &str| super::target(text.parse().unwrap(), resolver);
        assert_eq!(target("10.0.2.3:53"), Some("192.0.2.53:53".parse().unwrap()));
        assert_eq!(target("[fec0::3]:53"), Some("192.0.2.53:53".parse().unwrap()));
        assert_eq!(target("10.0.2.3:80"), None);
        assert_eq!(super::target("10.0.2.3:53".parse().unwrap(), None), None);
    }
}
