//! The adapter as its driver sees it.

use super::{E1000, E1000Parts};
use ambos_clock::{ManualTime, VmClock};
use ambos_device::{BarMapper, DeviceTable, MmioBus, MmioDevice, PciFunction, PortBus, PortDevice};
use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};
use ambos_net::{Checksum, MacAddress, ManualNet, Offload, SegmentKind, Segmentation};
use ambos_wire::{InputPin, WireTarget};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const RX: u64 = 0x1000;
const TX: u64 = 0x2000;
const BUFFERS: u64 = 0x10_0000;
/// Descriptors of each ring.
const ENTRIES: u32 = 16;

#[derive(Default)]
struct Level(AtomicBool);

impl WireTarget for Level {
    fn set_level(&self, _line: u32, level: bool) {
        self.0.store(level, Ordering::SeqCst);
    }
}

struct Driver {
    ram: Arc<GuestRam>,
    adapter: Arc<Mutex<E1000>>,
    network: Arc<ManualNet>,
    level: Arc<Level>,
    clock: Arc<VmClock>,
    time: ManualTime,
    _buses: (Arc<PortBus>, Arc<MmioBus>),
}

impl Driver {
    fn new() -> Self {
        let ram = Arc::new(GuestRam::new(4 << 20).unwrap());
        let (clock, time) = VmClock::manual();
        let buses = (Arc::new(PortBus::default()), Arc::new(MmioBus::default()));
        let row = DeviceTable::default().add("e1000");
        let (ports, mmio) = (Arc::downgrade(&buses.0), Arc::downgrade(&buses.1));
        let level = Arc::new(Level::default());
        let network = Arc::new(ManualNet::default());
        let parts = E1000Parts {
            ram: Arc::clone(&ram),
            clock: Arc::clone(&clock),
            wire: InputPin::new(level.clone(), 0).wire("INTA"),
            pin: 0,
            mapper: BarMapper::new("e1000", row, ports, mmio),
            network: network.clone(),
            mac: MacAddress::DEFAULT,
        };
        let adapter = E1000::new(parts).unwrap();
        adapter.lock().unwrap().config_write(4, &[6]);
        Self { ram, adapter, network, level, clock, time, _buses: buses }
    }

    /// One with both rings set up, receiving into every second page.
    fn started() -> Self {
        let driver = Self::new();
        for (base, ring) in [(0x2800, RX), (0x3800, TX)] {
            driver.write(base, ring as u32);
            driver.write(base + 8, ENTRIES * 16);
        }
        for index in 0..u64::from(ENTRIES) {
            driver.put(RX + index * 16, &(BUFFERS + index * 0x2000).to_le_bytes());
        }
        driver.write(0x400, 2);
        driver.write(0x100, 1 << 1 | 1 << 15);
        driver.write(0xd0, 0x9f);
        driver
    }

    fn write(&self, register: u64, value: u32) {
        MmioDevice::write(&mut *self.adapter.lock().unwrap(), register, &value.to_le_bytes())
            .unwrap();
    }

    fn read(&self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        MmioDevice::read(&mut *self.adapter.lock().unwrap(), register, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.ram.memory().write_slice(bytes, GuestPhysAddr(address)).unwrap();
    }

    fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.memory().read_slice(&mut bytes, GuestPhysAddr(address)).unwrap();
        bytes
    }

    /// Hands transmit descriptors over, the first at the ring's tail.
    fn send(&self, descriptors: &[[u32; 4]]) {
        let mut tail = self.read(0x3818);
        for words in descriptors {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.put(TX + u64::from(tail) * 16, &bytes);
            tail = (tail + 1) % ENTRIES;
        }
        self.write(0x3818, tail);
    }

    fn interrupt(&self) -> bool {
        self.level.0.load(Ordering::SeqCst)
    }

    fn pass(&self, nanoseconds: u64) {
        self.time.advance(nanoseconds);
        self.clock.fire_due();
    }
}

fn frame(length: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..length).map(|at| at as u8).collect();
    frame[..6].copy_from_slice(&MacAddress::DEFAULT.0);
    frame
}

const REPORT_END: u32 = 0x09 << 24;

#[test]
fn legacy_descriptors_send_frames_and_report() {
    let driver = Driver::started();
    driver.put(BUFFERS, &frame(100));
    driver.send(&[
        [BUFFERS as u32, 0, 40 | 8 << 24, 0],
        [BUFFERS as u32 + 40, 0, 60 | 0x0d << 24 | 50 << 16, 34 << 8],
    ]);
    let checksum = Some(Checksum { start: 34, offset: 16 });
    let offload = Offload { checksum, ..Offload::NONE };
    assert_eq!(driver.network.take_sent(), [(offload, frame(100))]);
    assert_eq!([driver.get(TX + 12, 1)[0], driver.get(TX + 28, 1)[0]], [1, 1]);
    assert_eq!((driver.read(0x3810), driver.interrupt()), (2, true));
    assert_eq!(driver.read(0xc0) & 3, 3);
    assert!(!driver.interrupt());
    assert_eq!((driver.read(0x4080), driver.read(0x4080)), (1, 0));
}

#[test]
fn frames_wait_until_they_are_whole_and_there_is_room() {
    let driver = Driver::started();
    driver.put(BUFFERS, &frame(60));
    driver.send(&[[BUFFERS as u32, 0, 30, 0]]);
    assert!(driver.network.take_sent().is_empty());
    driver.network.set_room(0);
    driver.send(&[[BUFFERS as u32 + 30, 0, 30 | REPORT_END, 0]]);
    assert_eq!((driver.read(0x3810), driver.get(TX + 28, 1)[0]), (0, 0));
    driver.network.set_room(9);
    assert_eq!(driver.network.take_sent(), [(Offload::NONE, frame(60))]);
    assert_eq!((driver.read(0x3810), driver.get(TX + 28, 1)[0]), (2, 1));
}

#[test]
fn segmentation_gets_its_lengths_and_tag() {
    let driver = Driver::started();
    driver.write(0, 1 << 30);
    driver.write(0x38, 0x8100);
    let mut large = frame(54 + 4000);
    large[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    large[16..18].fill(0);
    large[24..26].fill(0);
    large[46] = 0x50;
    large[50..52].copy_from_slice(&[0x12, 0x34]);
    driver.put(BUFFERS, &large);
    let context = 0x2f << 24 | 4000;
    let data = 0xef << 24 | 1 << 20;
    driver.send(&[
        [14 | 24 << 8 | 33 << 16, 34 | 50 << 8, context, 54 << 8 | 1460 << 16],
        [BUFFERS as u32, 0, data & !(1 << 24) | 1000, 0x3 << 8],
        [BUFFERS as u32 + 1000, 0, data | 3054, 0x3 << 8 | 0x0123 << 16],
    ]);
    let sent = driver.network.take_sent();
    let [(offload, sent)] = &sent[..] else { panic!("{} frames", sent.len()) };
    assert_eq!(offload.checksum, Some(Checksum { start: 38, offset: 16 }));
    let kind = SegmentKind::TcpV4;
    let segmentation = Segmentation { kind, ecn: false, size: 1460, header: 58 };
    assert_eq!(offload.segmentation, Some(segmentation));
    assert_eq!(sent[12..16], [0x81, 0, 0x01, 0x23]);
    // Length of the packet; the header's checksum; the pseudo-header's sum with the length.
    assert_eq!(sent[20..22], 4040u16.to_be_bytes());
    assert_eq!(ambos_net::checksum::add(0, &sent[18..38]), 0xffff);
    assert_eq!(sent[54..56], (0x1234u16 + 4020).to_be_bytes());
    assert_eq!(sent[60..], large[56..]);
    assert_eq!((driver.read(0x40f8), driver.read(0x4080)), (1, 3));
}

#[test]
fn received_frames_fill_descriptors() {
    let driver = Driver::started();
    driver.write(0x2818, 3);
    driver.network.bring(&frame(50), Offload { valid: true, ..Offload::NONE });
    assert_eq!(driver.get(BUFFERS, 50), frame(50));
    // Padding and checksum count; the frame is no IP packet, so nothing is said of its checksums.
    assert_eq!(driver.get(RX + 8, 8), [64, 0, 0, 0, 0x07, 0, 0, 0]);
    assert_eq!((driver.read(0x2810), driver.interrupt()), (1, true));
    assert_eq!(driver.read(0xc0) & 0x80, 0x80);
    driver.network.bring(&[6; 60], Offload::NONE);
    driver.network.bring(&frame(1600), Offload::NONE);
    assert_eq!((driver.network.waiting(), driver.read(0x2810)), (0, 1));
    // Long frames go over several buffers.
    driver.write(0x100, 1 << 1 | 1 << 5 | 1 << 26);
    driver.network.bring(&frame(4500), Offload::NONE);
    assert_eq!((driver.network.waiting(), driver.read(0x2810)), (1, 1));
    driver.write(0x2818, 8);
    assert_eq!((driver.network.waiting(), driver.read(0x2810)), (0, 4));
    let lengths = [1u64, 2, 3].map(|index| {
        let bytes = driver.get(RX + index * 16 + 8, 5);
        (u16::from_le_bytes([bytes[0], bytes[1]]), bytes[4] & 3)
    });
    assert_eq!(lengths, [(2048, 1), (2048, 1), (404, 3)]);
    assert_eq!(driver.get(BUFFERS + 3 * 0x2000, 404), frame(4500)[4096..]);
}

#[test]
fn tags_are_taken_out() {
    let driver = Driver::started();
    driver.write(0, 1 << 30);
    driver.write(0x38, 0x8100);
    driver.write(0x2818, 3);
    let mut tagged = frame(100);
    tagged[12..16].copy_from_slice(&[0x81, 0, 0x0a, 0xbc]);
    driver.network.bring(&tagged, Offload::NONE);
    assert_eq!(driver.get(BUFFERS + 12, 84), tagged[16..]);
    let descriptor = driver.get(RX + 8, 8);
    assert_eq!((descriptor[0], descriptor[4] & 8, &descriptor[6..]), (100, 8, &[0xbc, 0x0a][..]));
}

#[test]
fn interrupts_are_held_back() {
    let driver = Driver::started();
    driver.write(0x2818, 15);
    driver.write(0xc4, 1000);
    driver.pass(1_000_000);
    let receive = || driver.network.bring(&frame(60), Offload::NONE);
    receive();
    assert!(driver.interrupt());
    driver.read(0xc0);
    receive();
    assert!(!driver.interrupt());
    driver.pass(255_000);
    assert!(!driver.interrupt());
    driver.pass(1_000);
    assert!(driver.interrupt());
    // The delay of one kind: it begins again, up to a limit.
    driver.write(0xc4, 0);
    driver.read(0xc0);
    driver.write(0x2820, 10);
    driver.write(0x282c, 15);
    receive();
    driver.pass(9 * 1024);
    receive();
    driver.pass(5 * 1024);
    assert!(!driver.interrupt());
    driver.pass(1024);
    assert!(driver.interrupt());
    assert_eq!(driver.read(0xc0) & 0x80, 0x80);
}

#[test]
fn a_reset_through_the_ports_clears_all() {
    let driver = Driver::started();
    {
        let mut adapter = driver.adapter.lock().unwrap();
        PortDevice::write(&mut *adapter, 0, &[0; 4]).unwrap();
        PortDevice::write(&mut *adapter, 4, &(1u32 << 26).to_le_bytes()).unwrap();
    }
    assert_eq!([0x100, 0x400, 0xd0, 0x2808].map(|register| driver.read(register)), [0; 4]);
    assert_eq!(driver.read(0x5400), u32::from_le_bytes([0x02, 0x41, 0x6d, 0x62]));
    assert_eq!(driver.read(0x5404), 0x8000_0000 | u32::from(u16::from_le_bytes([0x6f, 0x73])));
}

/// Registers, rings and descriptors full of nonsense.
#[test]
fn hostile_drivers_do_no_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..100 {
        let driver = Driver::started();
        for _ in 0..100 {
            let value = (random() as u32) >> (random() % 32);
            let register = match random() % 4 {
                0 => random() % 0x2_0000,
                1 => [0x2800, 0x2808, 0x2810, 0x2818][(random() % 4) as usize],
                2 => [0x3800, 0x3808, 0x3810, 0x3818, 0x3818][(random() % 5) as usize],
                _ => [0, 0x100, 0x400, 0x10, 0x20, 0xc4, 0xc8, 0xd0][(random() % 8) as usize],
            };
            {
                let mut adapter = driver.adapter.lock().unwrap();
                let _ = MmioDevice::write(&mut *adapter, register, &value.to_le_bytes());
                let _ = MmioDevice::read(&mut *adapter, register, &mut [0; 8]);
            }
            driver.put(RX + random() % 0x2000, &random().to_le_bytes());
            driver.network.bring(&frame(60 + (random() % 5000) as usize), Offload::NONE);
            driver.pass(random() % 100_000);
        }
        driver.network.take_sent();
    }
}
