//! A ring of requests and responses (`io/ring.h`), the back end's side.
//!
//! Requests and responses share the slots: a response may take the slot of a request that was
//! taken out before. All indices count without end; only their differences and their low bits
//! mean anything.

use crate::shared::{RingError, SharedPages};

/// Places of the indices in the first page.
mod at {
    pub(super) const REQUEST_PRODUCER: u32 = 0;
    /// The guest notifies when its producer passes this.
    pub(super) const REQUEST_EVENT: u32 = 4;
    pub(super) const RESPONSE_PRODUCER: u32 = 8;
    /// We notify when our producer passes this.
    pub(super) const RESPONSE_EVENT: u32 = 12;
    /// The first slot.
    pub(super) const SLOTS: u32 = 64;
}

/// Our side of a ring.
pub(crate) struct RequestRing {
    // Configuration.
    pages: SharedPages,
    slot: u32,
    slots: u32,

    // Volatile state.
    /// Requests taken out.
    taken: u32,
    /// Responses put in.
    answered: u32,
    /// Responses that the guest can see.
    published: u32,
}

impl RequestRing {
    /// The ring in `pages`, with slots of `slot` bytes.
    pub(crate) fn new(pages: SharedPages, slot: u32) -> Result<Self, RingError> {
        let slots = 1 << (pages.size().saturating_sub(at::SLOTS) / slot).max(1).ilog2();
        let start = pages.load(at::RESPONSE_PRODUCER)?;
        let ring = Self { pages, slot, slots, taken: start, answered: start, published: start };
        ring.waiting()?;
        Ok(ring)
    }

    /// Slots.
    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    /// Requests that can be taken out.
    ///
    /// # Errors
    ///
    /// [`RingError::Indices`] if the guest has put in more than there are free slots.
    pub(crate) fn waiting(&self) -> Result<u32, RingError> {
        let producer = self.pages.load(at::REQUEST_PRODUCER)?;
        if producer.wrapping_sub(self.published) > self.slots {
            return Err(RingError::Indices);
        }
        Ok(producer.wrapping_sub(self.taken).min(self.slots))
    }

    /// Copies the next request out, of those that are [waiting](Self::waiting).
    pub(crate) fn take(&mut self, request: &mut [u8]) -> Result<(), RingError> {
        let length = request.len().min(self.slot as usize);
        self.pages.read(self.place(self.taken), &mut request[..length])?;
        self.taken = self.taken.wrapping_add(1);
        Ok(())
    }

    /// Puts a response in. There must be no more of them than requests were taken out.
    pub(crate) fn answer(&mut self, response: &[u8]) -> Result<(), RingError> {
        debug_assert_ne!(self.answered, self.taken, "a response without a request");
        let length = response.len().min(self.slot as usize);
        self.pages.write(self.place(self.answered), &response[..length])?;
        self.answered = self.answered.wrapping_add(1);
        Ok(())
    }

    /// Lets the guest see all responses; returns whether it wants to be notified.
    pub(crate) fn publish(&mut self) -> Result<bool, RingError> {
        let old = std::mem::replace(&mut self.published, self.answered);
        if old == self.answered {
            return Ok(false);
        }
        self.pages.store(at::RESPONSE_PRODUCER, self.answered)?;
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let event = self.pages.load(at::RESPONSE_EVENT)?;
        Ok(self.answered.wrapping_sub(event) < self.answered.wrapping_sub(old))
    }

    /// Asks to be notified of the next request; returns how many came meanwhile.
    pub(crate) fn ask_for_notification(&mut self) -> Result<u32, RingError> {
        self.wait_for(1)
    }

    /// Unless there are `count` requests, asks to be notified when there are; returns how many
    /// there are.
    pub(crate) fn wait_for(&mut self, count: u32) -> Result<u32, RingError> {
        let waiting = self.waiting()?;
        if waiting >= count {
            return Ok(waiting);
        }
        self.pages.store(at::REQUEST_EVENT, self.taken.wrapping_add(count))?;
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.waiting()
    }

    fn place(&self, index: u32) -> u32 {
        at::SLOTS + (index & (self.slots - 1)) * self.slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Guest;

    #[test]
    fn slots_are_as_many_as_a_power_of_two_fits() {
        let guest = Guest::new();
        for (pages, slot, slots) in [(1, 112, 32), (1, 12, 256), (1, 8, 256), (4, 112, 128)] {
            let references = (0..pages).map(|_| guest.grant_new(false)).collect::<Vec<_>>();
            let shared = SharedPages::granted(&guest.grants(), &references).unwrap();
            assert_eq!(RequestRing::new(shared, slot).unwrap().slots(), slots);
        }
    }

    #[test]
    fn the_guest_is_notified_as_it_asks() {
        let guest = Guest::new();
        let mut front = guest.ring(1, 112);
        let mut ring = RequestRing::new(front.pages(), 112).unwrap();
        assert_eq!(ring.waiting(), Ok(0));
        front.push(&[1; 112]);
        front.push(&[2; 112]);
        assert!(front.publish());
        assert_eq!(ring.waiting(), Ok(2));
        let mut request = [0; 112];
        ring.take(&mut request).unwrap();
        assert_eq!(request, [1; 112]);
        ring.answer(&[9; 16]).unwrap();
        // It asked for the first response, and then for none.
        assert_eq!(ring.publish(), Ok(true));
        ring.take(&mut request).unwrap();
        ring.answer(&[8; 16]).unwrap();
        assert_eq!(ring.publish(), Ok(false));
        assert_eq!(ring.publish(), Ok(false));
        assert_eq!(front.pop::<16>(), Some([9; 16]));
        assert_eq!(front.pop::<16>(), Some([8; 16]));
        assert_eq!(front.pop::<16>(), None);
        // It notifies only if it was asked to.
        front.push(&[3; 112]);
        assert!(!front.publish());
        assert_eq!(ring.ask_for_notification(), Ok(1));
        ring.take(&mut request).unwrap();
        assert_eq!(ring.ask_for_notification(), Ok(0));
        front.push(&[4; 112]);
        assert!(front.publish());
    }

    #[test]
    fn too_many_requests_are_seen() {
        let guest = Guest::new();
        let front = guest.ring(1, 112);
        let mut ring = RequestRing::new(front.pages(), 112).unwrap();
        front.pages().store(at::REQUEST_PRODUCER, 32).unwrap();
        assert_eq!(ring.waiting(), Ok(32));
        ring.take(&mut [0; 112]).unwrap();
        ring.answer(&[0; 16]).unwrap();
        // Until the guest can see the response, its slot is not free.
        front.pages().store(at::REQUEST_PRODUCER, 33).unwrap();
        assert_eq!(ring.waiting(), Err(RingError::Indices));
        ring.publish().unwrap();
        assert_eq!(ring.waiting(), Ok(32));
        front.pages().store(at::REQUEST_PRODUCER, 0u32.wrapping_sub(1)).unwrap();
        assert_eq!(ring.ask_for_notification(), Err(RingError::Indices));
    }
}
