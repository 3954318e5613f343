//! The block device (section 5.2).

use crate::device::{DeviceKind, Doorbell, VirtioDevice, read_bytes};
use crate::queue::{Broken, Chain, QueueAccess};
use crate::ranges::{self, take_front, take_last_byte, total};
use ambos_block::{BlockBackend, Pace, Pool, SECTOR, Work};
use ambos_memory::{DmaRange, GuestRam};
use bitflags::bitflags;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Requests (section 5.2.6).
mod request {
    pub(super) const READ: u32 = 0;
    pub(super) const WRITE: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
    /// Bytes of what a request begins with.
    pub(super) const HEADER: u64 = 16;
    /// Bytes of the device's name.
    pub(super) const ID_LENGTH: usize = 20;
    /// Bytes of a segment to discard or zero.
    pub(super) const SEGMENT: usize = 16;
    /// Segment: the storage may be given back.
    pub(super) const UNMAP: u32 = 1;
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

bitflags! {
    /// The device's own features (section 5.2.3).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Features: u64 {
        const SEGMENTS = 1 << 2;
        const READ_ONLY = 1 << 5;
        const BLOCK_SIZE = 1 << 6;
        const FLUSH = 1 << 9;
        const TOPOLOGY = 1 << 10;
        /// The write cache can be switched off.
        const WRITE_CACHE = 1 << 11;
        const QUEUES = 1 << 12;
        const DISCARD = 1 << 13;
        const WRITE_ZEROES = 1 << 14;
    }
}

/// Requests that a queue holds.
const QUEUE_SIZE: u16 = 256;
/// Segments of one request: a queue's size without header and status.
const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Segments of one request to discard or zero.
const RANGES: usize = 16;
/// Sectors of one such segment.
const RANGE_SECTORS: u32 = 1 << 21;
/// Offset of the switch of the write cache in the configuration space.
const WRITE_CACHE: usize = 32;

/// A request, checked as far as that can be done without doing it.
struct Request {
    /// Its place in the queue.
    chain: Chain,
    status: DmaRange,
    /// Bytes that the device may write, without the status.
    room: u64,
    /// Kind and first byte; `None` if the header cannot be read.
    what: Option<(u32, u64)>,
    /// It must be on the medium before it is acknowledged.
    through: bool,
}

/// What is shared with the threads that serve requests.
struct Shared {
    id: [u8; request::ID_LENGTH],
    disk: Arc<dyn BlockBackend>,
    ram: Arc<GuestRam>,
    pace: Pace,
    progress: Mutex<Progress>,
    changed: Condvar,
}

/// Requests on other threads.
#[derive(Default)]
struct Progress {
    under_way: usize,
    /// Queue, request and how it went, of those to be given back.
    done: Vec<(usize, Chain, Result<u32, Broken>)>,
}

/// A disk.
pub struct BlockDevice {
    // Configuration.
    queues: u16,

    // Dependencies.
    shared: Arc<Shared>,
    /// Missing where the host refuses threads: then every request is served in place.
    pool: Option<Pool>,
    doorbell: Option<Doorbell>,

    // Volatile state.
    features: Features,
    /// While it is off, a write is on the medium before it is acknowledged.
    write_cache: bool,
}

impl BlockDevice {
    /// Queues that a disk has at most.
    pub const QUEUES_MAX: u16 = 8;

    /// A disk with `queues` queues that calls itself `id`, in a machine with memory `ram`.
    pub fn new(disk: Arc<dyn BlockBackend>, ram: Arc<GuestRam>, id: &str, queues: u16) -> Self {
        let mut name = [0; request::ID_LENGTH];
        for (byte, character) in name.iter_mut().zip(id.bytes()) {
            *byte = character;
        }
        let shared = Shared {
            id: name,
            disk,
            ram,
            pace: Pace::default(),
            progress: Mutex::default(),
            changed: Condvar::new(),
        };
        Self {
            queues: queues.clamp(1, Self::QUEUES_MAX),
            shared: Arc::new(shared),
            pool: Pool::new().ok(),
            doorbell: None,
            features: Features::empty(),
            write_cache: true,
        }
    }

    fn offered(&self) -> Features {
        if self.shared.disk.is_read_only() {
            let writing = Features::DISCARD | Features::WRITE_ZEROES | Features::WRITE_CACHE;
            Features::all() - writing
        } else {
            Features::all() - Features::READ_ONLY
        }
    }

    /// The configuration space (section 5.2.4).
    fn config(&self) -> [u8; 60] {
        let mut config = [0; 60];
        let mut put = |offset: usize, bytes: &[u8]| {
            config[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &(self.shared.disk.size() / SECTOR).to_le_bytes());
        put(12, &SEGMENTS.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        // Blocks of eight sectors underneath, which are the best size of a request, too.
        put(24, &[3, 0, 8, 0]);
        put(WRITE_CACHE, &[u8::from(self.write_cache)]);
        put(34, &self.queues.to_le_bytes());
        for offset in [36, 48] {
            put(offset, &RANGE_SECTORS.to_le_bytes());
            put(offset + 4, &(RANGES as u32).to_le_bytes());
        }
        put(44, &8u32.to_le_bytes());
        put(56, &[1]);
        config
    }

    /// Looks at a request.
    fn prepare(&self, ram: &GuestRam, mut chain: Chain) -> Result<Request, Broken> {
        let status = take_last_byte(&mut chain.writable).ok_or(Broken)?;
        let room = total(&chain.writable);
        let what = Self::header(ram, &mut chain);
        let through = !(self.write_cache && self.features.contains(Features::FLUSH));
        Ok(Request { chain, status, room, what, through })
    }

    /// Takes the header off a request: its kind and its first byte.
    fn header(ram: &GuestRam, chain: &mut Chain) -> Option<(u32, u64)> {
        let place = take_front(&mut chain.readable, request::HEADER)?;
        let mut header = [0; request::HEADER as usize];
        ranges::read(ram, &place, &mut header).ok()?;
        let [kind, _, low, high] = header.as_chunks::<4>().0 else { return None };
        let [kind, low, high] = [kind, low, high].map(|word| u32::from_le_bytes(*word));
        let sector = u64::from(high) << 32 | u64::from(low);
        Some((kind, sector.checked_mul(SECTOR)?))
    }

    /// Gives back what other threads are done with of queue `index`.
    fn give_back(&self, index: usize, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        let done: Vec<_> = {
            let mut progress = self.shared.lock();
            progress.done.extract_if(.., |(queue, ..)| *queue == index).collect()
        };
        done.into_iter().try_for_each(|(_, chain, written)| queue.complete(&chain, written?))
    }

    /// Waits until no other thread touches guest memory, and forgets what they did.
    fn settle(&self) {
        let mut progress = self.shared.lock();
        while progress.under_way > 0 {
            let woken = self.shared.changed.wait(progress);
            progress = woken.unwrap_or_else(PoisonError::into_inner);
        }
        progress.done.clear();
    }
}

impl Request {
    /// What it does to the pace.
    fn work(&self) -> Work {
        match self.what {
            Some((request::READ, _)) => Work::Read,
            Some((request::WRITE, _)) if !self.through => Work::Write,
            Some((
                request::WRITE | request::FLUSH | request::DISCARD | request::WRITE_ZEROES,
                _,
            )) => Work::Settle,
            // Nothing waits for anybody.
            _ => Work::Read,
        }
    }

    /// Bytes that it moves.
    fn length(&self) -> u64 {
        self.room + total(&self.chain.readable)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a request; returns how many bytes were written to guest memory.
    fn serve(&self, request: &Request) -> Result<u32, Broken> {
        let status = self.pace.measure(request.work(), request.length(), || self.execute(request));
        let place = [request.status];
        ranges::write(&self.ram, &place, &[status as u8]).map_err(|_| Broken)?;
        Ok(u32::try_from(request.room).unwrap_or(u32::MAX).saturating_add(1))
    }

    fn execute(&self, request: &Request) -> Status {
        let Some((kind, offset)) = request.what else { return Status::IoError };
        let Chain { readable, writable, .. } = &request.chain;
        let ram = &*self.ram;
        let result = match kind {
            request::READ => self.read(ram, offset, writable),
            request::WRITE => self.write(ram, offset, readable, request.through),
            request::FLUSH => self.disk.flush(),
            request::GET_ID => ranges::write(ram, writable, &self.id).map_err(other),
            request::DISCARD | request::WRITE_ZEROES => {
                return self.change_ranges(ram, kind, readable, request.through);
            }
            _ => return Status::Unsupported,
        };
        if result.is_ok() { Status::Ok } else { Status::IoError }
    }

    fn read(&self, ram: &GuestRam, offset: u64, data: &[DmaRange]) -> io::Result<()> {
        let slices = ram.dma_slices(data).map_err(other)?;
        let result = self.disk.read(offset, &slices);
        // A read that fails may have changed memory, too.
        ram.device_wrote(data);
        result
    }

    fn write(
        &self,
        ram: &GuestRam,
        offset: u64,
        data: &[DmaRange],
        through: bool,
    ) -> io::Result<()> {
        let slices = ram.dma_slices(data).map_err(other)?;
        self.disk.write(offset, &slices)?;
        if through { self.disk.flush() } else { Ok(()) }
    }

    fn change_ranges(&self, ram: &GuestRam, kind: u32, data: &[DmaRange], through: bool) -> Status {
        let mut bytes = [0; RANGES * request::SEGMENT];
        let Some(bytes) = usize::try_from(total(data)).ok().and_then(|n| bytes.get_mut(..n)) else {
            return Status::IoError;
        };
        let (segments, rest) = bytes.as_chunks_mut::<{ request::SEGMENT }>();
        if segments.is_empty()
            || !rest.is_empty()
            || ranges::read(ram, data, segments.as_flattened_mut()).is_err()
        {
            return Status::IoError;
        }
        for segment in segments {
            let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
            let (sector, count) = (number(&segment[..8]), number(&segment[8..12]));
            let flags = number(&segment[12..]) as u32;
            let allowed = if kind == request::DISCARD { 0 } else { request::UNMAP };
            if flags & !allowed != 0 {
                return Status::Unsupported;
            }
            let Some(offset) = sector.checked_mul(SECTOR) else { return Status::IoError };
            if count > u64::from(RANGE_SECTORS) {
                return Status::IoError;
            }
            let result = if kind == request::DISCARD {
                self.disk.discard(offset, count * SECTOR)
            } else {
                self.disk.write_zeroes(offset, count * SECTOR, flags & request::UNMAP != 0)
            };
            if result.is_err() {
                return Status::IoError;
            }
        }
        if through && self.disk.flush().is_err() {
            return Status::IoError;
        }
        Status::Ok
    }
}

fn other(error: ambos_memory::NotRam) -> io::Error {
    io::Error::other(error)
}

impl VirtioDevice for BlockDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind { id: 2, class: [1, 0, 0] }
    }

    fn features(&self) -> u64 {
        self.offered().bits()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.queues.into()]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (WRITE_CACHE, &[value]) = (offset as usize, data)
            && self.features.contains(Features::WRITE_CACHE)
        {
            self.write_cache = value & 1 != 0;
        }
    }

    fn set_features(&mut self, features: u64) {
        self.features = Features::from_bits_truncate(features);
    }

    fn connect(&mut self, doorbell: Doorbell) {
        self.doorbell = Some(doorbell);
    }

    fn reset(&mut self) {
        self.settle();
        self.features = Features::empty();
        self.write_cache = true;
    }

    fn serve(&mut self, index: usize, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        self.give_back(index, queue)?;
        queue.serve_all(|ram, chain| {
            let request = self.prepare(ram, chain)?;
            let (pool, doorbell) = match (&self.pool, &self.doorbell) {
                (Some(pool), Some(doorbell)) if !self.shared.pace.is_quick(request.work()) => {
                    (pool, doorbell.clone())
                }
                _ => return self.shared.serve(&request).map(Some),
            };
            self.shared.lock().under_way += 1;
            let shared = Arc::clone(&self.shared);
            pool.run(move || {
                let result = shared.serve(&request);
                let mut progress = shared.lock();
                progress.done.push((index, request.chain, result));
                progress.under_way -= 1;
                drop(progress);
                shared.changed.notify_all();
                doorbell.ring(&[index]);
            });
            Ok(None)
        })
    }
}

impl Drop for BlockDevice {
    /// The memory is used for something else afterwards.
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests;
