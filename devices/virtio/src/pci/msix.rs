//! The table of messages of an MSI-X capability.

use ambos_device::MsiMessage;

/// Bytes of an entry.
const ENTRY: u64 = 16;
/// Vector control: masked.
const MASKED: u32 = 1;

/// A message, and whether it may be sent.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Address (two words), data, vector control.
    words: [u32; 4],
    pending: bool,
}

impl Entry {
    fn message(&self) -> MsiMessage {
        let [low, high, data, _] = self.words;
        MsiMessage { address: u64::from(high) << 32 | u64::from(low), data }
    }
}

/// The table and the bits of pending messages.
#[derive(Debug)]
pub(super) struct MessageTable(Vec<Entry>);

impl MessageTable {
    /// A table of `entries` masked messages.
    pub(super) fn new(entries: usize) -> Self {
        Self(vec![Entry { words: [0, 0, 0, MASKED], pending: false }; entries])
    }

    /// How many messages there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A word of the table; zero past its end.
    pub(super) fn read(&self, offset: u64) -> u32 {
        let entry = usize::try_from(offset / ENTRY).ok().and_then(|index| self.0.get(index));
        entry.map_or(0, |entry| entry.words[(offset % ENTRY / 4) as usize])
    }

    /// Writes a word of the table; what is past its end is ignored.
    pub(super) fn write(&mut self, offset: u64, value: u32) {
        let entry = usize::try_from(offset / ENTRY).ok().and_then(|index| self.0.get_mut(index));
        if let Some(entry) = entry {
            entry.words[(offset % ENTRY / 4) as usize] = value;
        }
    }

    /// A word of the pending bits.
    pub(super) fn pending(&self, offset: u64) -> u32 {
        let first = usize::try_from(offset).map_or(usize::MAX, |offset| offset.saturating_mul(8));
        let bits = self.0.iter().skip(first).take(32).enumerate();
        bits.fold(0, |word, (bit, entry)| word | u32::from(entry.pending) << bit)
    }

    /// The message to send for `vector` now; if it is `masked`, it is pending instead.
    pub(super) fn signal(&mut self, vector: u16, masked: bool) -> Option<MsiMessage> {
        let entry = self.0.get_mut(usize::from(vector))?;
        entry.pending = masked || entry.words[3] & MASKED != 0;
        (!entry.pending).then(|| entry.message())
    }

    /// Messages that were pending and are not masked any more.
    pub(super) fn released(&mut self) -> Vec<MsiMessage> {
        let free = |entry: &&mut Entry| entry.pending && entry.words[3] & MASKED == 0;
        let released = self.0.iter_mut().filter(free).map(|entry| {
            entry.pending = false;
            entry.message()
        });
        released.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_messages_wait() {
        let mut table = MessageTable::new(3);
        for (offset, value) in [(16, 0xfee0_1000), (20, 0), (24, 0x41)] {
            table.write(offset, value);
        }
        assert_eq!(table.signal(1, false), None);
        assert_eq!((table.pending(0), table.read(28)), (2, 1));
        assert!(table.released().is_empty());
        table.write(28, 0);
        let message = MsiMessage { address: 0xfee0_1000, data: 0x41 };
        assert_eq!(table.released(), [message]);
        assert_eq!(table.pending(0), 0);
        assert_eq!(table.signal(1, false), Some(message));
        assert_eq!(table.signal(1, true), None);
        assert_eq!(table.signal(3, false), None);
        table.write(u64::MAX, 1);
        assert_eq!((table.read(48), table.pending(u64::MAX)), (0, 0));
    }
}
