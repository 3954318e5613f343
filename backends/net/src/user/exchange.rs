//! Where frames wait on their way between the adapter and the stack's thread.

use crate::offload::{Accepts, Offload};
use crate::segments::{Received, Segments};
use crate::{ETHERNET_HEADER, FRAME_MAX, Full, NetPort, Slice};
use mio::Waker;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Frames that wait in one direction at most.
const FRAMES_MAX: usize = 512;
/// Their bytes at most; the last frame may go beyond.
const BYTES_MAX: usize = 1 << 20;
/// Frames that may wait for the guest beyond that if they answer its own.
const ANSWERS_MAX: usize = 256;
/// Frames up to this length get memory of their own, others that of an earlier frame.
const SMALL: usize = 4096;
/// Buffers for large frames that are kept.
const SPARE_MAX: usize = 32;

/// A frame, and how far it was given on.
pub(super) struct Frame {
    bytes: Vec<u8>,
    length: usize,
    pub(super) offload: Offload,
    segments: Segments,
}

impl Frame {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    /// Gives the frame in forms that are accepted; see [`Segments::give`].
    pub(super) fn give(
        &mut self,
        accepts: Accepts,
        take: &mut dyn FnMut(&Received<'_>) -> bool,
    ) -> bool {
        let Self { bytes, length, offload, segments } = self;
        segments.give(&mut bytes[..*length], offload, accepts, take)
    }
}

/// The frames of one direction.
#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Queue {
    fn is_full(&self) -> bool {
        self.frames.len() >= FRAMES_MAX || self.bytes >= BYTES_MAX
    }

    /// Memory of at least `length` bytes.
    fn buffer(&mut self, length: usize) -> Vec<u8> {
        if length <= SMALL {
            return vec![0; length];
        }
        self.spare.pop().unwrap_or_else(|| vec![0; FRAME_MAX])
    }

    fn recycle(&mut self, frame: Frame) {
        if frame.bytes.len() == FRAME_MAX && self.spare.len() < SPARE_MAX {
            self.spare.push(frame.bytes);
        }
    }

    fn push(&mut self, frame: Frame) {
        self.bytes += frame.length;
        self.frames.push_back(frame);
    }

    fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.length;
        Some(frame)
    }
}

/// Frames of the guest, and whether the stack's thread sleeps.
#[derive(Default)]
struct Outbound {
    queue: Queue,
    /// The adapter found the queue full.
    refused: bool,
    /// The stack's thread must be woken.
    sleeping: bool,
    /// A new adapter was connected: the guest is a new one.
    attached: bool,
}

/// Frames for the guest.
#[derive(Default)]
struct Inbound {
    queue: Queue,
    accepts: Accepts,
    /// The adapter has no room and asks for frames by itself once it has.
    blocked: bool,
    /// The stack waits for room.
    refused: bool,
}

/// Both directions.
pub(super) struct Exchange {
    outbound: Mutex<Outbound>,
    inbound: Mutex<Inbound>,
    port: Mutex<Option<Weak<dyn NetPort>>>,
    waker: Waker,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The adapter's half.
impl Exchange {
    pub(super) fn new(waker: Waker) -> Self {
        Self {
            outbound: Mutex::default(),
            inbound: Mutex::default(),
            port: Mutex::new(None),
            waker,
        }
    }

    /// Wakes the stack's thread, which ends if it is asked to.
    pub(super) fn wake(&self) {
        // The only error is that of a kernel without memory; the thread then wakes by its timer.
        let _ = self.waker.wake();
    }

    pub(super) fn attach(&self, port: Weak<dyn NetPort>) {
        *lock(&self.port) = Some(port);
        {
            let mut inbound = lock(&self.inbound);
            *inbound = Inbound::default();
        }
        {
            let mut outbound = lock(&self.outbound);
            *outbound = Outbound { attached: true, ..Outbound::default() };
        }
        self.wake();
    }

    pub(super) fn accept(&self, accepts: Accepts) {
        lock(&self.inbound).accepts = accepts;
    }

    pub(super) fn transmit(&self, offload: &Offload, parts: &[Slice<'_>]) -> Result<(), Full> {
        let length = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.len()));
        if !(ETHERNET_HEADER..=FRAME_MAX).contains(&length) {
            return Ok(());
        }
        let mut bytes = {
            let mut outbound = lock(&self.outbound);
            if outbound.queue.is_full() {
                outbound.refused = true;
                return Err(Full);
            }
            outbound.queue.buffer(length)
        };
        let mut rest = &mut bytes[..length];
        for part in parts {
            let (head, tail) = rest.split_at_mut(part.len());
            part.copy_to(head);
            rest = tail;
        }
        let frame = Frame { bytes, length, offload: *offload, segments: Segments::default() };
        let wake = {
            let mut outbound = lock(&self.outbound);
            outbound.queue.push(frame);
            std::mem::take(&mut outbound.sleeping)
        };
        if wake {
            self.wake();
        }
        Ok(())
    }

    pub(super) fn receive(&self, take: &mut dyn FnMut(&Received<'_>) -> bool) {
        loop {
            // The frames are given without the lock, so that the stack can go on meanwhile. Only
            // one adapter asks, so their order is kept.
            let (mut frames, accepts) = {
                let mut inbound = lock(&self.inbound);
                inbound.blocked = false;
                inbound.queue.bytes = 0;
                (std::mem::take(&mut inbound.queue.frames), inbound.accepts)
            };
            if frames.is_empty() {
                break;
            }
            let mut given = 0;
            for frame in &mut frames {
                if !frame.give(accepts, take) {
                    break;
                }
                given += 1;
            }
            let blocked = given < frames.len();
            let done: Vec<Frame> = frames.drain(..given).collect();
            let mut inbound = lock(&self.inbound);
            for frame in done {
                inbound.queue.recycle(frame);
            }
            for frame in frames.into_iter().rev() {
                inbound.queue.bytes += frame.length;
                inbound.queue.frames.push_front(frame);
            }
            inbound.blocked = blocked;
            if blocked {
                break;
            }
        }
        let wake = {
            let mut inbound = lock(&self.inbound);
            !inbound.queue.is_full() && std::mem::take(&mut inbound.refused)
        };
        if wake {
            self.wake();
        }
    }
}

/// The stack's half.
impl Exchange {
    /// Whether a new adapter was connected since this was asked last.
    pub(super) fn take_attached(&self) -> bool {
        std::mem::take(&mut lock(&self.outbound).attached)
    }

    /// The next frame of the guest.
    pub(super) fn next(&self) -> Option<Frame> {
        let mut outbound = lock(&self.outbound);
        outbound.sleeping = false;
        outbound.queue.pop()
    }

    /// Keeps a frame's memory for others.
    pub(super) fn recycle(&self, frame: Frame) {
        lock(&self.outbound).queue.recycle(frame);
    }

    /// Whether the thread may sleep: there are no frames of the guest. From now on the next one
    /// wakes it.
    pub(super) fn prepare_sleep(&self) -> bool {
        let mut outbound = lock(&self.outbound);
        outbound.sleeping = outbound.queue.frames.is_empty() && !outbound.attached;
        outbound.sleeping
    }

    /// Whether there is room for frames to the guest. If there is none, the thread is woken once
    /// there is.
    pub(super) fn has_room(&self) -> bool {
        let mut inbound = lock(&self.inbound);
        inbound.refused = inbound.queue.is_full();
        !inbound.refused
    }

    /// Memory for a frame of `length` bytes to the guest; what is in it is arbitrary.
    pub(super) fn frame(&self, length: usize) -> Frame {
        let length = length.min(FRAME_MAX);
        let bytes = lock(&self.inbound).queue.buffer(length);
        Frame { bytes, length, offload: Offload::NONE, segments: Segments::default() }
    }

    /// Sends a frame to the guest. Answers to a guest that takes nothing in are dropped.
    pub(super) fn push(&self, frame: Frame) {
        let mut inbound = lock(&self.inbound);
        if inbound.queue.frames.len() < FRAMES_MAX + ANSWERS_MAX {
            inbound.queue.push(frame);
        }
    }

    /// Tells the adapter of frames that wait for it, and of room for its own.
    pub(super) fn tell(&self) {
        let frames = {
            let inbound = lock(&self.inbound);
            !inbound.blocked && !inbound.queue.frames.is_empty()
        };
        let room = {
            let mut outbound = lock(&self.outbound);
            let half = outbound.queue.bytes <= BYTES_MAX / 2
                && outbound.queue.frames.len() <= FRAMES_MAX / 2;
            half && std::mem::take(&mut outbound.refused)
        };
        if frames || room {
            let port: Option<Arc<dyn NetPort>> = lock(&self.port).as_ref().and_then(Weak::upgrade);
            if let Some(port) = port {
                port.changed();
            }
        }
    }
}
