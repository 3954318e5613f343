//! What the guest receives.

use super::headers;
use super::spec::{RECEIVE_SLOT, ReceiveRequest, Status, extra, receive, received, segmentation};
use crate::events::{Channel, Notified, Progress};
use crate::grants::{Access, GrantRef, Grants, PAGE, Pins};
use crate::ring::RequestRing;
use crate::shared::RingError;
use crate::turnstile::Turnstile;
use ambos_memory::{Bytes, DmaRange, GuestPhysAddr};
use ambos_net::{NetBackend, Received, SegmentKind};
use std::io;
use std::sync::Arc;

/// Frames given in one call.
const FRAMES: usize = 512;

/// Reception on all queues of an adapter.
pub(super) struct Receiver {
    network: Arc<dyn NetBackend>,
    grants: Arc<dyn Grants>,
    queues: Turnstile<Queues>,
}

#[derive(Default)]
struct Queues {
    /// None while the halves are not connected.
    all: Vec<Queue>,
    /// A frame may be in several pages.
    scatter: bool,
}

struct Queue {
    ring: RequestRing,
    channel: Arc<dyn Channel>,
}

impl Receiver {
    /// Reception that begins once there are queues.
    pub(super) fn new(network: &Arc<dyn NetBackend>, grants: &Arc<dyn Grants>) -> Arc<Self> {
        let (network, grants) = (Arc::clone(network), Arc::clone(grants));
        Arc::new(Self { network, grants, queues: Turnstile::new(Queues::default()) })
    }

    /// Says whether a frame may be in several pages.
    pub(super) fn set_scatter(&self, scatter: bool) {
        self.queues.lock().scatter = scatter;
    }

    pub(super) fn add_queue(&self, ring: RequestRing, channel: Arc<dyn Channel>) {
        self.queues.lock().all.push(Queue { ring, channel });
    }

    /// Lets the rings and channels go. Nothing is under way afterwards.
    pub(super) fn disconnect(&self) {
        let queues = std::mem::take(&mut self.queues.lock().all);
        // Only now, without the lock: closing the channels takes those of the event channels.
        drop(queues);
    }

    /// Gives frames to the guest as long as it has pages for them, though not without end.
    fn serve(&self, queues: &mut Queues) -> Result<Progress, RingError> {
        if queues.all.is_empty() {
            return Ok(Progress::Done);
        }
        let (mut left, mut result) = (FRAMES, Ok(()));
        loop {
            // The queue that lacks pages for the next frame, and how many it needs.
            let mut starved = None;
            self.network.receive(&mut |frame| {
                if left == 0 {
                    return false;
                }
                left -= 1;
                let index = headers::stream(frame.parts[0]) % queues.all.len();
                match queues.all[index].give(&*self.grants, frame, queues.scatter) {
                    Ok(None) => true,
                    Ok(Some(needed)) => {
                        starved = Some((index, needed));
                        false
                    }
                    Err(error) => {
                        result = Err(error);
                        false
                    }
                }
            });
            result?;
            if left == 0 {
                return Ok(Progress::More);
            }
            let Some((index, needed)) = starved else { return Ok(Progress::Done) };
            // The guest notifies of pages only if they are missed.
            if queues.all[index].ring.wait_for(needed)? < needed {
                return Ok(Progress::Done);
            }
        }
    }
}

impl Queue {
    /// Gives a frame to the guest. If there are not enough pages, returns how many it needs.
    fn give(
        &mut self,
        grants: &dyn Grants,
        frame: &Received<'_>,
        scatter: bool,
    ) -> Result<Option<u32>, RingError> {
        let length = frame.length();
        let cut = frame.offload.segmentation.and_then(|segments| match segments.kind {
            SegmentKind::TcpV4 => Some(segmentation(extra::TCP_V4, segments.size)),
            SegmentKind::TcpV6 => Some(segmentation(extra::TCP_V6, segments.size)),
            SegmentKind::Udp => None,
        });
        let pages = length.div_ceil(PAGE as usize).max(1) as u32;
        let needed = pages + u32::from(cut.is_some());
        if needed > self.ring.slots() || pages > 1 && !scatter {
            // It fits nowhere: it is lost.
            return Ok(None);
        }
        if self.ring.waiting()? < needed {
            return Ok(Some(needed));
        }
        let mut flags = 0;
        if frame.offload.checksum.is_some() {
            flags |= receive::CHECKSUM_BLANK | receive::DATA_VALIDATED;
        } else if frame.offload.valid {
            flags |= receive::DATA_VALIDATED;
        }
        if cut.is_some() {
            flags |= receive::EXTRA_INFO;
        }
        let mut parts = frame.parts;
        for page in (1..=pages).rev() {
            let request = ReceiveRequest::decode(&self.take()?);
            if page > 1 {
                flags |= receive::MORE_DATA;
            } else {
                flags &= !receive::MORE_DATA;
            }
            let status = match fill(grants, request.page, &mut parts) {
                Ok(count) => count,
                Err(_) => Status::Error as i16,
            };
            self.ring.answer(&received(request.id, flags, status))?;
            if flags & receive::EXTRA_INFO != 0
                && let Some(cut) = cut
            {
                // This takes a page's place; the page itself stays the guest's.
                self.take()?;
                self.ring.answer(&cut)?;
            }
            flags = 0;
        }
        if self.ring.publish()? {
            self.channel.notify();
        }
        Ok(None)
    }

    fn take(&mut self) -> Result<[u8; RECEIVE_SLOT], RingError> {
        let mut slot = [0; RECEIVE_SLOT];
        self.ring.take(&mut slot)?;
        Ok(slot)
    }
}

/// Fills a page from the front of `parts`; returns how many bytes that were.
fn fill(grants: &dyn Grants, page: GrantRef, parts: &mut [&[u8]; 2]) -> io::Result<i16> {
    let mut pins = Pins::new(grants);
    let pinned = pins.page(page, Access::Write);
    let ram = grants.ram();
    let (mut count, mut result) = (0u32, Ok(()));
    for part in parts {
        let (now, later) = part.split_at(part.len().min((PAGE - count) as usize));
        // The bytes are gone even if they cannot be given.
        *part = later;
        if let (Ok(address), false) = (&pinned, now.is_empty()) {
            let place = GuestPhysAddr(address + u64::from(count));
            result = result.and(ram.memory().write_slice(now, place).map_err(io::Error::other));
        }
        count += now.len() as u32;
    }
    let address = pinned.map_err(io::Error::other)?;
    result?;
    ram.device_wrote(&[DmaRange { address, length: count }]);
    Ok(count as i16)
}

impl Notified for Receiver {
    fn notified(&self) -> Progress {
        let mut broken = Vec::new();
        let progress = self.queues.serve(|queues| match self.serve(queues) {
            Ok(progress) => progress,
            Err(error) => {
                tracing::warn!("an adapter receives no more: {error}");
                broken = std::mem::take(&mut queues.all);
                Progress::Done
            }
        });
        drop(broken);
        progress
    }
}
