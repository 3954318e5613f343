//! Counters that reading clears (manual, section 13.7).

use super::spec::register::STATISTICS;

/// Offsets of the counters that count something here. The two halves of a large counter are
/// neighbours.
mod counter {
    /// Frames received and sent, by length: 64 bytes, up to 127, 255, 511, 1023, and more.
    pub(super) const RECEIVED_64: usize = 0x5c;
    pub(super) const SENT_64: usize = 0xd8;
    pub(super) const RECEIVED: usize = 0x74;
    pub(super) const RECEIVED_BROADCAST: usize = 0x78;
    pub(super) const RECEIVED_MULTICAST: usize = 0x7c;
    pub(super) const SENT: usize = 0x80;
    pub(super) const RECEIVED_BYTES: usize = 0x88;
    pub(super) const SENT_BYTES: usize = 0x90;
    pub(super) const TOTAL_RECEIVED_BYTES: usize = 0xc0;
    pub(super) const TOTAL_SENT_BYTES: usize = 0xc8;
    pub(super) const TOTAL_RECEIVED: usize = 0xd0;
    pub(super) const TOTAL_SENT: usize = 0xd4;
    pub(super) const SENT_MULTICAST: usize = 0xf0;
    pub(super) const SENT_BROADCAST: usize = 0xf4;
    pub(super) const SEGMENTED: usize = 0xf8;
    /// Where the large counters are.
    pub(super) const LARGE: [usize; 4] =
        [RECEIVED_BYTES, SENT_BYTES, TOTAL_RECEIVED_BYTES, TOTAL_SENT_BYTES];
}

/// All counters, also those of errors that do not happen here.
#[derive(Debug)]
pub(super) struct Statistics {
    counters: [u32; 64],
}

/// Bytes of a frame's checksum, which counters count.
const CRC: usize = 4;

impl Statistics {
    pub(super) fn new() -> Self {
        Self { counters: [0; 64] }
    }

    /// Reads a counter, which clears it; reading the upper half of a large one clears both.
    pub(super) fn take(&mut self, offset: u32) -> u32 {
        let index = (offset.wrapping_sub(STATISTICS) / 4) as usize % 64;
        let large = counter::LARGE.iter().find(|low| **low / 4 == index || **low / 4 + 1 == index);
        match large {
            Some(low) if low / 4 == index => self.counters[index],
            Some(_) => {
                self.counters[index - 1] = 0;
                std::mem::take(&mut self.counters[index])
            }
            None => std::mem::take(&mut self.counters[index]),
        }
    }

    fn count(&mut self, offset: usize, amount: u32) {
        let counter = &mut self.counters[offset / 4];
        *counter = counter.saturating_add(amount);
    }

    fn count_large(&mut self, offset: usize, amount: usize) {
        let [low, high] = [offset / 4, offset / 4 + 1];
        let before = u64::from(self.counters[high]) << 32 | u64::from(self.counters[low]);
        let now = before.saturating_add(amount as u64);
        (self.counters[low], self.counters[high]) = (now as u32, (now >> 32) as u32);
    }

    /// Counts a frame of `length` bytes to `address` that was received.
    pub(super) fn received(&mut self, length: usize, address: [u8; 6]) {
        let length = length + CRC;
        self.count(counter::RECEIVED, 1);
        self.count(counter::TOTAL_RECEIVED, 1);
        self.count_large(counter::RECEIVED_BYTES, length);
        self.count_large(counter::TOTAL_RECEIVED_BYTES, length);
        self.count(counter::RECEIVED_64 + class(length) * 4, 1);
        if address == [0xff; 6] {
            self.count(counter::RECEIVED_BROADCAST, 1);
        } else if address[0] & 1 != 0 {
            self.count(counter::RECEIVED_MULTICAST, 1);
        }
    }

    /// Counts `frames` frames of `length` bytes together to `address` that were sent.
    pub(super) fn sent(&mut self, frames: usize, length: usize, address: [u8; 6]) {
        let all = length.saturating_add(frames.saturating_mul(CRC));
        let count = u32::try_from(frames).unwrap_or(u32::MAX);
        self.count(counter::SENT, count);
        self.count(counter::TOTAL_SENT, count);
        self.count_large(counter::SENT_BYTES, all);
        self.count_large(counter::TOTAL_SENT_BYTES, all);
        self.count(counter::SENT_64 + class(all / frames.max(1)) * 4, count);
        if address == [0xff; 6] {
            self.count(counter::SENT_BROADCAST, count);
        } else if address[0] & 1 != 0 {
            self.count(counter::SENT_MULTICAST, count);
        }
    }

    /// Counts a large frame that was cut into segments.
    pub(super) fn segmented(&mut self) {
        self.count(counter::SEGMENTED, 1);
    }
}

/// Which of the counters by length counts a frame of `length` bytes.
fn class(length: usize) -> usize {
    [65, 128, 256, 512, 1024].into_iter().position(|limit| length < limit).unwrap_or(5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_clears() {
        let mut statistics = Statistics::new();
        statistics.received(60, [0xff; 6]);
        statistics.sent(2, 3000, [2; 6]);
        assert_eq!([0x4074, 0x4078, 0x405c, 0x4080].map(|at| statistics.take(at)), [1, 1, 1, 2]);
        assert_eq!([0x4074, 0x4078, 0x405c, 0x4080].map(|at| statistics.take(at)), [0; 4]);
        assert_eq!(
            [0x4090, 0x4090, 0x4094, 0x4090].map(|at| statistics.take(at)),
            [3008, 3008, 0, 0]
        );
        assert_eq!(statistics.take(0x40ec), 2);
    }
}
