//! The network adapter (section 5.1): one pair of queues and the control queue.
//!
//! # Copies
//!
//! What the driver sends goes from its buffers to the back-end in one step. What it receives is
//! copied once, from the back-end's frame to the driver's buffers, which become known only then.
//!
//! # Waiting
//!
//! Frames wait in the back-end until the driver provides buffers; requests to send wait in their
//! queue until the back-end has room. Each side announces the end of the other's wait: the driver
//! rings the doorbell of its receive queue, which it is asked to do only then, and the back-end calls
//! [`NetPort::changed`].

mod filter;
mod spec;
#[cfg(test)]
mod tests;

use crate::device::{DeviceKind, Doorbell, Patience, VirtioDevice, read_bytes};
use crate::queue::{Broken, Chain, Filled, QueueAccess};
use crate::ranges::{self, take_front, take_last_byte, total};
use ambos_memory::{Bytes, DmaRange, GuestPhysAddr, GuestRam};
use ambos_net::{
    Accepts, FRAME_MAX, HEADER_LENGTH, MacAddress, NetBackend, NetPort, Offload, Received,
};
use filter::Filter;
use spec::{Features, config, control, queue};
use std::sync::{Arc, Weak};

/// Requests that a queue holds. A large frame takes some forty buffers.
const QUEUE_SIZE: u16 = 1024;
/// Requests that the control queue holds.
const CONTROL_SIZE: u16 = 64;
/// Bytes of the largest command that is looked at.
const COMMAND_MAX: u64 = 16 << 10;
/// Offset of the number of buffers in the header of a frame.
const BUFFERS: usize = 10;
/// Nanoseconds between interrupts for received frames while all vCPUs are busy. At a gigabyte a second
/// that is a quarter of a megabyte, four large frames.
const RECEIVE_INTERVAL: u64 = 250_000;
/// How long the driver waits to get the memory of sent frames back, in nanoseconds, if they are small and few: while
/// something is received, it looks by itself.
const SENT: Patience = Patience::Delay { nanoseconds: 1_000_000, requests: 32 };
/// Bytes of a small frame, with its header: one that is not to be cut. Senders of larger ones may wait for their
/// memory.
const SMALL: u64 = 1600;
/// Megabits a second that the adapter says it has: there is no limit, so something large.
const SPEED: u32 = 40_000;

/// Where the back-end says that something changed.
struct Port(Doorbell);

impl NetPort for Port {
    fn changed(&self) {
        self.0.ring(&[queue::RECEIVE, queue::TRANSMIT]);
    }
}

/// A network adapter.
pub struct NetDevice {
    // Configuration.
    mac: MacAddress,

    // Dependencies.
    network: Arc<dyn NetBackend>,
    /// Kept alive for the back-end, which knows it only weakly.
    port: Option<Arc<Port>>,

    // Volatile state.
    features: Features,
    filter: Filter,
    /// A frame that is not small was sent when requests to send were served last.
    sent_large: bool,
    /// Buffers of the frame that is being received, kept for their memory.
    room: Vec<DmaRange>,
    buffers: Vec<Filled>,
}

impl NetDevice {
    /// An adapter with the address `mac` on `network`.
    pub fn new(network: Arc<dyn NetBackend>, mac: MacAddress) -> Self {
        Self {
            mac,
            network,
            port: None,
            features: Features::empty(),
            filter: Filter::new(mac),
            sent_large: false,
            room: Vec::new(),
            buffers: Vec::new(),
        }
    }

    fn config(&self) -> [u8; config::LENGTH] {
        let mut bytes = [0; config::LENGTH];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(0, &self.filter.mac());
        put(config::STATUS, &config::LINK_UP.to_le_bytes());
        put(config::PAIRS, &1u16.to_le_bytes());
        put(config::MTU, &self.network.mtu().to_le_bytes());
        put(config::SPEED, &SPEED.to_le_bytes());
        put(config::DUPLEX, &[1]);
        bytes
    }

    /// What the back-end may give, after the features `features`.
    fn accept(&self, features: Features) {
        let mut accepts = Accepts::empty();
        if features.contains(Features::GUEST_CHECKSUM) {
            let pairs = [
                (Features::GUEST_CHECKSUM, Accepts::CHECKSUM),
                (Features::GUEST_TCP_V4, Accepts::TCP_V4),
                (Features::GUEST_TCP_V6, Accepts::TCP_V6),
                (Features::GUEST_ECN, Accepts::ECN),
                (Features::GUEST_UDP_V4 | Features::GUEST_UDP_V6, Accepts::UDP),
            ];
            for (needed, accepted) in pairs {
                accepts.set(accepted, features.contains(needed));
            }
        }
        self.network.accept(accepts);
    }

    fn send(&mut self, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        self.sent_large = false;
        loop {
            queue.ask_for_silence()?;
            while let Some(chain) = queue.pop() {
                if !self.send_one(queue.ram(), &chain) {
                    // The back-end says when there is room again; until then silence is right.
                    queue.put_back(1);
                    return Ok(());
                }
                self.sent_large |= total(&chain.readable) > SMALL;
                queue.complete(&chain, 0)?;
            }
            if queue.is_exhausted() || !queue.ask_for_more()? {
                return Ok(());
            }
        }
    }

    /// Sends what one request names; `false` if there is no room for it. Requests that name no
    /// memory, or too much, send nothing.
    fn send_one(&self, ram: &GuestRam, chain: &Chain) -> bool {
        let mut data = chain.readable.clone();
        let mut header = [0; HEADER_LENGTH];
        let read = take_front(&mut data, HEADER_LENGTH as u64)
            .is_some_and(|place| ranges::read(ram, &place, &mut header).is_ok());
        if !read || total(&data) > FRAME_MAX as u64 {
            return true;
        }
        let Ok(slices) = ram.dma_slices(&data) else { return true };
        self.network.transmit(&Offload::from_header(&header), &slices).is_ok()
    }

    /// Receives as many frames as there are buffers for.
    fn receive(&mut self, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        let network = Arc::clone(&self.network);
        let mut result = Ok(());
        network.receive(&mut |frame| match self.receive_one(queue, frame) {
            Ok(taken) => taken,
            Err(error) => {
                result = Err(error);
                false
            }
        });
        result
    }

    /// Receives a frame; `false` if there are too few buffers.
    fn receive_one(
        &mut self,
        queue: &mut QueueAccess<'_>,
        frame: &Received<'_>,
    ) -> Result<bool, Broken> {
        if !self.filter.takes(frame.parts[0]) {
            return Ok(true);
        }
        let mergeable = self.features.contains(Features::MERGEABLE);
        let needed = HEADER_LENGTH as u64 + frame.length() as u64;
        let Self { room, buffers, .. } = self;
        room.clear();
        buffers.clear();
        let (mut capacity, mut promised) = (0, false);
        while capacity < needed {
            let first = room.len();
            let Some(mut buffer) = queue.pop_buffer(room) else {
                // The driver announces buffers only if they were missed: those after all that are
                // there now.
                if promised {
                    // There must be more, but there is nothing: the ring is not one.
                    return Err(Broken);
                }
                promised = !queue.is_exhausted() && queue.ask_for_more()?;
                if promised {
                    continue;
                }
                queue.put_back(buffers.len());
                return Ok(false);
            };
            promised = false;
            let size = total(&room[first..]).min(needed - capacity);
            capacity += size;
            buffer.written = size as u32;
            buffers.push(buffer);
            if !mergeable && capacity < needed {
                // The driver's buffers are too small for the frame: it is lost.
                queue.put_back(1);
                return Ok(true);
            }
            if buffers.len() > usize::from(QUEUE_SIZE) {
                return Err(Broken);
            }
        }
        let mut header = frame.offload.to_header();
        header[BUFFERS..].copy_from_slice(&(buffers.len() as u16).to_le_bytes());
        let [head, body] = frame.parts;
        scatter(queue.ram(), room, [&header, head, body])?;
        queue.complete_together(buffers)?;
        Ok(true)
    }

    fn control(&mut self, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        queue.serve_all(|ram, mut chain| {
            let place = take_last_byte(&mut chain.writable).ok_or(Broken)?;
            let status = if self.command(ram, &chain) { control::OK } else { control::ERROR };
            ranges::write(ram, &[place], &[status]).map_err(|_| Broken)?;
            Ok(Some(1))
        })
    }

    fn command(&mut self, ram: &GuestRam, chain: &Chain) -> bool {
        let length = total(&chain.readable);
        if length > COMMAND_MAX {
            return false;
        }
        let mut bytes = vec![0; length as usize];
        if ranges::read(ram, &chain.readable, &mut bytes).is_err() {
            return false;
        }
        let [class, number, data @ ..] = &bytes[..] else { return false };
        match ((*class, *number), data) {
            (control::ANNOUNCED, []) => true,
            (control::OFFLOADS, &[a, b, c, d, e, f, g, h]) => {
                let asked = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                let asked = Features::from_bits_retain(asked);
                let known = self.features.contains(asked);
                if known {
                    self.accept(asked);
                }
                known
            }
            (command, data) => self.filter.command(command, data),
        }
    }
}

/// Copies `parts`, one after the other, to the guest memory `room`, which is large enough.
fn scatter(ram: &GuestRam, room: &[DmaRange], parts: [&[u8]; 3]) -> Result<(), Broken> {
    let mut parts = parts.into_iter();
    let mut rest: &[u8] = &[];
    'ranges: for range in room {
        let mut at = range.address;
        let mut left = range.length as usize;
        while left > 0 {
            while rest.is_empty() {
                let Some(next) = parts.next() else { break 'ranges };
                rest = next;
            }
            let (now, later) = rest.split_at(rest.len().min(left));
            ram.memory().write_slice(now, GuestPhysAddr(at)).map_err(|_| Broken)?;
            rest = later;
            left -= now.len();
            at = at.wrapping_add(now.len() as u64);
        }
    }
    ram.device_wrote(room);
    Ok(())
}

impl VirtioDevice for NetDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind { id: 1, class: [2, 0, 0] }
    }

    fn features(&self) -> u64 {
        Features::all().bits()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE, QUEUE_SIZE, CONTROL_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config(), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn connect(&mut self, doorbell: Doorbell) {
        let port = Arc::new(Port(doorbell));
        let weak: Weak<Port> = Arc::downgrade(&port);
        self.network.attach(weak);
        self.port = Some(port);
    }

    fn set_features(&mut self, features: u64) {
        self.features = Features::from_bits_truncate(features);
        self.accept(self.features);
    }

    fn reset(&mut self) {
        self.features = Features::empty();
        self.filter = Filter::new(self.mac);
        self.accept(self.features);
    }

    fn serve(&mut self, index: usize, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        match index {
            queue::RECEIVE => self.receive(queue),
            queue::TRANSMIT => self.send(queue),
            queue::CONTROL => self.control(queue),
            _ => Ok(()),
        }
    }

    fn patience(&self, index: usize) -> Patience {
        match index {
            queue::RECEIVE => Patience::Apart(RECEIVE_INTERVAL),
            queue::TRANSMIT if !self.sent_large => SENT,
            _ => Patience::None,
        }
    }
}
