//! The entropy source (section 5.4).

use crate::device::{DeviceKind, VirtioDevice};
use crate::queue::{Broken, QueueAccess};
use crate::ranges;
use rustix::rand::{GetRandomFlags, getrandom};

/// Bytes of an answer at most; a driver that wants more asks again.
const LIMIT: usize = 4096;

/// Fills buffers with the host's random numbers.
#[derive(Debug, Default)]
pub struct EntropySource;

impl VirtioDevice for EntropySource {
    fn kind(&self) -> DeviceKind {
        DeviceKind { id: 4, class: [0xff, 0, 0] }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![64]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn set_features(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn serve(&mut self, _index: usize, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        queue.serve_all(|ram, mut chain| {
            let length = ranges::total(&chain.writable).min(LIMIT as u64);
            let mut bytes = [0; LIMIT];
            let bytes = &mut bytes[..length as usize];
            // What is written may be less than there is room for, even nothing.
            let count = getrandom(&mut *bytes, GetRandomFlags::NONBLOCK).unwrap_or(0);
            let room = ranges::take_front(&mut chain.writable, count as u64).ok_or(Broken)?;
            ranges::write(ram, &room, &bytes[..count]).map_err(|_| Broken)?;
            Ok(Some(count as u32))
        })
    }
}
