//! A network that is moved by hand, for tests of adapters.

use crate::offload::{Accepts, Offload};
use crate::segments::{Received, Segments};
use crate::{Full, NetBackend, NetPort, Slice};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

#[derive(Default)]
struct State {
    port: Option<Weak<dyn NetPort>>,
    accepts: Accepts,
    sent: Vec<(Offload, Vec<u8>)>,
    room: usize,
    waiting: VecDeque<(Vec<u8>, Offload, Segments)>,
}

/// Keeps what an adapter sends, and gives it what it is told to.
pub struct ManualNet(Mutex<State>);

impl Default for ManualNet {
    fn default() -> Self {
        Self(Mutex::new(State { room: usize::MAX, ..State::default() }))
    }
}

impl ManualNet {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frames that were sent since this was asked last.
    pub fn take_sent(&self) -> Vec<(Offload, Vec<u8>)> {
        std::mem::take(&mut self.lock().sent)
    }

    /// How many more frames are taken.
    pub fn set_room(&self, frames: usize) {
        self.lock().room = frames;
        self.tell();
    }

    /// Has a frame for the adapter.
    pub fn bring(&self, frame: &[u8], offload: Offload) {
        self.lock().waiting.push_back((frame.to_vec(), offload, Segments::default()));
        self.tell();
    }

    /// Frames that the adapter has not taken.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// What the adapter accepts.
    pub fn accepts(&self) -> Accepts {
        self.lock().accepts
    }

    fn tell(&self) {
        let port = self.lock().port.as_ref().and_then(Weak::upgrade);
        if let Some(port) = port {
            port.changed();
        }
    }
}

impl NetBackend for ManualNet {
    fn mtu(&self) -> u16 {
        1500
    }

    fn attach(&self, port: Weak<dyn NetPort>) {
        *self.lock() = State { port: Some(port), room: usize::MAX, ..State::default() };
    }

    fn accept(&self, accepts: Accepts) {
        self.lock().accepts = accepts;
    }

    fn transmit(&self, offload: &Offload, parts: &[Slice<'_>]) -> Result<(), Full> {
        let mut state = self.lock();
        state.room = state.room.checked_sub(1).ok_or(Full)?;
        let mut frame = Vec::new();
        for part in parts {
            let mut bytes = vec![0; part.len()];
            part.copy_to(&mut bytes[..]);
            frame.extend(bytes);
        }
        state.sent.push((*offload, frame));
        Ok(())
    }

    fn receive(&self, take: &mut dyn FnMut(&Received<'_>) -> bool) {
        let mut state = self.lock();
        let State { waiting, accepts, .. } = &mut *state;
        while let Some((frame, offload, segments)) = waiting.front_mut() {
            if !segments.give(frame, offload, *accepts, take) {
                return;
            }
            waiting.pop_front();
        }
    }
}
