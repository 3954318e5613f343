//! What unit tests of several chips share.

use crate::power::{PowerRequest, PowerSink};
use ambos_device::PortDevice;
use std::sync::Mutex;

/// A small generator with a given seed (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 32) as usize % limit
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
