//! Which frames an adapter takes from its network.

use super::spec::control;
use ambos_net::MacAddress;

/// Addresses that are remembered of each list; with more, everything of the kind is taken.
const TABLE_MAX: usize = 64;

/// A list of addresses.
#[derive(Debug, Clone, Default)]
struct Table {
    addresses: Vec<[u8; 6]>,
    overflow: bool,
}

impl Table {
    fn contains(&self, address: &[u8; 6]) -> bool {
        self.overflow || self.addresses.contains(address)
    }

    /// Reads a list with its number of entries; returns what follows it.
    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (count, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(6)?;
        let (addresses, rest) = rest.split_at_checked(length)?;
        let addresses = addresses.as_chunks::<6>().0;
        let table = if addresses.len() > TABLE_MAX {
            Self { addresses: Vec::new(), overflow: true }
        } else {
            Self { addresses: addresses.to_vec(), overflow: false }
        };
        Some((table, rest))
    }
}

/// The filter as the driver has set it.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    mac: [u8; 6],
    promiscuous: bool,
    all_multicast: bool,
    all_unicast: bool,
    no_multicast: bool,
    no_unicast: bool,
    no_broadcast: bool,
    unicast: Table,
    multicast: Table,
}

impl Filter {
    /// As after a reset: multicast is taken until the driver says what of it.
    pub(super) fn new(mac: MacAddress) -> Self {
        Self {
            mac: mac.0,
            promiscuous: false,
            all_multicast: true,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            unicast: Table::default(),
            multicast: Table::default(),
        }
    }

    pub(super) fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Whether a frame that begins with `header` is taken.
    pub(super) fn takes(&self, header: &[u8]) -> bool {
        let Some(to) = header.first_chunk::<6>() else { return false };
        if self.promiscuous {
            true
        } else if *to == [0xff; 6] {
            !self.no_broadcast
        } else if to[0] & 1 != 0 {
            !self.no_multicast && (self.all_multicast || self.multicast.contains(to))
        } else {
            let wanted = *to == self.mac || self.all_unicast || self.unicast.contains(to);
            !self.no_unicast && wanted
        }
    }

    /// Does a command of the control queue; `false` if it is none or malformed.
    pub(super) fn command(&mut self, command: (u8, u8), data: &[u8]) -> bool {
        let switch = match command {
            control::PROMISCUOUS => &mut self.promiscuous,
            control::ALL_MULTICAST => &mut self.all_multicast,
            control::ALL_UNICAST => &mut self.all_unicast,
            control::NO_MULTICAST => &mut self.no_multicast,
            control::NO_UNICAST => &mut self.no_unicast,
            control::NO_BROADCAST => &mut self.no_broadcast,
            control::MAC_TABLE => return self.set_tables(data).is_some(),
            control::MAC_ADDRESS => {
                let Ok(address) = data.try_into() else { return false };
                self.mac = address;
                return true;
            }
            _ => return false,
        };
        let &[value] = data else { return false };
        *switch = value != 0;
        true
    }

    fn set_tables(&mut self, data: &[u8]) -> Option<()> {
        let (unicast, rest) = Table::parse(data)?;
        let (multicast, _) = Table::parse(rest)?;
        (self.unicast, self.multicast) = (unicast, multicast);
        // A driver that names groups wants those.
        self.all_multicast = false;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_says_what_is_taken() {
        let own = MacAddress([2, 0, 0, 0, 0, 1]);
        let mut filter = Filter::new(own);
        let (other, group) = ([2, 0, 0, 0, 0, 2], [0x33, 0x33, 0, 0, 0, 1]);
        let taken = |filter: &Filter| {
            [own.0, other, group, [0xff; 6]].map(|address| filter.takes(&address))
        };
        assert_eq!(taken(&filter), [true, false, true, true]);
        let mut table = vec![0, 0, 0, 0, 1, 0, 0, 0];
        table.extend([0x33, 0x33, 0, 0, 0, 2]);
        assert!(filter.command(control::MAC_TABLE, &table));
        assert_eq!(taken(&filter), [true, false, false, true]);
        assert!(filter.command(control::PROMISCUOUS, &[1]));
        assert_eq!(taken(&filter), [true; 4]);
        assert!(filter.command(control::PROMISCUOUS, &[0]));
        assert!(filter.command(control::MAC_ADDRESS, &other));
        assert_eq!(taken(&filter), [false, true, false, true]);
        assert!(!filter.command(control::MAC_TABLE, &[9, 0, 0, 0, 1]));
        assert!(!filter.command(control::PROMISCUOUS, &[]));
        assert!(!filter.command((9, 9), &[0]));
    }
}
