//! Whether the file of a qcow2 image has all that the image's tables name (QEMU, `docs/interop/qcow2.txt`).
//!
//! What is not there would read as zeroes, so a copy that broke off would look like a disk on which much was
//! lost. The counts of references are of no use here: they may be ahead of the file when a monitor was killed. The tables
//! that lead to data never are.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// What an image begins with.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of the header that are looked at.
const HEADER: usize = 80;
/// Sizes of clusters that there are, as powers of two.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Features that one must know: the data are in another file; entries of tables have 16 bytes.
const EXTERNAL_DATA: u64 = 1 << 2;
const EXTENDED_ENTRIES: u64 = 1 << 4;
/// Where an entry of a table says that something is.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Entries of the second level: the cluster is compressed; it reads as zeroes.
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// What the header says of the tables.
struct Layout {
    cluster_bits: u32,
    /// Entries of the first level, and where it is.
    entries: u64,
    table: u64,
    /// Bytes of an entry of the second level.
    stride: usize,
    external: bool,
}

impl Layout {
    /// `None` if that is no image, or not one that can be used.
    fn read(file: &File) -> Option<Self> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).ok()?;
        let word = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let long = |at| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        let (version, cluster_bits) = (word(4), word(20));
        let features = if version >= 3 { long(72) } else { 0 };
        let known = header.starts_with(&MAGIC)
            && matches!(version, 2 | 3)
            && CLUSTER_BITS.contains(&cluster_bits);
        known.then(|| Self {
            cluster_bits,
            entries: word(36).into(),
            table: long(40),
            stride: if features & EXTENDED_ENTRIES != 0 { 16 } else { 8 },
            external: features & EXTERNAL_DATA != 0,
        })
    }

    /// Where the data of an entry of the second level begin in this file, if it has any there.
    fn data(&self, entry: u64) -> Option<u64> {
        if entry & COMPRESSED != 0 {
            return Some(entry & ((1 << (70 - self.cluster_bits)) - 1));
        }
        let zero = self.stride == 8 && entry & ZERO != 0;
        let offset = entry & OFFSET;
        (offset != 0 && !zero && !self.external).then_some(offset)
    }
}

fn entry(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Whether `file` ends before something that it should have, as the image's tables say. What is no image is not
/// judged.
///
/// # Errors
///
/// [`io::Error`] if the file cannot be read.
pub(crate) fn is_truncated(mut file: &File) -> io::Result<bool> {
    let length = file.seek(SeekFrom::End(0))?;
    let Some(layout) = Layout::read(file) else { return Ok(false) };
    let cluster = 1u64 << layout.cluster_bits;
    let mut second = vec![0; cluster as usize];
    let mut first = vec![0; cluster as usize];
    // Tables lie each in a place of its own, so all of them are not larger than the file.
    let mut unread = length;
    let (mut at, mut left) = (layout.table, layout.entries * 8);
    while left > 0 {
        let part = left.min(cluster);
        let part_of_first = &mut first[..part as usize];
        if at.checked_add(part).is_none_or(|end| end > length) {
            return Ok(true);
        }
        file.read_exact_at(part_of_first, at)?;
        for table in part_of_first.chunks_exact(8).map(|bytes| entry(bytes) & OFFSET) {
            if table == 0 {
                continue;
            }
            if table + cluster > length {
                return Ok(true);
            }
            let Some(rest) = unread.checked_sub(cluster) else { return Ok(false) };
            unread = rest;
            file.read_exact_at(&mut second, table)?;
            let data = second.chunks_exact(layout.stride).filter_map(|one| layout.data(entry(one)));
            if data.max().is_some_and(|offset| offset >= length) {
                return Ok(true);
            }
        }
        at += part;
        left -= part;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// An image with clusters of 64 KiB, one table of each level, and these entries in the second one.
    fn image(features: u64, entries: &[u64]) -> Vec<u8> {
        let mut bytes = vec![0; 3 << 16];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC);
        put(4, &3u32.to_be_bytes());
        put(20, &16u32.to_be_bytes());
        put(36, &1u32.to_be_bytes());
        put(40, &0x1_0000u64.to_be_bytes());
        put(72, &features.to_be_bytes());
        put(0x1_0000, &(0x2_0000u64 | 1 << 63).to_be_bytes());
        for (index, entry) in entries.iter().enumerate() {
            put(0x2_0000 + index * 8, &entry.to_be_bytes());
        }
        bytes
    }

    fn judge(bytes: &[u8]) -> bool {
        is_truncated(&file(bytes)).unwrap()
    }

    #[test]
    fn what_tables_name_must_be_there() {
        let there = 0x2_0000 | 1 << 63;
        let missing = 0x3_0000 | 1 << 63;
        assert!(!judge(&image(0, &[])));
        assert!(!judge(&image(0, &[there, 0, there])));
        assert!(judge(&image(0, &[there, missing])));
        // Zeroes need no data, nor do data in another file.
        assert!(!judge(&image(0, &[missing | ZERO])));
        assert!(!judge(&image(EXTERNAL_DATA, &[missing])));
        // In entries of 16 bytes, that bit says something else.
        assert!(judge(&image(EXTENDED_ENTRIES, &[missing | ZERO])));
        assert!(!judge(&image(EXTENDED_ENTRIES, &[0, missing])));
        // The bits above the offset of a compressed cluster are its length.
        assert!(!judge(&image(0, &[COMPRESSED | 1 << 54 | 0x2_1234])));
        assert!(judge(&image(0, &[COMPRESSED | 1 << 54 | 0x3_1234])));
    }

    #[test]
    fn tables_must_be_there_whole() {
        let whole = image(0, &[]);
        for (length, expected) in
            [(3 << 16, false), (0x2_8000, true), (0x1_0007, true), (0x100, true)]
        {
            assert_eq!(judge(&whole[..length]), expected, "{length:#x}");
        }
        // Too short to be one.
        assert!(!judge(&whole[..60]));
        assert!(!judge(&[0; 4096]));
    }

    proptest! {
        #[test]
        fn any_header_is_survived(header in proptest::collection::vec(any::<u8>(), HEADER), bits in 9u32..22) {
            let mut bytes = image(0, &[0x2_0000]);
            bytes[8..HEADER].copy_from_slice(&header[8..]);
            bytes[20..24].copy_from_slice(&bits.to_be_bytes());
            let _ = judge(&bytes);
        }

        /// Tables of the first level that name the same table over and over.
        #[test]
        fn no_image_keeps_us_for_long(entries in 1u32.., table in (0u64..0x3_0000).prop_map(|at| at & !7)) {
            let mut bytes = image(0, &[]);
            bytes[36..40].copy_from_slice(&entries.to_be_bytes());
            bytes[40..48].copy_from_slice(&table.to_be_bytes());
            bytes[0x1_0000..0x2_0000].chunks_exact_mut(8).for_each(|entry| {
                entry.copy_from_slice(&0x2_0000u64.to_be_bytes());
            });
            let _ = judge(&bytes);
        }
    }
}
