//! Which frames are received (manual, section 3.2.1).

use super::spec::{RAH_VALID, rctl};

/// Addresses.
const ADDRESSES: usize = 16;
/// Words of the tables for groups and VLANs.
const TABLE: usize = 128;

/// Address and VLAN filters.
#[derive(Debug)]
pub(super) struct Filter {
    /// Pairs of low and high words.
    pub(super) addresses: [[u32; 2]; ADDRESSES],
    pub(super) groups: [u32; TABLE],
    pub(super) vlans: [u32; TABLE],
}

impl Filter {
    pub(super) fn new(mac: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = mac;
        let mut addresses = [[0; 2]; ADDRESSES];
        let high = u32::from(u16::from_le_bytes([e, f])) | RAH_VALID;
        addresses[0] = [u32::from_le_bytes([a, b, c, d]), high];
        Self { addresses, groups: [0; TABLE], vlans: [0; TABLE] }
    }

    /// Whether a frame to `address` is received, and whether only a filter that is not exact says
    /// so.
    pub(super) fn takes(&self, address: [u8; 6], control: u32) -> Option<bool> {
        let group = address[0] & 1 != 0;
        if address == [0xff; 6] && control & rctl::BROADCAST != 0 {
            return Some(false);
        }
        let [a, b, c, d, e, f] = address;
        let words = [u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]).into()];
        let exact =
            |[low, high]: &[u32; 2]| high & RAH_VALID != 0 && [*low, high & 0xffff] == words;
        if self.addresses.iter().any(exact) {
            return Some(false);
        }
        let all = if group { rctl::MULTICAST_ALL } else { rctl::UNICAST_ALL };
        if control & all != 0 {
            return Some(false);
        }
        // Twelve of the last sixteen bits, chosen by RCTL.MO, number a bit of the table.
        let shift = [4, 3, 2, 0][(control >> 12 & 3) as usize];
        let hash = usize::from(u16::from_le_bytes([e, f]) >> shift & 0xfff);
        let hit = group && self.groups[hash >> 5] >> (hash & 31) & 1 != 0;
        hit.then_some(true)
    }

    /// Whether frames of VLAN `tag` are received.
    pub(super) fn takes_vlan(&self, tag: u16, control: u32) -> bool {
        let number = usize::from(tag & 0xfff);
        control & rctl::VLAN_FILTER == 0 || self.vlans[number >> 5] >> (number & 31) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_exact_or_hashed() {
        let own = [2, 0x41, 0x6d, 0x62, 0x6f, 0x73];
        let mut filter = Filter::new(own);
        assert_eq!(filter.takes(own, 0), Some(false));
        assert_eq!(filter.takes([2, 0, 0, 0, 0, 1], 0), None);
        assert_eq!(filter.takes([2, 0, 0, 0, 0, 1], rctl::UNICAST_ALL), Some(false));
        assert_eq!(filter.takes([0xff; 6], 0), None);
        assert_eq!(filter.takes([0xff; 6], rctl::BROADCAST), Some(false));
        let group = [0x33, 0x33, 0, 0, 0, 1];
        assert_eq!(filter.takes(group, 0), None);
        filter.groups[0x10 >> 5] |= 1 << 0x10;
        assert_eq!(filter.takes(group, 0), Some(true));
        assert!(filter.takes_vlan(5, 0) && !filter.takes_vlan(5, rctl::VLAN_FILTER));
        filter.vlans[0] |= 1 << 5;
        assert!(filter.takes_vlan(0xf005, rctl::VLAN_FILTER));
    }
}
