//! Requests in queues, as devices see them.
//!
//! The rings are `virtio-queue`'s, which bounds chains and checks the rings' own addresses. What a
//! request's descriptors name is checked by whoever moves data there.

use ambos_memory::{Bytes, DmaRange, GuestPhysAddr, GuestRam};
use std::sync::atomic::{Ordering, fence};
use thiserror::Error;
use virtio_queue::{Queue, QueueOwnedT, QueueT};

/// The layout of the rings (section 2.7).
mod ring {
    /// Flag of the available ring: no interrupts.
    pub(super) const NO_INTERRUPT: u16 = 1;
    /// Bytes in front of the entries of either ring.
    pub(super) const HEADER: u64 = 4;
    /// Bytes of an entry of the available ring.
    pub(super) const AVAILABLE: u64 = 2;
    /// Bytes of an entry of the used ring.
    pub(super) const USED: u64 = 8;
}

/// The driver breaks the rules: the device stops until it is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the driver breaks the rules of the queue")]
pub struct Broken;

/// A request: memory for the device to read, then memory for it to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    head: u16,
    /// What the device reads.
    pub readable: Vec<DmaRange>,
    /// What the device writes.
    pub writable: Vec<DmaRange>,
}

/// A queue and the memory that it is in, while its device looks at it.
#[derive(Debug)]
pub struct QueueAccess<'a> {
    queue: &'a mut Queue,
    ram: &'a GuestRam,
    /// Requests that this look at the queue may still serve.
    budget: u32,
    /// How many requests had been given back when the driver was told of it last.
    told: u16,
}

/// Completed requests that the driver was not told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Untold {
    /// How many had been completed when the driver was told last.
    pub(crate) since: u16,
    /// How many there are of them.
    pub(crate) count: u16,
    /// How many the queue holds.
    pub(crate) size: u16,
}

/// A buffer that the device has filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    head: u16,
    /// Bytes that were written to it.
    pub written: u32,
}

/// Most requests that are served in one go: a driver on another vCPU that never runs dry must not
/// hold the vCPU for ever.
const BUDGET: u32 = 1024;

impl<'a> QueueAccess<'a> {
    /// A look at a queue that is ready.
    pub(crate) fn new(queue: &'a mut Queue, ram: &'a GuestRam) -> Self {
        let told = queue.next_used();
        Self { queue, ram, budget: BUDGET, told }
    }

    /// The guest's memory.
    pub fn ram(&self) -> &'a GuestRam {
        self.ram
    }

    /// The next request, if there is one.
    pub fn pop(&mut self) -> Option<Chain> {
        self.budget = self.budget.checked_sub(1)?;
        let chain = self.queue.pop_descriptor_chain(self.ram.memory())?;
        let mut request =
            Chain { head: chain.head_index(), readable: Vec::new(), writable: Vec::new() };
        for descriptor in chain {
            let range = DmaRange { address: descriptor.addr().0, length: descriptor.len() };
            if descriptor.is_write_only() {
                request.writable.push(range);
            } else {
                request.readable.push(range);
            }
        }
        Some(request)
    }

    /// The next request as a buffer to fill, whose memory is appended to `ranges`. What the device
    /// could read of it does not count.
    pub fn pop_buffer(&mut self, ranges: &mut Vec<DmaRange>) -> Option<Filled> {
        self.budget = self.budget.checked_sub(1)?;
        let chain = self.queue.pop_descriptor_chain(self.ram.memory())?;
        let head = chain.head_index();
        let writable = chain.filter(|descriptor| descriptor.is_write_only());
        ranges.extend(
            writable.map(|descriptor| DmaRange {
                address: descriptor.addr().0,
                length: descriptor.len(),
            }),
        );
        Some(Filled { head, written: 0 })
    }

    /// Takes back the last `count` requests that were popped, none of which was completed.
    pub fn put_back(&mut self, count: usize) {
        for _ in 0..count {
            self.queue.go_to_previous_position();
            self.budget += 1;
        }
    }

    /// Gives buffers back, which the driver sees all at once.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the ring is not in memory.
    pub fn complete_together(&mut self, buffers: &[Filled]) -> Result<(), Broken> {
        let Some((last, others)) = buffers.split_last() else { return Ok(()) };
        let (memory, size) = (self.ram.memory(), self.queue.size().max(1));
        let mut position = self.queue.next_used();
        for Filled { head, written } in others {
            let mut entry = [0; ring::USED as usize];
            entry[..2].copy_from_slice(&head.to_le_bytes());
            entry[4..].copy_from_slice(&written.to_le_bytes());
            let offset = ring::HEADER + u64::from(position % size) * ring::USED;
            let place = self.queue.used_ring().checked_add(offset).ok_or(Broken)?;
            memory.write_slice(&entry, GuestPhysAddr(place)).map_err(|_| Broken)?;
            position = position.wrapping_add(1);
        }
        // The last one's index publishes all of them.
        self.queue.set_next_used(position);
        self.queue.add_used(memory, last.head, last.written).map_err(|_| Broken)
    }

    /// Asks the driver to announce requests that are made available from now on. Returns whether
    /// there are some already.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the rings are not in memory.
    pub fn ask_for_more(&mut self) -> Result<bool, Broken> {
        self.queue.enable_notification(self.ram.memory()).map_err(|_| Broken)
    }

    /// Tells the driver that it need not announce requests.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the rings are not in memory.
    pub fn ask_for_silence(&mut self) -> Result<(), Broken> {
        self.queue.disable_notification(self.ram.memory()).map_err(|_| Broken)
    }

    /// Gives a request back, of which the device wrote `written` bytes.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the ring is not in memory.
    pub fn complete(&mut self, chain: &Chain, written: u32) -> Result<(), Broken> {
        let result = self.queue.add_used(self.ram.memory(), chain.head, written);
        result.map_err(|_| Broken)
    }

    /// Serves requests until there are none left. While `serve` works, the driver need not announce
    /// more of them; it returns how many bytes it wrote, or `None` if it keeps the request to
    /// complete it later.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the rings are not in memory, or `serve` says so.
    pub fn serve_all(
        &mut self,
        mut serve: impl FnMut(&GuestRam, Chain) -> Result<Option<u32>, Broken>,
    ) -> Result<(), Broken> {
        loop {
            self.queue.disable_notification(self.ram.memory()).map_err(|_| Broken)?;
            while let Some(chain) = self.pop() {
                let head = Chain { head: chain.head, readable: Vec::new(), writable: Vec::new() };
                if let Some(written) = serve(self.ram, chain)? {
                    self.complete(&head, written)?;
                }
            }
            let more = self.queue.enable_notification(self.ram.memory()).map_err(|_| Broken)?;
            if !more || self.budget == 0 {
                return Ok(());
            }
        }
    }

    /// The driver was told last when `told` requests had been completed. Returns whether it still has to be
    /// told of what was completed since; if not, it counts as told.
    pub(crate) fn begin_at(&mut self, told: u16) -> Result<bool, Broken> {
        self.told = told;
        let unknown = self.untold()?.is_some();
        if !unknown {
            self.told = self.queue.next_used();
        }
        Ok(unknown)
    }

    /// What was completed and the driver must be told of.
    pub(crate) fn untold(&self) -> Result<Option<Untold>, Broken> {
        let (before, now) = (self.told, self.queue.next_used());
        if before == now {
            return Ok(None);
        }
        let untold =
            Untold { since: before, count: now.wrapping_sub(before), size: self.queue.size() };
        // The driver, which looks the other way round, must not miss what was completed.
        fence(Ordering::SeqCst);
        let entries = u64::from(self.queue.size()) * ring::AVAILABLE;
        let events = self.queue.event_idx_enabled();
        let offset = if events { ring::HEADER + entries } else { 0 };
        let place = self.queue.avail_ring().checked_add(offset).ok_or(Broken)?;
        let memory = self.ram.memory();
        let word: u16 = memory.load(GuestPhysAddr(place), Ordering::Relaxed).map_err(|_| Broken)?;
        let word = u16::from_le(word);
        let wanted = if events {
            now.wrapping_sub(word).wrapping_sub(1) < untold.count
        } else {
            word & ring::NO_INTERRUPT == 0
        };
        Ok(wanted.then_some(untold))
    }

    /// Whether there may be requests left that nobody will announce again.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.budget == 0
    }
}
