//! What drives say of themselves (IDENTIFY DEVICE, ATA/ATAPI-6 clause 8.15; IDENTIFY PACKET DEVICE,
//! clause 8.16; TRIM: ATA8-ACS).

use super::task_file::{HEADS, TRACK};

/// Bytes of the answer.
pub(super) const LENGTH: usize = 512;
/// Sectors of a block of READ MULTIPLE at most.
pub(super) const MULTIPLE_MAX: u8 = 16;
/// Blocks of 512 bytes that one DATA SET MANAGEMENT can carry.
pub(super) const TRIM_BLOCKS: u64 = 8;

/// Features: NOP, look-ahead, write cache, power management.
const FEATURES_82: u16 = 1 << 14 | 1 << 6 | 1 << 5 | 1 << 3;
/// Features: 48-bit addresses, both kinds of flush.
const FEATURES_83: u16 = 1 << 13 | 1 << 12 | 1 << 10;
/// What a word has set whose other bits are valid.
const VALID: u16 = 1 << 14;
/// Transfer modes: 0 to 2 of multiword DMA, 0 to 5 of Ultra DMA.
const MULTIWORD_DMA: u16 = 0x07;
const ULTRA_DMA: u16 = 0x3f;

/// How data are moved, as SET FEATURES sets it (clause 8.46.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TransferMode(u8);

impl TransferMode {
    /// The mode of this code, if there is one.
    pub(super) fn of_code(code: u8) -> Option<Self> {
        // The upper five bits are the kind: PIO, PIO with flow control, multiword DMA, Ultra DMA.
        let known = match code >> 3 {
            0 => code <= 1,
            1 => code & 7 <= 4,
            4 => MULTIWORD_DMA >> (code & 7) & 1 != 0,
            8 => ULTRA_DMA >> (code & 7) & 1 != 0,
            _ => false,
        };
        known.then_some(Self(code))
    }

    /// The bits of the words of multiword DMA (0x20) and Ultra DMA (0x40) that tell this mode.
    fn selected(self, class: u8) -> u16 {
        if self.0 & 0xf8 == class { 1 << 8 << (self.0 & 7) } else { 0 }
    }
}

/// What of a disk can change.
#[derive(Debug, Clone, Copy)]
pub(super) struct DiskFacts<'a> {
    pub(super) serial: &'a str,
    pub(super) sectors: u64,
    pub(super) multiple: u8,
    pub(super) write_cache: bool,
    pub(super) mode: TransferMode,
}

/// The words of an answer.
struct Words([u16; LENGTH / 2]);

impl Words {
    fn set(&mut self, first: usize, values: &[u16]) {
        self.0[first..first + values.len()].copy_from_slice(values);
    }

    /// Text, padded with spaces; the first character of a word is its high byte.
    fn text(&mut self, first: usize, words: usize, text: &str) {
        let mut characters = text.bytes().filter(u8::is_ascii).chain(std::iter::repeat(b' '));
        for word in &mut self.0[first..first + words] {
            let mut next = || characters.next().unwrap_or(b' ');
            *word = u16::from_be_bytes([next(), next()]);
        }
    }

    fn number(&mut self, first: usize, words: usize, value: u64) {
        for (index, word) in self.0[first..first + words].iter_mut().enumerate() {
            *word = (value >> (16 * index)) as u16;
        }
    }

    fn transfer_modes(&mut self, mode: TransferMode) {
        // Words 64–70 and 88 are valid.
        self.0[53] |= 1 << 1 | 1 << 2;
        self.set(63, &[MULTIWORD_DMA | mode.selected(0x20), 0x03, 120, 120, 120, 120]);
        self.set(88, &[ULTRA_DMA | mode.selected(0x40)]);
    }

    /// The bytes, with a checksum in the last word.
    fn bytes(mut self) -> Vec<u8> {
        self.0[255] = 0xa5;
        let sum = self.0.iter().flat_map(|word| word.to_le_bytes()).fold(0, u8::wrapping_add);
        self.0[255] |= u16::from(0u8.wrapping_sub(sum)) << 8;
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// What a disk says.
pub(super) fn disk(facts: &DiskFacts<'_>) -> Vec<u8> {
    let mut words = Words([0; LENGTH / 2]);
    let cylinders = (facts.sectors / (HEADS * TRACK)).clamp(1, 16383) as u16;
    let (heads, track) = (HEADS as u16, TRACK as u16);
    words.set(0, &[0x0040, cylinders, 0, heads]);
    words.set(6, &[track]);
    words.text(10, 10, facts.serial);
    words.text(23, 4, "1");
    words.text(27, 20, "Ambos disk");
    words.set(47, &[0x8000 | u16::from(MULTIPLE_MAX)]);
    // Timers of the standard, IORDY, LBA, DMA.
    words.set(49, &[1 << 13 | 1 << 11 | 1 << 9 | 1 << 8, VALID]);
    // Words 54–58 are valid.
    words.set(53, &[1, cylinders, heads, track]);
    words.number(57, 2, u64::from(cylinders) * HEADS * TRACK);
    if facts.multiple > 0 {
        words.set(59, &[1 << 8 | u16::from(facts.multiple)]);
    }
    words.number(60, 2, facts.sectors.min(0x0fff_ffff));
    words.transfer_modes(facts.mode);
    // ATA-4 to ATA8-ACS.
    words.set(80, &[0x01f0]);
    let cache = if facts.write_cache { 0 } else { 1 << 5 };
    words.set(82, &[FEATURES_82, VALID | FEATURES_83, VALID]);
    words.set(85, &[FEATURES_82 & !cache, FEATURES_83, VALID]);
    words.number(100, 4, facts.sectors.min((1 << 48) - 1));
    words.set(105, &[TRIM_BLOCKS as u16, 0x6003]);
    // Blocks of eight sectors underneath; TRIM; nothing that turns.
    words.set(169, &[1]);
    words.set(217, &[1]);
    words.bytes()
}

/// What a CD-ROM drive says.
pub(super) fn cdrom(serial: &str, mode: TransferMode) -> Vec<u8> {
    let mut words = Words([0; LENGTH / 2]);
    // A packet device of type CD-ROM, removable, DRQ within 50 µs, packets of 12 bytes.
    words.set(0, &[0x85c0]);
    words.text(10, 10, serial);
    words.text(23, 4, "1");
    words.text(27, 20, "Ambos CD-ROM");
    words.set(49, &[1 << 11 | 1 << 9 | 1 << 8]);
    words.transfer_modes(mode);
    words.set(80, &[0x0070]);
    // NOP, DEVICE RESET, PACKET.
    let features = 1 << 14 | 1 << 9 | 1 << 4;
    words.set(82, &[features, VALID, VALID]);
    words.set(85, &[features, 0, VALID]);
    words.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], index: usize) -> u16 {
        u16::from_le_bytes([bytes[index * 2], bytes[index * 2 + 1]])
    }

    #[test]
    fn a_disk_tells_its_size_and_name() {
        let facts = DiskFacts {
            serial: "AMBOS0",
            sectors: 0x1_2345_6789,
            multiple: 8,
            write_cache: true,
            mode: TransferMode::of_code(0x22).unwrap(),
        };
        let bytes = disk(&facts);
        assert_eq!(bytes.len(), LENGTH);
        assert_eq!((word(&bytes, 60), word(&bytes, 61)), (0xffff, 0x0fff));
        assert_eq!([100, 101, 102, 103].map(|i| word(&bytes, i)), [0x6789, 0x2345, 1, 0]);
        assert_eq!(&bytes[20..28], b"MAOB0S  ");
        assert_eq!(word(&bytes, 59), 0x108);
        assert_eq!((word(&bytes, 63), word(&bytes, 88)), (0x0407, 0x003f));
        assert_eq!(bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)), 0);
    }

    #[test]
    fn modes_that_exist() {
        let known = |code| TransferMode::of_code(code).is_some();
        assert!([0x00, 0x01, 0x08, 0x0c, 0x20, 0x22, 0x40, 0x45].into_iter().all(known));
        assert!(![0x02, 0x0d, 0x10, 0x23, 0x46, 0x80, 0xff].into_iter().any(known));
    }

    #[test]
    fn a_cdrom_is_a_packet_device() {
        let bytes = cdrom("AMBOS1", TransferMode::default());
        assert_eq!(word(&bytes, 0), 0x85c0);
        assert_eq!(&bytes[54..66], b"mAob sDCR-MO");
    }
}
