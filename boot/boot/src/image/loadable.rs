//! A kernel proper on its way into a guest's memory.
//!
//! Unpacked as a whole it would take tens of megabytes of the host's memory, which has to zero them first, for the time of a
//! copy. One in blocks is therefore unpacked a block at a time, into the same memory again and again, on all of the host's
//! processors, and each block is copied as soon as it is there. First come those with the headers and the notes, which say
//! where the others belong.
//!
//! A block's place in the file is known only if all before it have the usual size. That is so in what the usual tool makes. Where it
//! turns out not to be, or anything else is wrong, the kernel is unpacked as a whole ([`KernelImage::by_any_way`]).

use super::elf::{Elf, ProgramHeader, SegmentKind};
use super::lz4::{self, Blocks};
use super::payload::Compression;
use super::{ImageError, ImageKind, KernelImage, Vmlinux, XenNotes};
use crate::bytes::range;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// How to unpack a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A block at a time, if it is in blocks.
    InBlocks,
    /// As a whole.
    Whole,
}

impl KernelImage {
    /// Calls `load` with the quickest way to unpack the kernel. If that fails, it is called again with one that always works,
    /// and has the last word.
    pub(crate) fn by_any_way<T, E>(&self, load: impl Fn(Way) -> Result<T, E>) -> Result<T, E> {
        if self.lz4_payload().is_some()
            && let Ok(loaded) = load(Way::InBlocks)
        {
            return Ok(loaded);
        }
        load(Way::Whole)
    }

    /// The kernel proper; `None` for a flat image.
    ///
    /// # Errors
    ///
    /// [`ImageError`] if it cannot be unpacked, in this way, or is no ELF file.
    pub(crate) fn loadable(&self, way: Way) -> Result<Option<Loadable<'_>>, ImageError> {
        match self.lz4_payload() {
            Some(payload) if way == Way::InBlocks => Loadable::in_blocks(payload).map(Some),
            _ => Ok(self.vmlinux()?.map(Loadable::from)),
        }
    }

    fn lz4_payload(&self) -> Option<&[u8]> {
        let ImageKind::BzImage(image) = &self.kind else { return None };
        let payload = image.payload(&self.bytes).ok()?;
        (Compression::detect(payload) == Some(Compression::Lz4)).then_some(payload)
    }
}

/// A kernel proper whose headers have been read.
#[derive(Debug)]
pub(crate) struct Loadable<'a> {
    /// The headers.
    pub(crate) elf: Elf,
    content: Content<'a>,
}

#[derive(Debug)]
enum Content<'a> {
    Whole(Cow<'a, [u8]>),
    Blocks {
        packed: Blocks<'a>,
        /// Those that have been unpacked.
        unpacked: Mutex<BTreeMap<usize, Block>>,
    },
}

/// An unpacked block: memory for a full one, and how much of that it takes.
#[derive(Debug, Default)]
struct Block(Vec<u8>, usize);

impl Block {
    fn bytes(&self) -> &[u8] {
        &self.0[..self.1]
    }

    /// Unpacks another block into the same memory.
    fn unpack(&mut self, packed: &Blocks<'_>, number: usize) -> Result<(), ImageError> {
        if self.0.is_empty() {
            self.0 = vec![0; lz4::BLOCK];
            ambos_hostcode::prefer_large_pages(&mut self.0);
        }
        self.1 = packed.unpack(number, &mut self.0)?;
        // What comes behind would be elsewhere than is thought.
        if self.1 < lz4::BLOCK && number + 1 < packed.count() {
            return Err(ImageError::Damaged {
                what: "the size of a block before the last",
                value: self.1 as u64,
            });
        }
        Ok(())
    }
}

impl<'a> From<Vmlinux<'a>> for Loadable<'a> {
    fn from(vmlinux: Vmlinux<'a>) -> Self {
        Self { elf: vmlinux.elf, content: Content::Whole(vmlinux.bytes) }
    }
}

impl<'a> Loadable<'a> {
    fn in_blocks(payload: &'a [u8]) -> Result<Self, ImageError> {
        let packed = Blocks::parse(payload)?;
        let mut first = Block::default();
        first.unpack(&packed, 0)?;
        // How many there are is checked when they are unpacked.
        let most = (packed.count() * lz4::BLOCK) as u64;
        let elf = Elf::parse_start(first.bytes(), most)?
            .ok_or(ImageError::Damaged { what: "the ELF signature", value: 0 })?;
        let unpacked = Mutex::new(BTreeMap::from([(0, first)]));
        Ok(Self { elf, content: Content::Blocks { packed, unpacked } })
    }

    /// Its Xen notes; empty if it has none.
    ///
    /// # Errors
    ///
    /// [`ImageError`] if they cannot be unpacked.
    pub(crate) fn xen_notes(&self) -> Result<XenNotes, ImageError> {
        let mut notes = XenNotes::default();
        for segment in self.elf.segments.iter().filter(|segment| segment.kind == SegmentKind::Note)
        {
            match &self.content {
                Content::Whole(bytes) => notes.add(segment.bytes(bytes)),
                Content::Blocks { packed, unpacked } => {
                    let number = (segment.offset / lz4::BLOCK as u64) as usize;
                    let mut unpacked = unpacked.lock().unwrap_or_else(PoisonError::into_inner);
                    let block = unpacked.entry(number).or_default();
                    if block.0.is_empty() {
                        block.unpack(packed, number)?;
                    }
                    let within = segment.offset % lz4::BLOCK as u64;
                    let bytes = range(block.bytes(), within, segment.file_size);
                    notes.add(bytes.ok_or_else(|| cut_off("a note", segment, self.size()))?);
                }
            }
        }
        Ok(notes)
    }

    /// Bytes of the file, at most.
    fn size(&self) -> u64 {
        match &self.content {
            Content::Whole(bytes) => bytes.len() as u64,
            Content::Blocks { packed, .. } => (packed.count() * lz4::BLOCK) as u64,
        }
    }

    /// Calls `take` with all that the file has of the segments to load, in parts: the segment, where in it the part begins, and its
    /// bytes. The parts come in any order, and from several threads at once.
    ///
    /// # Errors
    ///
    /// The first of `take`, or an [`ImageError`] if a part cannot be unpacked. Others may have been taken.
    pub(crate) fn for_each_part<E: From<ImageError> + Send>(
        &self,
        take: impl Fn(&ProgramHeader, u64, &[u8]) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        // What lies between must be unpacked too, because it says where the rest is.
        let used = self.elf.segments.iter().filter(|segment| segment.kind.is_used());
        let end = used.map(|segment| segment.offset.saturating_add(segment.file_size)).max();
        let count = end.unwrap_or(0).min(self.size()).div_ceil(lz4::BLOCK as u64) as usize;
        let order = self.order(count);
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), E> {
            let mut memory = Block::default();
            while let Some(&number) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                let taken = self.block(number, &mut memory).map_err(E::from).and_then(|block| {
                    let at = (number * lz4::BLOCK) as u64;
                    self.parts_of(block, at..at + block.len() as u64, &take)
                });
                // The others need not go on.
                taken.inspect_err(|_| next.store(count, Ordering::Relaxed))?;
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count);
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            others.into_iter().fold(own, |result, other| {
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result.and(other)
            })
        })
    }

    /// In which order to go through the first `count` blocks: those that are unpacked come first, because others can
    /// have their memory then.
    fn order(&self, count: usize) -> Vec<usize> {
        let mut order: Vec<_> = (0..count).collect();
        if let Content::Blocks { unpacked, .. } = &self.content {
            let unpacked = unpacked.lock().unwrap_or_else(PoisonError::into_inner);
            order.sort_by_key(|number| !unpacked.contains_key(number));
        }
        order
    }

    /// A block of the file, in `memory` if it has to be unpacked.
    fn block<'b>(&'b self, number: usize, memory: &'b mut Block) -> Result<&'b [u8], ImageError> {
        match &self.content {
            Content::Whole(bytes) => {
                let start = (number * lz4::BLOCK).min(bytes.len());
                Ok(&bytes[start..(start + lz4::BLOCK).min(bytes.len())])
            }
            Content::Blocks { packed, unpacked } => {
                let mut unpacked = unpacked.lock().unwrap_or_else(PoisonError::into_inner);
                match unpacked.remove(&number) {
                    Some(block) => *memory = block,
                    None => {
                        drop(unpacked);
                        memory.unpack(packed, number)?;
                    }
                }
                Ok(memory.bytes())
            }
        }
    }

    /// Calls `take` with the parts of segments in a block, which lies at `place` in the file.
    fn parts_of<E: From<ImageError>>(
        &self,
        block: &[u8],
        place: Range<u64>,
        take: &impl Fn(&ProgramHeader, u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for segment in self.elf.loads() {
            let end = segment.offset.saturating_add(segment.file_size);
            // Only the last block is not full.
            if end > place.end && (block.len() as u64) < lz4::BLOCK as u64 {
                return Err(cut_off("an ELF segment", segment, place.end).into());
            }
            let (start, end) = (segment.offset.max(place.start), end.min(place.end));
            if start < end {
                let part = range(block, start - place.start, end - start).unwrap_or_default();
                take(segment, start - segment.offset, part)?;
            }
        }
        Ok(())
    }
}

impl SegmentKind {
    /// Whether a loader looks at what is there.
    fn is_used(self) -> bool {
        matches!(self, Self::Load | Self::Note)
    }
}

fn cut_off(what: &'static str, segment: &ProgramHeader, have: u64) -> ImageError {
    let end = segment.offset.saturating_add(segment.file_size);
    ImageError::Truncated { what, end, have }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{MAX_UNPACKED, XenNote};
    use crate::testing::{TestSegment, bzimage, bzimage_around, elf64, lz4_blocks, note};

    /// A kernel of two blocks and a bit, with a segment across their borders and one behind it.
    fn kernel() -> Vec<u8> {
        let bytes = |length: usize| (0..length).map(|at| (at >> 9 ^ at >> 3) as u8).collect();
        let segment = |physical, length| TestSegment {
            physical,
            virtual_: physical,
            bytes: bytes(length),
            memory_size: length as u64 + 5,
        };
        let notes = note(b"Xen\0", XenNote::Phys32Entry as u32, &0x10_0000_u64.to_le_bytes());
        let segments = [segment(0x10_0000, 2 * lz4::BLOCK), segment(0x800_0000, 3000)];
        elf64(0x10_0000, &segments, &notes)
    }

    fn parse(bytes: Vec<u8>) -> KernelImage {
        KernelImage::parse("kernel", bytes).unwrap()
    }

    /// The note of the entry and all bytes of the segments, by their addresses.
    type Loaded = (Option<u32>, BTreeMap<u64, Vec<u8>>);

    fn load(image: &KernelImage, way: Way) -> Result<Loaded, ImageError> {
        let kernel = image.loadable(way)?.unwrap();
        let notes = kernel.xen_notes()?;
        let segments = kernel.elf.loads().map(|segment| {
            (segment.physical_address, vec![0; segment.file_size.min(MAX_UNPACKED) as usize])
        });
        let loaded = Mutex::new(segments.collect::<BTreeMap<_, _>>());
        kernel.for_each_part(|segment, at, bytes| {
            let mut loaded = loaded.lock().unwrap();
            let place = loaded.get_mut(&segment.physical_address).unwrap();
            place[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            Ok::<_, ImageError>(())
        })?;
        Ok((notes.pvh_entry(), loaded.into_inner().unwrap()))
    }

    fn expected(kernel: &[u8]) -> Loaded {
        let elf = Elf::parse(kernel).unwrap().unwrap();
        let notes = XenNotes::parse(kernel, &elf);
        let bytes =
            |segment: &ProgramHeader| (segment.physical_address, segment.bytes(kernel).to_vec());
        (notes.pvh_entry(), elf.loads().map(bytes).collect())
    }

    #[test]
    fn the_parts_are_what_the_file_has_of_the_segments() {
        let kernel = kernel();
        let expected = expected(&kernel);
        assert_eq!(expected.0, Some(0x10_0000));
        for compression in [Compression::None, Compression::Zstd, Compression::Lz4] {
            let image = parse(bzimage(compression, &kernel));
            for way in [Way::InBlocks, Way::Whole] {
                assert!(load(&image, way).unwrap() == expected, "{compression} {way:?}");
            }
        }
        assert!(load(&parse(kernel), Way::InBlocks).unwrap() == expected);
    }

    #[test]
    fn other_blocks_than_the_usual_are_unpacked_as_a_whole() {
        let kernel = kernel();
        let expected = expected(&kernel);
        const FULL: usize = lz4::BLOCK;
        for first in [&[FULL, 70_000][..], &[5], &[FULL - 1], &[FULL, 9]] {
            let mut lengths = first.to_vec();
            while let Some(rest @ 1..) = kernel.len().checked_sub(lengths.iter().sum()) {
                lengths.push(rest.min(FULL));
            }
            let image = parse(bzimage_around(&lz4_blocks(&kernel, &lengths)));
            assert!(load(&image, Way::InBlocks).is_err(), "{lengths:?}");
            let tried = Mutex::new(Vec::new());
            let loaded = image.by_any_way(|way| {
                tried.lock().unwrap().push(way);
                load(&image, way)
            });
            assert!(loaded.unwrap() == expected, "{lengths:?}");
            assert_eq!(tried.into_inner().unwrap(), [Way::InBlocks, Way::Whole]);
        }
    }

    #[test]
    fn what_is_cut_off_is_missed_in_any_way() {
        let kernel = kernel();
        // The notes, the second segment, the first one, the headers.
        for length in [kernel.len() - 1, kernel.len() - 3000, 2 * lz4::BLOCK + 9, lz4::BLOCK, 70] {
            let image = parse(bzimage(Compression::Lz4, &kernel[..length]));
            for way in [Way::InBlocks, Way::Whole] {
                let found = load(&image, way);
                let notes = length == kernel.len() - 1 && way == Way::Whole;
                assert!(notes || found.is_err(), "{length} {way:?}");
            }
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        let image = parse(bzimage(Compression::Lz4, &kernel()));
        let kernel = image.loadable(Way::InBlocks).unwrap().unwrap();
        let failed = kernel.for_each_part(|_, _, _| Err(ImageError::Unknown));
        assert!(matches!(failed, Err(ImageError::Unknown)));
    }
}
