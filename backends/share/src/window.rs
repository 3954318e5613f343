//! The library's view of guest memory: the guest's RAM, mapped once more, and beside it some memory of
//! the monitor's in which requests are laid out for it.
//!
//! The library is bound to other versions of the rust-vmm crates than the rest of the monitor, and
//! takes requests only as chains in a queue. So there is a queue here, which the guest does not see.

use crate::ShareError;
use crate::request::HEADER;
use ambos_memory::{DmaRange, GuestRam};
use fuse_backend_rs::transport::{Reader, VirtioFsWriter, Writer};
use fuse_virtio_queue::{Queue, QueueT};
use fuse_vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

/// Where the monitor's memory is: no guest has RAM there.
const BASE: u64 = 1 << 40;
const SIZE: usize = 1 << 19;
/// Descriptors, the available ring, the request and the answer in it.
const TABLE: u64 = BASE;
const AVAILABLE: u64 = BASE + 0x8000;
const REQUEST: u64 = BASE + 0x1_0000;
const REPLY: u64 = BASE + 0x4_0000;
/// Entries of the queue.
const DESCRIPTORS: u16 = 2048;
/// Bytes of the largest request and answer that are copied.
pub(crate) const COPIED_MAX: usize = 0x2_8000;
const _: () = assert!(REPLY + COPIED_MAX as u64 <= BASE + SIZE as u64 && COPIED_MAX > HEADER);

/// Flags of descriptors.
const NEXT: u16 = 1;
const WRITABLE: u16 = 2;

/// The view.
pub(crate) struct Window {
    memory: GuestMemoryMmap,
    queue: Queue,
    /// Chains that were made available so far.
    made: u16,
}

/// Where the answer goes.
pub(crate) enum Answer<'a> {
    /// To guest memory.
    Guest(&'a [DmaRange]),
    /// To the monitor, with that many bytes of room.
    Copied(usize),
}

/// A request that cannot be laid out.
#[derive(Debug)]
pub(crate) struct Unusable;

impl Window {
    pub(crate) fn new(ram: &GuestRam) -> Result<Self, ShareError> {
        let error = |text: String| ShareError::Memory(text);
        let file = ram.file().ok_or_else(|| error("it has no file".to_owned()))?;
        let mut ranges = vec![(GuestAddress(BASE), SIZE, None)];
        for region in ram.regions().iter().filter(|region| region.size > 0) {
            let file = file.try_clone().map_err(|source| error(source.to_string()))?;
            let offset = FileOffset::new(file, region.first_page as u64 * 4096);
            ranges.push((GuestAddress(region.start), region.size as usize, Some(offset)));
        }
        ranges.sort_by_key(|(start, ..)| *start);
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges)
            .map_err(|source| error(source.to_string()))?;
        let mut queue = Queue::new(DESCRIPTORS).map_err(|source| error(source.to_string()))?;
        let place = |result: Result<(), _>| {
            result.map_err(|source: fuse_virtio_queue::Error| error(source.to_string()))
        };
        place(queue.try_set_desc_table_address(GuestAddress(TABLE)))?;
        place(queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)))?;
        queue.set_ready(true);
        Ok(Self { memory, queue, made: 0 })
    }

    /// Lays out a request: `bytes`, then the guest memory `data`.
    pub(crate) fn lay_out(
        &mut self,
        bytes: &[u8],
        data: &[DmaRange],
        answer: &Answer<'_>,
    ) -> Result<(Reader<'_>, Writer<'_>), Unusable> {
        let copied;
        let room = match answer {
            Answer::Guest(ranges) => ranges,
            Answer::Copied(length) => {
                let length = (*length).min(COPIED_MAX) as u32;
                copied = [DmaRange { address: REPLY, length }];
                &copied[..]
            }
        };
        if bytes.len() > COPIED_MAX {
            return Err(Unusable);
        }
        let request = [DmaRange { address: REQUEST, length: bytes.len() as u32 }];
        let readable = request.iter().chain(data).map(|range| (range, 0));
        let all: Vec<(&DmaRange, u16)> = readable
            .chain(room.iter().map(|range| (range, WRITABLE)))
            .filter(|(range, _)| range.length > 0)
            .collect();
        if all.len() > usize::from(DESCRIPTORS) {
            return Err(Unusable);
        }
        let mut table = Vec::with_capacity(all.len() * 16);
        for (index, (range, flags)) in (1u16..).zip(&all) {
            let next = if usize::from(index) < all.len() { NEXT } else { 0 };
            table.extend(range.address.to_le_bytes());
            table.extend(range.length.to_le_bytes());
            table.extend((flags | next).to_le_bytes());
            table.extend(index.to_le_bytes());
        }
        self.put(REQUEST, bytes)?;
        self.put(TABLE, &table)?;
        // All entries of the ring name the first descriptor.
        self.made = self.made.wrapping_add(1);
        self.put(AVAILABLE + 2, &self.made.to_le_bytes())?;
        let chain = self.queue.pop_descriptor_chain(&self.memory).ok_or(Unusable)?;
        let reader =
            Reader::from_descriptor_chain(&self.memory, chain.clone()).map_err(|_| Unusable)?;
        let writer = VirtioFsWriter::new(&self.memory, chain).map_err(|_| Unusable)?;
        Ok((reader, Writer::VirtioFs(writer)))
    }

    /// The first `length` bytes of an answer that was copied.
    pub(crate) fn answer(&self, length: usize) -> Result<Vec<u8>, Unusable> {
        let mut bytes = vec![0; length.min(COPIED_MAX)];
        self.memory.read_slice(&mut bytes, GuestAddress(REPLY)).map_err(|_| Unusable)?;
        Ok(bytes)
    }

    fn put(&self, place: u64, bytes: &[u8]) -> Result<(), Unusable> {
        self.memory.write_slice(bytes, GuestAddress(place)).map_err(|_| Unusable)
    }
}
