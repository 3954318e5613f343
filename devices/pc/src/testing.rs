//! What unit tests of several chips share.

use crate::power::{PowerRequest, PowerSink};
use ambos_device::PortDevice;
use std::sync::Mutex;

/// Random numbers, and random accesses.
pub(crate) struct Random(ambos_random::Random);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ambos_random::Random::new(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next()
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0.index(limit)
    }

    /// One access of random width and direction at `offset` to a device.
    pub(crate) fn access(&mut self, device: &mut dyn PortDevice, offset: u16) {
        let width = 1 << self.below(3);
        let value = self.next().to_le_bytes();
        // Refusals are as good as answers here.
        if self.below(2) == 0 {
            let _ = device.read(offset, &mut [0; 4][..width]);
        } else {
            let _ = device.write(offset, &value[..width]);
        }
    }
}

/// Remembers power requests.
#[derive(Default)]
pub(crate) struct Requests(Mutex<Vec<PowerRequest>>);

impl Requests {
    /// What was requested since the last call.
    pub(crate) fn take(&self) -> Vec<PowerRequest> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl PowerSink for Requests {
    fn request(&self, request: PowerRequest) {
        self.0.lock().unwrap().push(request);
    }
}
