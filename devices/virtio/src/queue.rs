//! Requests in queues, as devices see them.
//!
//! The rings are `virtio-queue`'s, which bounds chains and checks the rings' own addresses. What a
//! request's descriptors name is checked by whoever moves data there.

use ambos_memory::{DmaRange, GuestRam};
use thiserror::Error;
use virtio_queue::{Queue, QueueT};

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
    completed: bool,
}

/// Most requests that are served in one go: a driver on another vCPU that never runs dry must not
/// hold the vCPU for ever.
const BUDGET: u32 = 1024;

impl<'a> QueueAccess<'a> {
    /// A look at a queue that is ready.
    pub(crate) fn new(queue: &'a mut Queue, ram: &'a GuestRam) -> Self {
        Self { queue, ram, budget: BUDGET, completed: false }
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

    /// Gives a request back, of which the device wrote `written` bytes.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the ring is not in memory.
    pub fn complete(&mut self, chain: &Chain, written: u32) -> Result<(), Broken> {
        self.completed = true;
        let result = self.queue.add_used(self.ram.memory(), chain.head, written);
        result.map_err(|_| Broken)
    }

    /// Serves requests until there are none left. While `serve` works, the driver need not announce
    /// more of them; it returns how many bytes it wrote.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the rings are not in memory, or `serve` says so.
    pub fn serve_all(
        &mut self,
        mut serve: impl FnMut(&GuestRam, Chain) -> Result<u32, Broken>,
    ) -> Result<(), Broken> {
        loop {
            self.queue.disable_notification(self.ram.memory()).map_err(|_| Broken)?;
            while let Some(chain) = self.pop() {
                let head = Chain { head: chain.head, readable: Vec::new(), writable: Vec::new() };
                let written = serve(self.ram, chain)?;
                self.complete(&head, written)?;
            }
            let more = self.queue.enable_notification(self.ram.memory()).map_err(|_| Broken)?;
            if !more || self.budget == 0 {
                return Ok(());
            }
        }
    }

    /// Whether the driver must be told of what was completed.
    pub(crate) fn needs_interrupt(&mut self) -> Result<bool, Broken> {
        if !self.completed {
            return Ok(false);
        }
        self.queue.needs_notification(self.ram.memory()).map_err(|_| Broken)
    }

    /// Whether there may be requests left that nobody will announce again.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.budget == 0
    }
}
