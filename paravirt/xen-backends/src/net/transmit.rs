//! What the guest sends.

use super::headers::{self, Transport};
use super::spec::{SendRequest, Status, TRANSMIT_SLOT, extra, sent, transmit};
use crate::events::{Notified, Progress};
use crate::grants::{Access, Grants, Pins};
use crate::ring::RequestRing;
use crate::served::{Batch, ServedRing};
use crate::shared::RingError;
use ambos_memory::{DmaRange, VolatileSlice};
use ambos_net::{NetBackend, Offload, SegmentKind, Segmentation};
use std::sync::Arc;

/// Requests of one frame at most. A guest that uses more is broken.
const REQUESTS_MAX: usize = 20;
/// Slots that say more about one frame at most.
const EXTRAS_MAX: usize = 5;

/// One queue of requests to send.
pub(super) struct Transmitter {
    network: Arc<dyn NetBackend>,
    grants: Arc<dyn Grants>,
    /// With the frame for which the network had no room.
    ring: ServedRing<Option<Frame>>,
}

/// The requests of one frame.
pub(super) struct Frame {
    parts: Vec<SendRequest>,
    extras: usize,
    /// Kind and size of the segments that it is to be cut into.
    segments: Option<(u8, u16)>,
    /// It is no frame, but a wish about groups. All groups' frames are given anyway.
    control: bool,
}

/// There is no room for a frame.
struct NoRoom;

impl Transmitter {
    /// A queue that serves `ring` as soon as it has a channel.
    pub(super) fn new(
        network: &Arc<dyn NetBackend>,
        grants: &Arc<dyn Grants>,
        ring: RequestRing,
    ) -> Arc<Self> {
        let ring = ServedRing::new("an adapter", ring, None);
        Arc::new(Self { network: Arc::clone(network), grants: Arc::clone(grants), ring })
    }

    /// The ring, to connect and disconnect it.
    pub(super) fn ring(&self) -> &ServedRing<Option<Frame>> {
        &self.ring
    }

    fn send(&self, frame: &Frame) -> Result<Status, NoRoom> {
        if frame.control {
            return Ok(Status::Okay);
        }
        let mut pins = Pins::new(&*self.grants);
        let ranges = frame.lengths().zip(&frame.parts).map(|(length, part)| {
            pins.range(part.page, Access::Read, part.offset.into(), length).ok()
        });
        let Some(ranges) = ranges.collect::<Option<Vec<DmaRange>>>() else {
            return Ok(Status::Error);
        };
        let Ok(slices) = self.grants.ram().dma_slices(&ranges) else { return Ok(Status::Error) };
        let Some(offload) = frame.offload(&slices) else { return Ok(Status::Error) };
        self.network.transmit(&offload, &slices).map_err(|_| NoRoom)?;
        Ok(Status::Okay)
    }
}

impl Frame {
    /// Takes the requests of a frame out.
    fn take(ring: &mut RequestRing, waiting: &mut u32) -> Result<Self, RingError> {
        let mut next = || {
            *waiting = waiting.checked_sub(1).ok_or(RingError::Requests)?;
            let mut slot = [0; TRANSMIT_SLOT];
            ring.take(&mut slot)?;
            Ok::<_, RingError>(slot)
        };
        let first = SendRequest::decode(&next()?);
        let mut frame = Self { parts: vec![first], extras: 0, segments: None, control: false };
        let mut more = first.flags & transmit::EXTRA_INFO != 0;
        while more {
            let [kind, flags, size_0, size_1, segments, ..] = next()?;
            frame.extras += 1;
            match kind {
                extra::SEGMENTATION => {
                    frame.segments = Some((segments, u16::from_le_bytes([size_0, size_1])));
                }
                extra::GROUP_ADD | extra::GROUP_REMOVE => frame.control = true,
                _ => {}
            }
            more = flags & extra::MORE != 0;
            if frame.extras > EXTRAS_MAX {
                return Err(RingError::Requests);
            }
        }
        if frame.control {
            return Ok(frame);
        }
        let mut rest = u32::from(first.size);
        let mut last = first;
        while last.flags & transmit::MORE_DATA != 0 {
            last = SendRequest::decode(&next()?);
            frame.parts.push(last);
            rest = rest.checked_sub(last.size.into()).ok_or(RingError::Requests)?;
            if frame.parts.len() > REQUESTS_MAX {
                return Err(RingError::Requests);
            }
        }
        Ok(frame)
    }

    /// Bytes in the page of each request. They do not fall below zero: that was looked at when they
    /// were taken out.
    fn lengths(&self) -> impl Iterator<Item = u32> {
        let total = self.parts.first().map_or(0, |first| u32::from(first.size));
        let others = || self.parts.iter().skip(1).map(|part| u32::from(part.size));
        let first = total.saturating_sub(others().sum());
        std::iter::once(first).chain(others())
    }

    /// What is left to be done to the frame, whose content is in `slices`; none if that is not
    /// possible.
    fn offload(&self, slices: &[VolatileSlice<'_>]) -> Option<Offload> {
        let flags = self.parts.first()?.flags;
        let valid = flags & transmit::DATA_VALIDATED != 0;
        if flags & transmit::CHECKSUM_BLANK == 0 && self.segments.is_none() {
            return Some(Offload { valid, ..Offload::NONE });
        }
        let mut head = [0; headers::LENGTH];
        let mut length = 0;
        for slice in slices {
            length += slice.copy_to(&mut head[length..]);
        }
        let Transport { checksum, headers } = Transport::of(&head[..length])?;
        let segmentation = match self.segments {
            None => None,
            Some((kind, size)) => {
                let kind = match kind {
                    extra::TCP_V4 => SegmentKind::TcpV4,
                    extra::TCP_V6 => SegmentKind::TcpV6,
                    _ => return None,
                };
                let size = (size > 0).then_some(size)?;
                Some(Segmentation { kind, ecn: false, size, header: headers })
            }
        };
        Some(Offload { checksum: Some(checksum), valid: false, segmentation })
    }

    /// Answers all requests of the frame.
    fn answer(&self, ring: &mut RequestRing, status: Status) -> Result<(), RingError> {
        for (index, part) in self.parts.iter().enumerate() {
            ring.answer(&sent(part.id, status))?;
            if index == 0 {
                for _ in 0..self.extras {
                    ring.answer(&sent(0, Status::Null))?;
                }
            }
        }
        Ok(())
    }
}

impl Notified for Transmitter {
    fn notified(&self) -> Progress {
        self.ring.serve(|ring, mut waiting, held| {
            while held.is_some() || waiting > 0 {
                let frame = match held.take() {
                    Some(frame) => frame,
                    None => Frame::take(ring, &mut waiting)?,
                };
                match self.send(&frame) {
                    Ok(status) => frame.answer(ring, status)?,
                    // The network says when there is room again; until then silence is right.
                    Err(NoRoom) => {
                        *held = Some(frame);
                        return Ok(Batch::Held);
                    }
                }
            }
            Ok(Batch::Answered)
        })
    }
}
