//! A driver driven by bytes.

use ambos_block::MemoryImage;
use ambos_clock::VmClock;
use ambos_device::{BarMapper, DeviceTable, MmioBus, MmioDevice, PciFunction, PortBus};
use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};
use ambos_net::{MacAddress, ManualNet, Offload};
use ambos_random::Input;
use ambos_share::{Session, Share};
use ambos_virtio::{
    Balloon, BlockDevice, ConsoleDevice, ConsoleKeyboard, EntropySource, NetDevice, PciParts,
    ShareDevice, SocketDevice, VirtioDevice, VirtioPci,
};
use ambos_vsock::UnixSockets;
use ambos_wire::{MsiTarget, Wire};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

const RAM: u64 = 1 << 20;
/// Queues that are set up at places of their own: descriptors, available ring, used ring.
const QUEUES: u64 = 3;
const QUEUE_PAGES: u64 = 0x4000;
const QUEUE_SIZE: u64 = 16;
/// Where requests are.
const DATA: u64 = 0x1_0000;
/// Pages of registers.
const REGISTERS: u64 = 6;
const NOTIFY: u64 = 0x3000;

struct NoMessages;

impl MsiTarget for NoMessages {
    fn signal(&self, _address: u64, _data: u32) {}
}

/// What reaches a device from behind.
enum Host {
    Nothing,
    Keyboard(ConsoleKeyboard),
    Network(Arc<ManualNet>),
    Program(UnixStream),
}

impl Host {
    fn act(&mut self, input: &mut Input<'_>) {
        let length = input.choice();
        let bytes = input.bytes(length);
        match self {
            Self::Nothing => {}
            Self::Keyboard(keyboard) => {
                keyboard.type_in(&bytes);
                keyboard.resize(bytes.len() as u16, 25);
            }
            Self::Network(network) => network.bring(&bytes, Offload::NONE),
            Self::Program(stream) => {
                // It may have been thrown out.
                let _ = stream.write(&bytes);
                let _ = stream.read(&mut [0; 64]);
            }
        }
    }
}

fn device(kind: u64, ram: &Arc<GuestRam>, place: &Path) -> (Box<dyn VirtioDevice>, Host) {
    match kind % 7 {
        0 => {
            let disk = Arc::new(MemoryImage::new(vec![0; 1 << 16], false));
            (Box::new(BlockDevice::new(disk, Arc::clone(ram), "disk", 2)), Host::Nothing)
        }
        1 => {
            let network = Arc::new(ManualNet::default());
            let device = NetDevice::new(network.clone(), MacAddress::DEFAULT);
            (Box::new(device), Host::Network(network))
        }
        2 => {
            let keyboard = ConsoleKeyboard::default();
            let device = ConsoleDevice::new(Box::new(std::io::sink()), keyboard.clone());
            (Box::new(device), Host::Keyboard(keyboard))
        }
        3 => {
            let path = place.join("socket");
            let sockets = UnixSockets::new(&path, 3).unwrap();
            let mut program = UnixStream::connect(&path).unwrap();
            program.set_nonblocking(true).unwrap();
            program.write_all(b"CONNECT 7\n").unwrap();
            (Box::new(SocketDevice::new(Arc::new(sockets))), Host::Program(program))
        }
        4 => {
            let directory = place.join("shared");
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join("f"), "content").unwrap();
            let share = Share::new(&directory, kind >= 128).unwrap();
            let session = Session::new(&share, ram).unwrap();
            (Box::new(ShareDevice::new(session, "files")), Host::Nothing)
        }
        5 => (Box::new(Balloon::default()), Host::Nothing),
        _ => (Box::new(EntropySource), Host::Nothing),
    }
}

struct Driver {
    ram: Arc<GuestRam>,
    pci: Arc<Mutex<VirtioPci>>,
    /// Requests that were made available in each queue.
    submitted: [u16; QUEUES as usize],
}

impl Driver {
    fn write(&self, offset: u64, bytes: &[u8]) {
        // Refusals are as good as answers here.
        let _ = self.pci.lock().unwrap().write(offset, bytes);
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        // What is past the end of memory is not written.
        let _ = self.ram.memory().write_slice(bytes, GuestPhysAddr(address));
    }

    /// Starts the device as a driver should.
    fn start(&mut self, features: u64) {
        self.write(20, &[0]);
        self.write(20, &[3]);
        for (half, word) in [(0u32, features as u32), (1, 1)] {
            self.write(8, &half.to_le_bytes());
            self.write(12, &word.to_le_bytes());
        }
        self.write(20, &[0xb]);
        for queue in 0..QUEUES {
            let base = queue * QUEUE_PAGES + 0x1000;
            self.write(22, &(queue as u16).to_le_bytes());
            self.write(24, &(QUEUE_SIZE as u16).to_le_bytes());
            for (offset, address) in [(32, base), (40, base + 0x1000), (48, base + 0x2000)] {
                self.write(offset, &address.to_le_bytes());
            }
            self.write(28, &[1, 0]);
            self.put(base + 0x1000, &[0; 4]);
            self.put(base + 0x2000, &[0; 4]);
        }
        self.write(20, &[0xf]);
        self.submitted = [0; QUEUES as usize];
    }

    /// Makes a request available.
    fn submit(&mut self, input: &mut Input<'_>) {
        let queue = input.number(1) % QUEUES;
        let base = queue * QUEUE_PAGES + 0x1000;
        let count = input.number(1) % 6 + 1;
        for index in 0..count {
            let shape = input.number(1);
            let address = match shape & 7 {
                0 => input.number(8),
                1 => RAM - input.number(1),
                _ => DATA + input.number(2),
            };
            let length = input.number(if shape & 8 == 0 { 1 } else { 3 }) as u32;
            let mut flags = u16::from(index + 1 < count) | (shape >> 4 & 2) as u16;
            if shape & 0xc0 == 0xc0 {
                flags = u16::from(input.byte());
            }
            let next = if shape & 0xd0 == 0xd0 { input.number(1) } else { index + 1 };
            let mut entry = address.to_le_bytes().to_vec();
            entry.extend(length.to_le_bytes());
            entry.extend(flags.to_le_bytes());
            entry.extend((next as u16).to_le_bytes());
            self.put(base + index * 16, &entry);
        }
        let submitted = &mut self.submitted[queue as usize];
        let slot = u64::from(*submitted) % QUEUE_SIZE;
        *submitted = submitted.wrapping_add(1);
        let submitted = *submitted;
        self.put(base + 0x1000 + 4 + slot * 2, &[0, 0]);
        self.put(base + 0x1000 + 2, &submitted.to_le_bytes());
        self.write(NOTIFY + queue * 4, &(queue as u16).to_le_bytes());
    }
}

/// Drives the device that the first byte names by the rest of them.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let place = tempfile::tempdir().unwrap();
    let ram = Arc::new(GuestRam::new(RAM).unwrap());
    let (clock, _time) = VmClock::manual();
    let (ports, mmio) = (Arc::new(PortBus::default()), Arc::new(MmioBus::default()));
    let row = DeviceTable::default().add("virtio");
    let (device, mut host) = device(input.number(1), &ram, place.path());
    let parts = PciParts {
        ram: Arc::clone(&ram),
        clock: Arc::clone(&clock),
        wire: Wire::unconnected("INTA"),
        pin: 0,
        msi: Arc::new(NoMessages),
        mapper: BarMapper::new("virtio", row, Arc::downgrade(&ports), Arc::downgrade(&mmio)),
    };
    let pci = VirtioPci::new(device, parts).unwrap();
    let mut driver = Driver { ram, pci, submitted: [0; QUEUES as usize] };
    driver.pci.lock().unwrap().config_write(4, &[6]);
    driver.start(input.number(4));
    while !input.is_empty() {
        let operation = input.number(1);
        match operation & 0xf {
            0..=5 => driver.submit(&mut input),
            6..=8 => {
                // What requests say, and sometimes what rings say.
                let base = if operation & 0x80 == 0 { DATA } else { 0 };
                let address = base + input.number(2);
                let bytes = input.bytes(operation as usize >> 3);
                driver.put(address, &bytes);
            }
            9 => {
                let offset = (input.number(1) % REGISTERS) * 0x1000 + input.number(1);
                let width = 1 << (operation >> 4 & 3);
                driver.write(offset, &input.number(width).to_le_bytes()[..width]);
            }
            10 => {
                let offset = (input.number(1) % REGISTERS) * 0x1000 + input.number(1);
                let _ =
                    driver.pci.lock().unwrap().read(offset, &mut [0; 8][..1 << (operation >> 6)]);
            }
            11 => {
                let (offset, value) = (u16::from(input.byte()), input.byte());
                driver.pci.lock().unwrap().config_write(offset, &[value]);
                driver.pci.lock().unwrap().config_write(4, &[6]);
            }
            12 if operation & 0xc0 == 0 => driver.start(input.number(4)),
            12 | 13 => {
                clock.fire_due();
            }
            _ => host.act(&mut input),
        }
    }
}
