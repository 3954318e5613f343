//! The EEPROM, a serial one of 64 words behind four wires (Microwire).

use ambos_net::MacAddress;

/// Words.
const WORDS: usize = 64;
/// What all words together give.
const SUM: u16 = 0xbaba;
/// Bits of a command: start, operation code, address.
const COMMAND_BITS: u32 = 9;

/// Bits of EECD.
mod eecd {
    pub(super) const CLOCK: u32 = 1 << 0;
    pub(super) const SELECT: u32 = 1 << 1;
    /// To the memory.
    pub(super) const IN: u32 = 1 << 2;
    /// From the memory.
    pub(super) const OUT: u32 = 1 << 3;
    pub(super) const REQUEST: u32 = 1 << 6;
    pub(super) const GRANT: u32 = 1 << 7;
    pub(super) const PRESENT: u32 = 1 << 8;
    pub(super) const WRITABLE: u32 = CLOCK | SELECT | IN | 0x30 | REQUEST;
}

/// EERD: start, and done.
const START: u32 = 1 << 0;
const DONE: u32 = 1 << 4;

/// The memory, and how far a serial command has come.
#[derive(Debug)]
pub(super) struct Eeprom {
    words: [u16; WORDS],
    wires: u32,
    /// Bits of the command so far; `None` until the start bit.
    command: Option<(u32, u32)>,
    /// Bits that go out: what is left of them.
    output: u32,
    output_bits: u32,
    eerd: u32,
}

impl Eeprom {
    /// A memory that holds the address `mac`.
    pub(super) fn new(mac: MacAddress) -> Self {
        let mut words = [0; WORDS];
        let [a, b, c, d, e, f] = mac.0;
        for (word, pair) in words.iter_mut().zip([[a, b], [c, d], [e, f]]) {
            *word = u16::from_le_bytes(pair);
        }
        // Initialization control 1, subsystem, device and vendor IDs, initialization control 2.
        words[0x0a..0x10].copy_from_slice(&[0x4408, 0x001e, 0x8086, 0x100e, 0x8086, 0x3040]);
        let sum = words.iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
        words[WORDS - 1] = SUM.wrapping_sub(sum);
        Self { words, wires: 0, command: None, output: 0, output_bits: 0, eerd: 0 }
    }

    /// EECD.
    pub(super) fn wires(&self) -> u32 {
        let granted = if self.wires & eecd::REQUEST != 0 { eecd::GRANT } else { 0 };
        // Between two words the memory says that it is ready.
        let high = self.output_bits == 0 || self.output >> (self.output_bits - 1) & 1 != 0;
        let out = if high { eecd::OUT } else { 0 };
        self.wires | granted | out | eecd::PRESENT
    }

    /// Writes EECD.
    pub(super) fn set_wires(&mut self, value: u32) {
        let before = std::mem::replace(&mut self.wires, value & eecd::WRITABLE);
        if self.wires & eecd::SELECT == 0 {
            self.command = None;
            self.output_bits = 0;
        } else if before & eecd::CLOCK == 0 && self.wires & eecd::CLOCK != 0 {
            self.clock(self.wires & eecd::IN != 0);
        }
    }

    /// The clock's rising edge.
    fn clock(&mut self, bit: bool) {
        if self.output_bits > 0 {
            self.output_bits -= 1;
            return;
        }
        let (bits, count) = match self.command {
            None if !bit => return,
            None => (1, 1),
            Some((bits, count)) => (bits << 1 | u32::from(bit), count + 1),
        };
        self.command = (count < COMMAND_BITS).then_some((bits, count));
        // The only command with an answer: start bit, 10, six bits of address. Nothing is written.
        if count == COMMAND_BITS && bits >> 6 == 0b110 {
            self.output = self.words[bits as usize % WORDS].into();
            // A zero comes first.
            self.output_bits = 17;
        }
    }

    /// EERD.
    pub(super) fn read_register(&self) -> u32 {
        self.eerd
    }

    /// Writes EERD.
    pub(super) fn set_read_register(&mut self, value: u32) {
        let address = value >> 8 & 0xff;
        let word = self.words.get(address as usize).copied().unwrap_or(0);
        let done = value & START != 0;
        self.eerd = if done { u32::from(word) << 16 | address << 8 | DONE } else { value & 0xff00 };
    }

    /// The address that it holds.
    pub(super) fn address(&self) -> MacAddress {
        let [[a, b], [c, d], [e, f]] = [0, 1, 2].map(|word: usize| self.words[word].to_le_bytes());
        MacAddress([a, b, c, d, e, f])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(eeprom: &mut Eeprom, address: u32) -> u16 {
        let base = eecd::REQUEST | eecd::SELECT;
        eeprom.set_wires(eecd::REQUEST);
        assert_ne!(eeprom.wires() & eecd::GRANT, 0);
        for bit in (0..COMMAND_BITS).rev() {
            let input = if (0b110 << 6 | address) >> bit & 1 != 0 { eecd::IN } else { 0 };
            eeprom.set_wires(base | input);
            eeprom.set_wires(base | input | eecd::CLOCK);
        }
        (0..16).fold(0, |word, _| {
            eeprom.set_wires(base);
            eeprom.set_wires(base | eecd::CLOCK);
            word << 1 | u16::from(eeprom.wires() & eecd::OUT != 0)
        })
    }

    #[test]
    fn words_come_out_bit_by_bit() {
        let mac = MacAddress([2, 1, 4, 3, 6, 5]);
        let mut eeprom = Eeprom::new(mac);
        let words: Vec<u16> = (0..64).map(|address| read(&mut eeprom, address)).collect();
        assert_eq!(words[..3], [0x0102, 0x0304, 0x0506]);
        assert_eq!(words.iter().fold(0u16, |sum, word| sum.wrapping_add(*word)), SUM);
        eeprom.set_read_register(1 << 8 | START);
        assert_eq!(eeprom.read_register(), 0x0304_0110);
        assert_eq!(eeprom.address(), mac);
    }
}
