//! A ring of requests while the two halves are connected, and the loop that serves it.

use crate::events::{Channel, Progress};
use crate::ring::RequestRing;
use crate::shared::RingError;
use crate::turnstile::Turnstile;
use std::sync::Arc;

/// How a batch of requests went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Batch {
    /// All of them are answered.
    Answered,
    /// The rest has to wait for something that will have the ring served again.
    Held,
}

/// A ring of requests, with `T` that is kept with it.
pub(crate) struct ServedRing<T> {
    /// Whose ring it is, for messages.
    owner: &'static str,
    /// There while the halves are connected.
    live: Turnstile<Option<Live<T>>>,
}

struct Live<T> {
    ring: RequestRing,
    channel: Option<Arc<dyn Channel>>,
    kept: T,
}

impl<T> ServedRing<T> {
    /// Serves `ring` as soon as it has a channel.
    pub(crate) fn new(owner: &'static str, ring: RequestRing, kept: T) -> Self {
        Self { owner, live: Turnstile::new(Some(Live { ring, channel: None, kept })) }
    }

    pub(crate) fn set_channel(&self, channel: Arc<dyn Channel>) {
        if let Some(live) = &mut *self.live.lock() {
            live.channel = Some(channel);
        }
    }

    /// Lets the ring and the channel go. Nothing is under way afterwards.
    pub(crate) fn disconnect(&self) {
        let live = self.live.lock().take();
        // Only now, without the lock: closing the channel takes those of the event channels.
        drop(live);
    }

    /// Serves requests with `batch`, which takes as many from the ring as it is told and answers them.
    /// Whatever comes meanwhile is served, too, as long as it is not more than a ring full.
    ///
    /// A guest that breaks the ring's rules loses it.
    pub(crate) fn serve(
        &self,
        mut batch: impl FnMut(&mut RequestRing, u32, &mut T) -> Result<Batch, RingError>,
    ) -> Progress {
        let mut broken = None;
        let progress = self.live.serve(|live| {
            let Some(connected) = live else { return Progress::Done };
            connected.serve(&mut batch).unwrap_or_else(|error| {
                tracing::warn!("{}'s ring is served no more: {error}", self.owner);
                broken = live.take();
                Progress::Done
            })
        });
        // Without the lock, as above.
        drop(broken);
        progress
    }
}

impl<T> Live<T> {
    fn serve(
        &mut self,
        batch: &mut impl FnMut(&mut RequestRing, u32, &mut T) -> Result<Batch, RingError>,
    ) -> Result<Progress, RingError> {
        let Self { ring, channel: Some(channel), kept } = self else { return Ok(Progress::Done) };
        let mut left = ring.slots();
        let mut waiting = ring.waiting()?;
        loop {
            let went = batch(ring, waiting, kept)?;
            if ring.publish()? {
                channel.notify();
            }
            if went == Batch::Held {
                return Ok(Progress::Done);
            }
            left = left.saturating_sub(waiting);
            if left == 0 {
                return Ok(Progress::More);
            }
            waiting = ring.ask_for_notification()?;
            if waiting == 0 {
                return Ok(Progress::Done);
            }
        }
    }
}
