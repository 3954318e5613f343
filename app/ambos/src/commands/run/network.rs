//! The argument that describes the network.

use crate::failure::Failure;
use ambos_net::{Forward, MacAddress, Protocol, TapNet, UserNet, UserOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// What a guest's network adapter is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    /// A network of its own behind address translation.
    User { forwards: Vec<Forward>, mac: MacAddress, mtu: u16 },
    /// An interface of the host.
    Tap { name: String, mac: MacAddress },
    /// Nothing: there is no adapter.
    None,
}

/// Sizes of packets that the adapters carry and the protocols allow.
const MTU_RANGE: std::ops::RangeInclusive<u16> = 1280..=16_110;

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        let mut network = match kind.split_once('=') {
            None if kind == "user" => {
                Self::User { forwards: Vec::new(), mac: MacAddress::DEFAULT, mtu: UserOptions::MTU }
            }
            None if kind == "none" => Self::None,
            Some(("tap", name)) if !name.is_empty() && name.len() < 16 => {
                Self::Tap { name: name.to_owned(), mac: MacAddress::DEFAULT }
            }
            Some(("tap", _)) => return Err("the name of an interface has 1 to 15 bytes".to_owned()),
            _ => return Err(format!("there is no network \"{kind}\" (user, tap=NAME, none)")),
        };
        for option in parts {
            match (&mut network, option.split_once('=')) {
                (Self::User { forwards, .. }, Some(("forward", value))) => {
                    forwards.push(forward(value)?);
                }
                (Self::User { mac, .. } | Self::Tap { mac, .. }, Some(("mac", value))) => {
                    *mac = address(value)?;
                }
                (Self::User { mtu, .. }, Some(("mtu", value))) => {
                    let number = value.parse().ok().filter(|mtu| MTU_RANGE.contains(mtu));
                    *mtu = number.ok_or_else(|| {
                        format!("mtu is {} to {}", MTU_RANGE.start(), MTU_RANGE.end())
                    })?;
                }
                _ if option.is_empty() => {
                    return Err("an option is missing after a comma".to_owned());
                }
                (network, _) => {
                    let options = network.options();
                    return Err(format!("{kind} has no option \"{option}\" ({options})"));
                }
            }
        }
        Ok(network)
    }
}

/// Reads `[tcp:|udp:][ADDRESS:]HOST:GUEST`.
fn forward(text: &str) -> Result<Forward, String> {
    let wrong = || {
        format!(
            "\"{text}\" is not [tcp:|udp:][ADDRESS:]HOSTPORT:GUESTPORT with an address in numbers \
             and ports up to 65535"
        )
    };
    let (protocol, rest) = match (text.strip_prefix("udp:"), text.strip_prefix("tcp:")) {
        (Some(rest), _) => (Protocol::Udp, rest),
        (None, Some(rest)) => (Protocol::Tcp, rest),
        (None, None) => (Protocol::Tcp, text),
    };
    let (host, guest) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let guest = guest.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    let (ip, port) = match host.rsplit_once(':') {
        Some((ip, port)) => {
            let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
            (ip.parse::<IpAddr>().map_err(|_| wrong())?, port)
        }
        // Nobody but this host reaches the guest unless that is asked for.
        None => (Ipv4Addr::LOCALHOST.into(), host),
    };
    let port = port.parse().map_err(|_| wrong())?;
    Ok(Forward { protocol, host: SocketAddr::new(ip, port), guest })
}

fn address(text: &str) -> Result<MacAddress, String> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Option<Vec<u8>> = bytes.map(Result::ok).collect();
    let mac = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    // A group cannot be an adapter's address.
    let mac = mac.filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6]);
    mac.map(MacAddress).ok_or_else(|| {
        format!("\"{text}\" is not the address of one adapter, such as 02:00:00:00:00:01")
    })
}

impl Network {
    /// The options that it has.
    fn options(&self) -> &'static str {
        match self {
            Self::User { .. } => "forward=..., mtu=..., mac=...",
            Self::Tap { .. } => "mac=...",
            Self::None => "none at all",
        }
    }

    /// Connects to the network.
    pub(super) fn open(&self) -> Result<Option<ambos_machine::Network>, Failure> {
        Ok(match self {
            Self::None => None,
            Self::User { forwards, mac, mtu } => {
                let options = UserOptions { mac: *mac, mtu: *mtu, forwards: forwards.clone() };
                let network = UserNet::new(&options)
                    .map_err(|error| Failure::usage_because("the network cannot be used", error))?;
                for address in network.listening() {
                    tracing::info!(%address, "forwarded to the guest");
                }
                Some(ambos_machine::Network { backend: Arc::new(network), mac: *mac })
            }
            Self::Tap { name, mac } => {
                let network = TapNet::new(name)
                    .map_err(|error| Failure::usage_because("the network cannot be used", error))?;
                Some(ambos_machine::Network { backend: Arc::new(network), mac: *mac })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Network, String> {
        text.parse()
    }

    #[test]
    fn forwards_are_bound_to_loopback_unless_asked() {
        let Network::User { forwards, .. } =
            parse("user,forward=8080:80,forward=udp:0.0.0.0:53:5353,forward=[::1]:1:2").unwrap()
        else {
            panic!("not the user's network");
        };
        let shown: Vec<_> = forwards
            .iter()
            .map(|forward| (forward.protocol, forward.host.to_string(), forward.guest))
            .collect();
        assert_eq!(
            shown,
            [
                (Protocol::Tcp, "127.0.0.1:8080".to_owned(), 80),
                (Protocol::Udp, "0.0.0.0:53".to_owned(), 5353),
                (Protocol::Tcp, "[::1]:1".to_owned(), 2),
            ]
        );
    }

    #[test]
    fn kinds_have_their_options() {
        let mac = MacAddress([2, 0, 0, 0, 0, 0xa]);
        let tap = Network::Tap { name: "tap0".to_owned(), mac };
        assert_eq!(parse("tap=tap0,mac=02:00:00:00:00:0a"), Ok(tap));
        assert_eq!(parse("none"), Ok(Network::None));
        assert!(matches!(parse("user,mtu=9000"), Ok(Network::User { mtu: 9000, .. })));
        for nonsense in [
            "",
            "bridge",
            "tap",
            "tap=",
            "tap=a-name-too-long-for-linux",
            "none,mac=02:00:00:00:00:01",
            "user,forward=80",
            "user,forward=80:0",
            "user,forward=x:80",
            "user,forward=1.2.3:1:2",
            "user,mac=01:00:00:00:00:01",
            "user,mac=2",
            "user,mtu=100",
            "tap=t,mtu=9000",
            "user,",
        ] {
            assert!(parse(nonsense).is_err(), "{nonsense}");
        }
    }
}
