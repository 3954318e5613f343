//! The host's name server.

use std::net::IpAddr;

/// Where the host says which name servers it asks.
const CONFIGURATION: &str = "/etc/resolv.conf";

/// The first name server that the host asks.
pub(super) fn find() -> Option<IpAddr> {
    parse(&std::fs::read_to_string(CONFIGURATION).ok()?)
}

fn parse(text: &str) -> Option<IpAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    servers.filter_map(|server| server.parse().ok()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_server_that_is_an_address_counts() {
        let text = "# nameserver 192.0.2.1\nsearch x\nnameserver fe80::1%eth0\nnameserver\t192.0.2.2\nnameserver ::1";
        assert_eq!(parse(text), Some("192.0.2.2".parse().unwrap()));
        assert_eq!(parse("options edns0"), None);
    }
}
