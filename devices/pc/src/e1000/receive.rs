//! Receives frames: from the back-end into the buffers of the receive ring.

use super::E1000;
use super::interrupts::Kind;
use super::spec::{RXCSUM_IP, RXCSUM_TRANSPORT, cause, ctrl, rctl, receive};
use ambos_memory::{Bytes, DmaRange, GuestPhysAddr};
use ambos_net::Received;
use std::sync::Arc;

/// Bytes of the shortest frame, without its checksum.
const FRAME_MIN: usize = 60;
/// Bytes of the longest frame that is not a long one, and of the longest of all.
const FRAME_LONG: usize = 1518;
const FRAME_MAX: usize = 16_384;
/// Bytes of a frame's checksum, for which drivers expect room. It is never wrong, so what is there
/// is whatever was there before.
const CRC: usize = 4;
/// Offset of the kind of a frame, and bytes of a VLAN tag there.
const ETHER_TYPE: usize = 12;
const TAG: usize = 4;

impl E1000 {
    /// Bytes of a receive buffer (RCTL.BSIZE).
    fn buffer_size(&self) -> usize {
        let size = 2048 >> (self.rctl >> 16 & 3);
        let extended = self.rctl & rctl::SIZE_EXTENDED != 0;
        // There is no extended size for the largest one.
        if extended && size < 2048 { size * 16 } else { size }
    }

    /// Receives what the back-end has, as long as there are buffers.
    pub(super) fn receive(&mut self) {
        if self.rctl & rctl::ENABLE == 0 || !self.config.is_bus_master() {
            return;
        }
        let network = Arc::clone(&self.network);
        let mut received = false;
        network.receive(&mut |frame| {
            let taken = self.receive_one(frame);
            received |= taken;
            taken
        });
        if received {
            let (delay, limit) = (self.plain(super::register::RDTR), self.receive_limit());
            self.interrupts.raise_later(Kind::Receive, delay & 0xffff, limit);
            self.drive_pin();
        }
    }

    fn receive_limit(&self) -> u32 {
        self.plain(super::register::RADV) & 0xffff
    }

    /// Receives a frame; `false` if there are too few buffers. Frames that the filters do not let
    /// through count as received.
    fn receive_one(&mut self, frame: &Received<'_>) -> bool {
        let [head, body] = frame.parts;
        let Some((to, _)) = head.split_first_chunk::<6>() else { return true };
        let Some(inexact) = self.filter.takes(*to, self.rctl) else { return true };
        let tag = self.vlan_tag(head);
        if tag.is_some_and(|tag| !self.filter.takes_vlan(tag, self.rctl)) {
            return true;
        }
        let stripped = tag.filter(|_| self.ctrl & ctrl::VLAN != 0);
        let parts = match stripped {
            Some(_) => [&head[..ETHER_TYPE], &head[ETHER_TYPE + TAG..], body],
            None => [head, body, &[]],
        };
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let most = match (self.rctl & rctl::LONG != 0, tag) {
            (true, _) => FRAME_MAX,
            (false, Some(_)) if stripped.is_none() => FRAME_LONG + TAG,
            (false, _) => FRAME_LONG,
        };
        if length > most {
            return true;
        }
        let padding = [0; FRAME_MIN];
        let padding = &padding[..FRAME_MIN.saturating_sub(length)];
        let crc = if self.rctl & rctl::STRIP_CRC != 0 { 0 } else { CRC };
        let total = length + padding.len();

        let size = self.buffer_size();
        let needed = (total + crc).div_ceil(size) as u32;
        if needed >= self.rx.entries().max(1) {
            return self.rx.entries() > 0;
        }
        if self.rx.available() < needed {
            return false;
        }
        let mut status = receive::DONE;
        if inexact {
            status |= receive::OTHER_ADDRESS;
        }
        if stripped.is_some() {
            status |= receive::VLAN;
        }
        status |= self.checksum_status(frame, head, tag.is_some());
        let special = u64::from(stripped.unwrap_or(0)) << 48;
        let mut source = [parts[0], parts[1], parts[2], padding].into_iter();
        let mut rest: &[u8] = &[];
        for left in (0..needed).rev() {
            let index = self.rx.head;
            let [low, high, ..] = self.rx.read(&self.ram, index);
            let address = u64::from(high) << 32 | u64::from(low);
            // The frame's own bytes, and what is left of the checksum's.
            let before = size * (needed - 1 - left) as usize;
            let here = (total + crc - before).min(size);
            self.fill(address, here.min(total.saturating_sub(before)), &mut rest, &mut source);
            let end = if left == 0 { receive::END } else { 0 };
            let word = here as u64 | u64::from(status | end) << 32 | special;
            self.rx.write_back(&self.ram, index, word);
            self.rx.head = self.rx.after(index);
        }
        self.statistics.received(total, *to);
        let threshold = self.rx.entries() >> (1 + (self.rctl >> 8 & 3).min(2));
        let available = self.rx.available();
        if available <= threshold && available + needed > threshold {
            self.interrupts.raise(cause::RXDMT0);
        }
        true
    }

    /// The VLAN tag of a frame, if it has one.
    fn vlan_tag(&self, head: &[u8]) -> Option<u16> {
        let (kind, rest) = head.get(ETHER_TYPE..)?.split_first_chunk::<2>()?;
        let tag = rest.first_chunk::<2>()?;
        let tagged = u32::from(u16::from_be_bytes(*kind)) == self.plain(super::register::VET);
        tagged.then(|| u16::from_be_bytes(*tag))
    }

    /// What the status says of a frame's checksums: that they are right, or nothing.
    fn checksum_status(&self, frame: &Received<'_>, head: &[u8], tagged: bool) -> u8 {
        let network = ETHER_TYPE + 2 + if tagged { TAG } else { 0 };
        let version_4 = head.get(network - 2..network) == Some(&[8, 0]);
        let protocol = head.get(network + 9).copied();
        let enabled = self.plain(super::register::RXCSUM);
        if !frame.offload.valid || !version_4 || !matches!(protocol, Some(6 | 17)) {
            return receive::IGNORE_CHECKSUM;
        }
        let mut status = 0;
        if enabled & RXCSUM_IP != 0 {
            status |= receive::IP_CHECKED;
        }
        if enabled & RXCSUM_TRANSPORT != 0 {
            status |= receive::TRANSPORT_CHECKED;
        }
        if status == 0 { receive::IGNORE_CHECKSUM } else { status }
    }

    /// Copies `length` bytes from `source` to guest memory at `address`: the only copy that is made
    /// here, because where a frame goes is known only now.
    fn fill<'a>(
        &self,
        address: u64,
        length: usize,
        rest: &mut &'a [u8],
        source: &mut impl Iterator<Item = &'a [u8]>,
    ) {
        let mut done = 0;
        while done < length {
            if rest.is_empty() {
                let Some(next) = source.next() else { break };
                *rest = next;
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(length - done));
            let place = GuestPhysAddr(address.wrapping_add(done as u64));
            // A buffer that is not in memory is the driver's mistake; the data go nowhere.
            let _ = self.ram.memory().write_slice(now, place);
            done += now.len();
            *rest = later;
        }
        self.ram.device_wrote(&[DmaRange { address, length: done as u32 }]);
    }
}
