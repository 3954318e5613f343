//! A disk whose writes are thrown away at the end.
//!
//! Blocks that were written are in a temporary file, at the same offsets; all others are read from
//! the image below. A write of part of a block first copies the rest of it up.

use crate::{BlockBackend, RawImage, Slice, check_range, total};
use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

/// Bytes of a block: what is copied up at least.
const BLOCK: u64 = 4096;
/// Blocks that one word of the map stands for.
const WORD: u64 = 64;

/// Which blocks were written.
#[derive(Debug, Default)]
struct Map(Vec<u64>);

impl Map {
    fn contains(&self, block: u64) -> bool {
        let word = usize::try_from(block / WORD).ok().and_then(|word| self.0.get(word));
        word.is_some_and(|word| word >> (block % WORD) & 1 != 0)
    }

    /// The disk's size bounds the map: one bit for four kilobytes.
    fn insert(&mut self, block: u64) {
        let Ok(word) = usize::try_from(block / WORD) else { return };
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (block % WORD);
    }
}

/// A disk over another one that it never writes to.
pub struct Overlay {
    // Dependencies.
    below: Arc<dyn BlockBackend>,
    above: RawImage,

    // Volatile state.
    written: RwLock<Map>,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").field("above", &self.above).finish_non_exhaustive()
    }
}

/// A run of bytes that are all on one side.
struct Run {
    above: bool,
    offset: u64,
    length: u64,
}

impl Overlay {
    /// A disk over `below` that keeps its writes in `file`, which is new and empty.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if the file cannot get the disk's size.
    pub fn new(below: Arc<dyn BlockBackend>, file: File) -> io::Result<Self> {
        let size = below.size();
        file.set_len(size)?;
        let above = RawImage::new(file, None, size, false);
        Ok(Self { below, above, written: RwLock::default() })
    }

    fn runs(map: &Map, offset: u64, length: u64) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let next = (at / BLOCK + 1).saturating_mul(BLOCK).min(end);
            let above = map.contains(at / BLOCK);
            match runs.last_mut() {
                Some(run) if run.above == above => run.length += next - at,
                _ => runs.push(Run { above, offset: at, length: next - at }),
            }
            at = next;
        }
        runs
    }

    /// Makes sure that the blocks that a write touches only in part are above.
    fn copy_up(&self, map: &Map, offset: u64, length: u64) -> io::Result<()> {
        let end = offset + length;
        let mut last = None;
        for edge in [offset, end] {
            let block = edge / BLOCK;
            if edge.is_multiple_of(BLOCK) || map.contains(block) || last == Some(block) {
                continue;
            }
            last = Some(block);
            let mut buffer = [0; BLOCK as usize];
            let start = block * BLOCK;
            let length = BLOCK.min(self.size() - start) as usize;
            let slices = [Slice::from(&mut buffer[..length])];
            self.below.read(start, &slices)?;
            self.above.write(start, &slices)?;
        }
        Ok(())
    }

    /// Does what changes `length` bytes at `offset` above.
    fn change(
        &self,
        offset: u64,
        length: u64,
        change: impl FnOnce(&RawImage) -> io::Result<()>,
    ) -> io::Result<()> {
        check_range(self.size(), offset, length)?;
        if length == 0 {
            return Ok(());
        }
        // Held over the writes: nobody may see a block as written before it is.
        let mut map = self.written.write().unwrap_or_else(PoisonError::into_inner);
        self.copy_up(&map, offset, length)?;
        change(&self.above)?;
        for block in offset / BLOCK..(offset + length).div_ceil(BLOCK) {
            map.insert(block);
        }
        Ok(())
    }
}

/// The `length` bytes of `slices` from `skip` on.
fn part<'a>(slices: &[Slice<'a>], skip: u64, length: u64) -> io::Result<Vec<Slice<'a>>> {
    let (mut skip, mut length) = (skip as usize, length as usize);
    let mut parts = Vec::new();
    for slice in slices {
        if length == 0 {
            break;
        }
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let count = (slice.len() - skip).min(length);
        parts.push(slice.subslice(skip, count).map_err(io::Error::other)?);
        (skip, length) = (0, length - count);
    }
    Ok(parts)
}

impl BlockBackend for Overlay {
    fn size(&self) -> u64 {
        self.above.size()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn is_cached(&self) -> bool {
        self.below.is_cached()
    }

    fn read(&self, offset: u64, slices: &[Slice<'_>]) -> io::Result<()> {
        let length = total(slices);
        check_range(self.size(), offset, length)?;
        let map = self.written.read().unwrap_or_else(PoisonError::into_inner);
        for run in Self::runs(&map, offset, length) {
            let slices = part(slices, run.offset - offset, run.length)?;
            let side: &dyn BlockBackend = if run.above { &self.above } else { &*self.below };
            side.read(run.offset, &slices)?;
        }
        Ok(())
    }

    fn write(&self, offset: u64, slices: &[Slice<'_>]) -> io::Result<()> {
        self.change(offset, total(slices), |above| above.write(offset, slices))
    }

    /// What is thrown away at the end need not reach a medium.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        check_range(self.size(), offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.change(offset, length, |above| above.write_zeroes(offset, length, unmap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, behaves_like_a_disk};

    fn below(size: u64) -> Arc<RawImage> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        Arc::new(RawImage::new(file, None, size, true))
    }

    #[test]
    fn it_behaves_like_a_disk() {
        for (seed, size) in [(1, 1 << 18), (2, 1 << 18), (3, (1 << 17) + 512)] {
            let below = below(size);
            let overlay = Overlay::new(below.clone(), tempfile::tempfile().unwrap()).unwrap();
            behaves_like_a_disk(&overlay, seed);
            let memory = Memory::new(size.next_multiple_of(4096));
            below.read(0, &memory.slices(&[(0, size as usize)])).unwrap();
            assert!(memory.get(0, size as usize).iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn what_is_not_written_shows_through() {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 16384], 0).unwrap();
        let below = Arc::new(RawImage::new(file, None, 16384, true));
        let overlay = Overlay::new(below, tempfile::tempfile().unwrap()).unwrap();
        let memory = Memory::new(32768);
        memory.put(0, &[9; 512]);
        overlay.write(4608, &memory.slices(&[(0, 512)])).unwrap();
        overlay.read(0, &memory.slices(&[(16384, 16384)])).unwrap();
        let read = memory.get(16384, 16384);
        assert!(read[..4608].iter().chain(&read[5120..]).all(|byte| *byte == 7));
        assert_eq!(read[4608..5120], [9; 512]);
    }
}
