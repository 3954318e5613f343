//! Sockets between guest and host (section 5.10): moves packets; what they mean is `ambos-vsock`'s.
//!
//! # Copies
//!
//! Data for the guest are copied once more than need be, because a packet's header, which comes
//! first, tells how many bytes the host's program had. Data of the guest are copied because its
//! memory may change while they wait for the program.

use crate::device::{DeviceKind, Doorbell, VirtioDevice, read_bytes};
use crate::queue::{Broken, Chain, QueueAccess};
use crate::ranges::{self, take_front, total};
use ambos_memory::GuestRam;
use ambos_vsock::{HEADER_LENGTH, Header, UnixSockets, VsockPort};
use std::sync::{Arc, Weak};

/// Queues by number.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Requests that a queue holds.
const QUEUE_SIZE: u16 = 256;
/// Bytes of the largest packet without its header.
const DATA_MAX: u64 = 64 << 10;

/// Where the back-end says that there is something.
struct Port(Doorbell);

impl VsockPort for Port {
    fn changed(&self) {
        self.0.ring(&[RECEIVE]);
    }
}

/// The device of a guest's sockets.
pub struct SocketDevice {
    sockets: Arc<UnixSockets>,
    /// Kept alive for the back-end, which knows it only weakly.
    port: Option<Arc<Port>>,
    /// A packet's data, kept for its memory.
    data: Vec<u8>,
}

impl SocketDevice {
    /// A device that leads to `sockets`.
    pub fn new(sockets: Arc<UnixSockets>) -> Self {
        Self { sockets, port: None, data: Vec::new() }
    }

    /// Takes a packet. What is no packet is dropped: there is nobody to be told.
    fn send(&mut self, ram: &GuestRam, mut chain: Chain) {
        let mut header = [0; HEADER_LENGTH];
        let read = take_front(&mut chain.readable, HEADER_LENGTH as u64)
            .is_some_and(|place| ranges::read(ram, &place, &mut header).is_ok());
        let header = Header::from_bytes(&header);
        let length = u64::from(header.length);
        if !read || length > DATA_MAX {
            return;
        }
        let Some(place) = take_front(&mut chain.readable, length) else { return };
        self.data.resize(length as usize, 0);
        if ranges::read(ram, &place, &mut self.data).is_ok() {
            self.sockets.transmit(&header, &self.data);
        }
    }

    fn receive(&mut self, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        let mut room = Vec::new();
        while self.sockets.has_news() {
            room.clear();
            let Some(mut buffer) = queue.pop_buffer(&mut room) else {
                if !queue.is_exhausted() && queue.ask_for_more()? {
                    continue;
                }
                return Ok(());
            };
            let capacity = total(&room).checked_sub(HEADER_LENGTH as u64).ok_or(Broken)?;
            let capacity = capacity.min(DATA_MAX) as usize;
            let Some(header) = self.sockets.receive(capacity, &mut self.data) else {
                queue.put_back(1);
                return Ok(());
            };
            let place = take_front(&mut room, HEADER_LENGTH as u64).ok_or(Broken)?;
            ranges::write(queue.ram(), &place, &header.to_bytes()).map_err(|_| Broken)?;
            let place = take_front(&mut room, self.data.len() as u64).ok_or(Broken)?;
            ranges::write(queue.ram(), &place, &self.data).map_err(|_| Broken)?;
            buffer.written = (HEADER_LENGTH + self.data.len()) as u32;
            queue.complete_together(&[buffer])?;
        }
        Ok(())
    }
}

impl VirtioDevice for SocketDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind { id: 19, class: [0xff, 0, 0] }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.sockets.cid().to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn connect(&mut self, doorbell: Doorbell) {
        let port = Arc::new(Port(doorbell));
        let weak: Weak<Port> = Arc::downgrade(&port);
        self.sockets.attach(weak);
        self.port = Some(port);
    }

    fn set_features(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.sockets.reset();
    }

    fn serve_next(&self, index: usize) -> Option<usize> {
        // What the guest sent may have an answer at once.
        (index == TRANSMIT && self.sockets.has_news()).then_some(RECEIVE)
    }

    fn serve(&mut self, index: usize, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        match index {
            RECEIVE => self.receive(queue),
            TRANSMIT => queue.serve_all(|ram, chain| {
                self.send(ram, chain);
                Ok(Some(0))
            }),
            // Buffers for events, of which there are none.
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Driver, Random};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    const VERSION_1: u64 = 1 << 32;
    const DATA: u64 = 0x8000;

    fn bench(queue: usize) -> (Driver, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let sockets = UnixSockets::new(&directory.path().join("s"), 3).unwrap();
        let device = SocketDevice::new(Arc::new(sockets));
        let driver = Driver::with_queue(Box::new(device), queue as u16);
        driver.start(VERSION_1);
        (driver, directory)
    }

    #[test]
    fn packets_reach_the_driver() {
        let (mut driver, directory) = bench(RECEIVE);
        assert_eq!(driver.read(0x2000, 8), 3);
        let mut program = UnixStream::connect(directory.path().join("s")).unwrap();
        driver.submit(&[(DATA, 44, true), (0x9000, 4096, true)], false);
        driver.notify();
        program.write_all(b"CONNECT 7\n").unwrap();
        let written = (0..6000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            driver.served()
        });
        assert_eq!(written, Some(44));
        let header = Header::from_bytes(&driver.get(DATA, 44).try_into().unwrap());
        assert_eq!((header.operation, header.destination_port), (1, 7));
        // A device that is reset has no connections.
        driver.start(VERSION_1);
        assert_eq!(program.read(&mut [0; 9]).unwrap(), 0);
    }

    #[test]
    fn any_request_is_survived() {
        let mut random = Random::new(8);
        for queue in [RECEIVE, TRANSMIT, 2] {
            let (mut driver, directory) = bench(queue);
            let mut program = UnixStream::connect(directory.path().join("s")).unwrap();
            program.write_all(b"CONNECT 7\n").unwrap();
            for _ in 0..1000 {
                let header = Header {
                    source_cid: 3,
                    destination_cid: 2,
                    length: random.below(0x1000) as u32,
                    kind: 1,
                    operation: random.below(9) as u16,
                    destination_port: (1 << 30) + random.below(2) as u32,
                    source_port: 7,
                    flags: random.next() as u32,
                    room: random.next() as u32,
                    forwarded: random.next() as u32,
                };
                driver.put(DATA, &header.to_bytes());
                if random.below(2) == 0 {
                    driver.submit(&[(DATA, 44, false), (DATA, 0x1000, false)], false);
                } else {
                    driver.submit_random(&mut random, DATA);
                }
                driver.notify();
            }
        }
    }
}
