//! A directory of the host (section 5.11): moves requests of FUSE; what they mean is `ambos-share`'s.
//!
//! Requests are served by the vCPU that makes them, one after the other. Most are answered from the
//! host's caches, faster than another thread would be woken.

use crate::device::{DeviceKind, VirtioDevice, read_bytes};
use crate::queue::{Broken, QueueAccess};
use ambos_share::Session;

/// Bytes of the name by which the guest mounts it.
const TAG: usize = 36;
/// Requests that a queue holds: those of Linux have up to this many parts, and half a mebibyte of data
/// or twice that.
const QUEUE_SIZE: u16 = 1024;

/// A shared directory.
pub struct ShareDevice {
    tag: [u8; TAG],
    session: Session,
}

impl ShareDevice {
    /// Most bytes of a name.
    pub const TAG_MAX: usize = TAG;

    /// A directory that the guest mounts as `tag`.
    pub fn new(session: Session, tag: &str) -> Self {
        let mut bytes = [0; TAG];
        for (byte, character) in bytes.iter_mut().zip(tag.bytes()) {
            *byte = character;
        }
        Self { tag: bytes, session }
    }
}

impl VirtioDevice for ShareDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind { id: 26, class: [1, 0x80, 0] }
    }

    fn features(&self) -> u64 {
        0
    }

    /// Urgent requests, and others.
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; TAG + 4];
        config[..TAG].copy_from_slice(&self.tag);
        // One queue besides that of urgent requests.
        config[TAG] = 1;
        read_bytes(&config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn set_features(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.session.reset();
    }

    fn serve(&mut self, _index: usize, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        queue.serve_all(|_, chain| {
            self.session.serve(&chain.readable, &chain.writable).map(Some).map_err(|_| Broken)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Driver, Random};
    use ambos_share::Share;

    const VERSION_1: u64 = 1 << 32;
    const DATA: u64 = 0x8000;

    fn bench(queue: u16) -> (Driver, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "content").unwrap();
        let ram = Driver::ram();
        let share = Share::new(directory.path(), false).unwrap();
        let device = ShareDevice::new(Session::new(&share, &ram).unwrap(), "files");
        let driver = Driver::on(ram, Box::new(device), queue);
        driver.start(VERSION_1);
        (driver, directory)
    }

    #[test]
    fn requests_are_answered() {
        let (mut driver, _directory) = bench(1);
        assert_eq!(driver.read(0x2000, 8), u64::from_le_bytes(*b"files\0\0\0"));
        assert_eq!(driver.read(0x2000 + TAG as u64, 4), 1);
        // LOOKUP of a file in the root.
        let mut request = vec![0; 45];
        request[0] = 45;
        request[4] = 1;
        request[16] = 1;
        request[40..44].copy_from_slice(b"file");
        driver.put(DATA, &request);
        driver.submit(&[(DATA, 40, false), (DATA + 40, 5, false), (0x9000, 200, true)], true);
        driver.notify();
        assert_eq!(driver.served(), Some(144));
        assert_eq!(driver.get(0x9000, 8), [144, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn any_request_is_survived() {
        let mut random = Random::new(9);
        for queue in [0, 1] {
            let (mut driver, _directory) = bench(queue);
            for _ in 0..2000 {
                let length = 40 + random.below(0x100) as u32;
                let mut request: Vec<u8> =
                    (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
                request[..4].copy_from_slice(&length.to_le_bytes());
                request[4..8].copy_from_slice(&(random.below(52) as u32).to_le_bytes());
                request[16..24].copy_from_slice(&random.below(4).to_le_bytes());
                driver.put(DATA, &request);
                if random.below(4) > 0 {
                    let room = random.below(0x3000) as u32;
                    driver.submit(&[(DATA, length, false), (0x1_0000, room, true)], false);
                } else {
                    driver.submit_random(&mut random, DATA);
                }
                driver.notify();
            }
        }
    }
}
