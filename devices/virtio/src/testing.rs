//! A small driver for unit tests.

use crate::{PciParts, VirtioDevice, VirtioPci};
use ambos_clock::{ManualTime, VmClock};
use ambos_device::{BarMapper, DeviceTable, MmioBus, MmioDevice, PciFunction, PortBus};
use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};
use ambos_wire::{MsiTarget, Wire};
use std::sync::{Arc, Mutex};

pub(crate) use ambos_random::Random;

/// Where the driver has the rings of its queue, and the table of an indirect request.
pub(crate) const DESCRIPTORS: u64 = 0x1000;
pub(crate) const AVAILABLE: u64 = 0x2000;
pub(crate) const USED: u64 = 0x3000;
pub(crate) const INDIRECT: u64 = 0x4000;
/// Entries of the ring.
pub(crate) const SIZE: u16 = 16;

/// Descriptor flags.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT_FLAG: u16 = 4;

/// Remembers messages.
#[derive(Default)]
pub(crate) struct Messages(Mutex<Vec<(u64, u32)>>);

impl Messages {
    pub(crate) fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl MsiTarget for Messages {
    fn signal(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

pub(crate) struct Driver {
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) messages: Arc<Messages>,
    pub(crate) mmio: Arc<MmioBus>,
    pub(crate) pci: Arc<Mutex<VirtioPci>>,
    pub(crate) clock: Arc<VmClock>,
    pub(crate) time: ManualTime,
    _ports: Arc<PortBus>,
    queue: u16,
    submitted: u16,
    seen: u16,
}

/// Where the driver puts the registers.
pub(crate) const BAR: u64 = 0xc000_0000;

impl Driver {
    /// Plugs a device in and maps its registers.
    pub(crate) fn new(device: Box<dyn VirtioDevice>) -> Self {
        Self::with_queue(device, 0)
    }

    /// The same for a driver that uses queue `queue` only.
    pub(crate) fn with_queue(device: Box<dyn VirtioDevice>, queue: u16) -> Self {
        Self::on(Self::ram(), device, queue)
    }

    /// Memory for a driver.
    pub(crate) fn ram() -> Arc<GuestRam> {
        Arc::new(GuestRam::new(4 << 20).unwrap())
    }

    /// Plugs in a device that knows the memory.
    pub(crate) fn with_ram(ram: Arc<GuestRam>, device: Box<dyn VirtioDevice>) -> Self {
        Self::on(ram, device, 0)
    }

    /// Plugs in a device that knows the memory, for a driver that uses queue `queue` only.
    pub(crate) fn on(ram: Arc<GuestRam>, device: Box<dyn VirtioDevice>, queue: u16) -> Self {
        let (clock, time) = VmClock::manual();
        let (ports, mmio) = (Arc::new(PortBus::default()), Arc::new(MmioBus::default()));
        let row = DeviceTable::default().add("virtio");
        let mapper = BarMapper::new("virtio", row, Arc::downgrade(&ports), Arc::downgrade(&mmio));
        let messages = Arc::new(Messages::default());
        let parts = PciParts {
            ram: Arc::clone(&ram),
            clock: Arc::clone(&clock),
            wire: Wire::unconnected("INTA"),
            pin: 0,
            msi: messages.clone(),
            mapper,
        };
        let pci = VirtioPci::new(device, parts).unwrap();
        {
            let mut pci = pci.lock().unwrap();
            pci.config_write(0x20, &(BAR as u32).to_le_bytes());
            pci.config_write(4, &[6]);
        }
        Self { ram, messages, mmio, pci, clock, time, _ports: ports, submitted: 0, seen: 0, queue }
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(self.mmio.write(BAR + offset, bytes).served(), "{offset:#x}");
    }

    pub(crate) fn read(&self, offset: u64, length: usize) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.mmio.read(BAR + offset, &mut bytes[..length]).served(), "{offset:#x}");
        u64::from_le_bytes(bytes)
    }

    /// Negotiates `features` and enables the queue.
    pub(crate) fn start(&self, features: u64) {
        self.write(20, &[0]);
        self.write(20, &[3]);
        for (half, word) in [(0u32, features as u32), (1, (features >> 32) as u32)] {
            self.write(8, &half.to_le_bytes());
            self.write(12, &word.to_le_bytes());
        }
        self.write(20, &[0xb]);
        assert_eq!(self.read(20, 1), 0xb);
        self.write(22, &self.queue.to_le_bytes());
        self.write(24, &SIZE.to_le_bytes());
        for (offset, address) in [(32, DESCRIPTORS), (40, AVAILABLE), (48, USED)] {
            self.write(offset, &address.to_le_bytes());
        }
        self.write(28, &[1, 0]);
        self.write(20, &[0xf]);
    }

    /// Gives messages their addresses and switches them on.
    pub(crate) fn use_messages(&self) {
        let mut pci = self.pci.lock().unwrap();
        for vector in 0..2u64 {
            for (word, value) in [0xfee0_0000, 0, 0x40 + vector as u32, 0].into_iter().enumerate() {
                let at = 0x4000 + vector * 16 + word as u64 * 4;
                pci.write(at, &value.to_le_bytes()).unwrap();
            }
        }
        pci.write(26, &[1, 0]).unwrap();
        let mut place = [0];
        pci.config_read(0x34, &mut place);
        loop {
            let mut head = [0; 2];
            pci.config_read(place[0].into(), &mut head);
            if head[0] == 0x11 {
                break;
            }
            place[0] = head[1];
        }
        pci.config_write(u16::from(place[0]) + 3, &[0x80]);
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.ram.memory().write_slice(bytes, GuestPhysAddr(address)).unwrap();
    }

    pub(crate) fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.memory().read_slice(&mut bytes, GuestPhysAddr(address)).unwrap();
        bytes
    }

    fn describe(&self, table: u64, parts: &[(u64, u32, bool)]) {
        for (index, (address, length, write)) in (0u64..).zip(parts) {
            let last = index as usize + 1 == parts.len();
            let flags = if *write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(length.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend((index as u16 + 1).to_le_bytes());
            self.put(table + index * 16, &bytes);
        }
    }

    /// Makes a request of descriptors (address, length, written by the device) available.
    pub(crate) fn submit(&mut self, parts: &[(u64, u32, bool)], indirect: bool) {
        if indirect {
            self.describe(INDIRECT, parts);
            let mut bytes = INDIRECT.to_le_bytes().to_vec();
            bytes.extend((parts.len() as u32 * 16).to_le_bytes());
            bytes.extend(INDIRECT_FLAG.to_le_bytes());
            bytes.extend([0, 0]);
            self.put(DESCRIPTORS, &bytes);
        } else {
            self.describe(DESCRIPTORS, parts);
        }
        let entry = AVAILABLE + 4 + u64::from(self.submitted % SIZE) * 2;
        self.put(entry, &[0, 0]);
        self.submitted = self.submitted.wrapping_add(1);
        self.put(AVAILABLE + 2, &self.submitted.to_le_bytes());
    }

    /// Makes a request available of up to eight descriptors that name anything: places near `near`,
    /// or anywhere, with lengths that fit or do not.
    pub(crate) fn submit_random(&mut self, random: &mut Random, near: u64) {
        let parts: Vec<_> = (0..random.below(8) + 1)
            .map(|_| {
                let address =
                    if random.below(8) == 0 { random.next() } else { near + random.below(0x8000) };
                let bits = [4, 8, 16, 32][random.below(4) as usize];
                let length = random.next() & ((1 << bits) - 1);
                (address, length as u32, random.below(2) == 0)
            })
            .collect();
        let indirect = random.below(4) == 0;
        self.submit(&parts, indirect);
        if random.below(16) == 0 {
            // Loops, and indices past the table.
            self.put(DESCRIPTORS + random.below(8 * 16), &random.next().to_le_bytes());
        }
        if random.below(64) == 0 {
            self.start(1 << 32);
            (self.submitted, self.seen) = (0, 0);
            self.put(AVAILABLE + 2, &[0, 0]);
            self.put(USED + 2, &[0, 0]);
        }
    }

    /// Rings the doorbell of the queue.
    pub(crate) fn notify(&self) {
        self.write(0x3000 + u64::from(self.queue) * 4, &self.queue.to_le_bytes());
    }

    /// How many bytes the device says that it wrote for the next request it has served.
    pub(crate) fn served(&mut self) -> Option<u32> {
        let index = self.get(USED + 2, 2);
        if u16::from_le_bytes([index[0], index[1]]) == self.seen {
            return None;
        }
        let entry = self.get(USED + 4 + u64::from(self.seen % SIZE) * 8, 8);
        self.seen = self.seen.wrapping_add(1);
        Some(u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]))
    }
}
