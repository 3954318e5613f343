//! The memory balloon (section 5.5): memory that the guest does not use goes back to the host.
//!
//! Nobody blows the balloon up so far: its size in the configuration stays zero. What it is there for
//! is the reporting of free pages, by which a guest gives back what it has freed, and takes it again
//! by touching it.

use crate::device::{DeviceKind, VirtioDevice, read_bytes};
use crate::queue::{Broken, QueueAccess};
use crate::ranges::{self, take_front, total};
use ambos_memory::{DmaRange, GuestRam};
use bitflags::bitflags;

bitflags! {
    /// The device's own features (section 5.5.3).
    struct Features: u64 {
        /// The guest may take pages back without asking.
        const DEFLATE_ON_OOM = 1 << 2;
        const REPORTING = 1 << 5;
    }
}

/// Queues by number: those of features that are not offered have none.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const REPORTING: usize = 2;
/// Requests that a queue holds.
const QUEUE_SIZE: u16 = 128;
/// Bytes of a page's number, and of a page.
const NUMBER: usize = 4;
const PAGE: u32 = 4096;
/// Bytes of page numbers in one request that are looked at.
const NUMBERS_MAX: usize = 4096;

/// A balloon.
#[derive(Debug, Default)]
pub struct Balloon {
    /// Pages in it, as the driver says.
    actual: [u8; 4],
}

impl Balloon {
    fn inflate(ram: &GuestRam, readable: &mut Vec<DmaRange>) {
        let length = total(readable).min(NUMBERS_MAX as u64) as usize;
        let mut bytes = [0; NUMBERS_MAX];
        let read = take_front(readable, length as u64)
            .is_some_and(|place| ranges::read(ram, &place, &mut bytes[..length]).is_ok());
        if !read {
            return;
        }
        for number in bytes[..length].as_chunks::<NUMBER>().0 {
            let address = u64::from(u32::from_le_bytes(*number)) * u64::from(PAGE);
            ram.release(DmaRange { address, length: PAGE });
        }
    }
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind { id: 5, class: [0xff, 0, 0] }
    }

    fn features(&self) -> u64 {
        Features::all().bits()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // The size that is wanted, which is zero, and the size that there is.
        let mut config = [0; 8];
        config[4..].copy_from_slice(&self.actual);
        read_bytes(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (4, Ok(actual)) = (offset, data.try_into()) {
            self.actual = actual;
        }
    }

    fn set_features(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.actual = [0; 4];
    }

    fn serve(&mut self, index: usize, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        queue.serve_all(|ram, mut chain| {
            match index {
                INFLATE => Self::inflate(ram, &mut chain.readable),
                REPORTING => chain.writable.iter().for_each(|range| ram.release(*range)),
                // Pages are taken back by touching them.
                DEFLATE => {}
                _ => return Err(Broken),
            }
            Ok(Some(0))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Driver, Random};

    const DATA: u64 = 0x10_0000;

    #[test]
    fn pages_in_the_balloon_are_empty() {
        let mut driver = Driver::new(Box::new(Balloon::default()));
        driver.start(1 << 32 | Features::all().bits());
        driver.put(DATA, &[7; 3 * PAGE as usize]);
        driver.put(0x8000, &[0x101u32, 0xffff_ffff, 0x5000].map(u32::to_le_bytes).concat());
        driver.submit(&[(0x8000, 12, false)], false);
        driver.notify();
        assert_eq!(driver.served(), Some(0));
        let page = PAGE as usize;
        let content = driver.get(DATA, 3 * page);
        assert_eq!(content, [vec![7; page], vec![0; page], vec![7; page]].concat());
    }

    #[test]
    fn the_configuration_is_kept() {
        let mut balloon = Balloon::default();
        balloon.write_config(4, &[1, 2, 3, 4]);
        balloon.write_config(0, &[9, 9, 9, 9]);
        balloon.write_config(4, &[9]);
        let mut config = [0xff; 12];
        balloon.read_config(0, &mut config);
        assert_eq!(config, [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0]);
    }

    #[test]
    fn any_request_is_survived() {
        let mut random = Random::new(5);
        let mut driver = Driver::new(Box::new(Balloon::default()));
        driver.start(1 << 32);
        for _ in 0..2000 {
            driver.put(0x8000, &random.next().to_le_bytes());
            let address = if random.below(2) == 0 { 0x8000 } else { random.next() };
            driver.submit(&[(address, random.next() as u32, random.below(2) == 0)], false);
            driver.notify();
        }
    }
}
