//! The legacy frame of LZ4, in which Linux's build packs kernels: blocks, each with its packed size before it.

use super::ImageError;
use super::payload::{Compression, MAX_UNPACKED};
use crate::bytes::{range, u32_at};
use lz4_flex::block::decompress_into;

/// What the frame begins with.
pub(super) const MAGIC: u32 = 0x184c_2102;
/// Most bytes of a block, unpacked. All but the last have as many, as the usual tool makes them.
pub(super) const BLOCK: usize = 8 << 20;

/// The blocks of a payload.
#[derive(Debug)]
pub(super) struct Blocks<'a>(Vec<&'a [u8]>);

impl<'a> Blocks<'a> {
    /// Finds the blocks, up to the end of the payload. The four bytes of unpacked size that Linux appends are too short for
    /// a block and end the search.
    pub(super) fn parse(payload: &'a [u8]) -> Result<Self, ImageError> {
        let mut blocks = Vec::new();
        let mut at = size_of::<u32>();
        while payload.len().saturating_sub(at) > size_of::<u32>() {
            let packed = u32_at(payload, at).unwrap_or(0);
            at += size_of::<u32>();
            if packed == MAGIC {
                continue;
            }
            let block = range(payload, at as u64, packed.into())
                .ok_or_else(|| damaged(format!("a block of {packed} bytes at {at} is cut off")))?;
            at += block.len();
            blocks.push(block);
            if (blocks.len() * BLOCK) as u64 > MAX_UNPACKED {
                return Err(ImageError::UnpacksTooLarge);
            }
        }
        if blocks.is_empty() {
            return Err(damaged("there is no block".into()));
        }
        Ok(Self(blocks))
    }

    /// How many there are, at least one.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Unpacks a block into `place`, which has room for [`BLOCK`] bytes; returns how many it has.
    pub(super) fn unpack(&self, number: usize, place: &mut [u8]) -> Result<usize, ImageError> {
        let block = self.0.get(number).copied().unwrap_or_default();
        decompress_into(block, place).map_err(|error| damaged(error.to_string()))
    }

    /// Unpacks all blocks, one behind the other, on as many threads as the host has processors for.
    pub(super) fn unpack_all(&self) -> Result<Vec<u8>, ImageError> {
        // Memory that is zero from the start is not touched to make it so.
        let mut unpacked = vec![0; self.count() * BLOCK];
        ambos_hostcode::prefer_large_pages(&mut unpacked);
        let lengths = self.unpack_each(&mut unpacked)?;
        // Blocks that are not full have to be moved together.
        let mut end = 0;
        for (number, &length) in lengths.iter().enumerate() {
            let start = number * BLOCK;
            if start != end {
                unpacked.copy_within(start..start + length, end);
            }
            end += length;
        }
        unpacked.truncate(end);
        Ok(unpacked)
    }

    /// Unpacks each block to its place in `unpacked`; the lengths.
    fn unpack_each(&self, unpacked: &mut [u8]) -> Result<Vec<usize>, ImageError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.count().div_ceil(threads).max(1);
        let work = |(first, places): (usize, &mut [u8])| -> Result<Vec<_>, ImageError> {
            let places = (first..).zip(places.chunks_mut(BLOCK));
            places.map(|(number, place)| self.unpack(number, place)).collect()
        };
        let shares = unpacked.chunks_mut(share * BLOCK);
        let mut shares = shares.enumerate().map(|(number, places)| (number * share, places));
        let Some(own) = shares.next() else { return Ok(Vec::new()) };
        std::thread::scope(|scope| {
            let others: Vec<_> = shares.map(|share| scope.spawn(move || work(share))).collect();
            let mut lengths = work(own);
            for other in others {
                let more = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                lengths = lengths.and_then(|mut lengths| {
                    lengths.extend(more?);
                    Ok(lengths)
                });
            }
            lengths
        })
    }
}

fn damaged(reason: String) -> ImageError {
    ImageError::Unpack { compression: Compression::Lz4, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::unpack;
    use crate::testing::{lz4_blocks, sample_text};

    #[test]
    fn blocks_of_any_length_follow_each_other() {
        let text = sample_text(3 * BLOCK);
        for lengths in [&[BLOCK, BLOCK, 5][..], &[BLOCK, 70_000, BLOCK, 9], &[1; 9]] {
            let payload = lz4_blocks(&text, lengths);
            let length = lengths.iter().sum::<usize>();
            assert!(unpack(&payload).unwrap() == text[..length], "{lengths:?}");
        }
    }

    #[test]
    fn a_bomb_is_stopped() {
        let block = lz4_flex::block::compress(&vec![0; BLOCK]);
        let mut payload = MAGIC.to_le_bytes().to_vec();
        for _ in 0..=MAX_UNPACKED / BLOCK as u64 {
            payload.extend((block.len() as u32).to_le_bytes());
            payload.extend(&block);
        }
        assert!(matches!(unpack(&payload), Err(ImageError::UnpacksTooLarge)));
    }
}
