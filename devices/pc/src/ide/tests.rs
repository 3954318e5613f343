//! The controller as a driver uses it.

use super::*;
use crate::testing::Random;
use ambos_block::{BlockBackend, ImageOptions};
use ambos_device::{DeviceTable, MmioBus, PortBus, PortRange};
use ambos_memory::{Bytes, GuestPhysAddr};
use ambos_wire::{InputPin, Inputs};
use spec::{Status, command};

const SECTORS: u64 = 4096;
const TABLE: u64 = 0x1000;

#[derive(Default)]
struct Line {
    level: bool,
    edges: usize,
}

impl Inputs for Line {
    fn set_input(&mut self, _line: u32, level: bool) {
        self.edges += usize::from(level && !self.level);
        self.level = level;
    }
}

struct Bench {
    ide: Mutex<IdeController>,
    ports: Arc<PortBus>,
    _mmio: Arc<MmioBus>,
    ram: Arc<GuestRam>,
    line: Arc<Mutex<Line>>,
    disk: Arc<dyn BlockBackend>,
    _directory: tempfile::TempDir,
}

/// A machine with a disk and a CD-ROM drive on the first channel.
fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let image = |name: &str, read_only| {
        let path = directory.path().join(name);
        let bytes: Vec<u8> = (0..SECTORS * 64).flat_map(|n| n.to_le_bytes()).collect();
        std::fs::write(&path, bytes).unwrap();
        ambos_block::open(&ImageOptions { read_only, ..ImageOptions::new(path) }).unwrap()
    };
    let disk = image("disk", false);
    let drives = [
        Some(IdeDrive::Disk(Arc::clone(&disk))),
        Some(IdeDrive::Cdrom(image("cdrom", true))),
        None,
        None,
    ];
    let (ports, mmio) = (Arc::new(PortBus::default()), Arc::new(MmioBus::default()));
    let row = DeviceTable::default().add("IDE");
    let mapper = BarMapper::new("IDE", row, Arc::downgrade(&ports), Arc::downgrade(&mmio));
    let line = Arc::new(Mutex::new(Line::default()));
    let irqs = [InputPin::new(line.clone(), 0).wire("IDE 0"), Wire::unconnected("IDE 1")];
    let ram = Arc::new(GuestRam::new(4 << 20).unwrap());
    let mut ide = IdeController::new(&ram, irqs, drives, mapper).unwrap();
    for (first, channel) in [0x1f0, 0x170].into_iter().zip(ide.channels()) {
        let control = PortRange::new(first + 0x206, 1).at_offset(IdeChannel::CONTROL);
        for range in [PortRange::new(first, 8), control] {
            ports.map(range, "IDE", row, channel.clone()).unwrap();
        }
    }
    ide.config_write(0x20, &0xc000u32.to_le_bytes());
    ide.config_write(4, &[5]);
    let ide = Mutex::new(ide);
    Bench { ide, ports, _mmio: mmio, ram, line, disk, _directory: directory }
}

impl Bench {
    fn write(&self, port: u16, value: u8) {
        assert!(self.ports.write(port, &[value]).served());
    }

    fn read(&self, port: u16) -> u8 {
        let mut data = [0];
        assert!(self.ports.read(port, &mut data).served());
        data[0]
    }

    fn status(&self) -> Status {
        Status::from_bits_retain(self.read(0x3f6))
    }

    /// Gives a command with an address of 48 bits.
    fn command(&self, code: u8, sector: u64, count: u16) {
        let [low, high] = count.to_le_bytes();
        let lba = sector.to_le_bytes();
        let values = [(2, high), (3, lba[3]), (4, lba[4]), (5, lba[5]), (2, low), (3, lba[0])];
        for (register, value) in values.into_iter().chain([(4, lba[1]), (5, lba[2]), (6, 0x40)]) {
            self.write(0x1f0 + register, value);
        }
        self.write(0x1f7, code);
    }

    fn words(&self, count: usize) -> Vec<u8> {
        let mut data = [0; 2];
        let words = (0..count).map(|_| {
            assert!(self.ports.read(0x1f0, &mut data).served());
            data
        });
        words.flatten().collect()
    }

    /// Points the bus master at `ranges` and starts it.
    fn start_master(&self, ranges: &[(u32, u32)]) {
        for (index, (address, length)) in ranges.iter().enumerate() {
            let last = if index + 1 == ranges.len() { 1 << 31 } else { 0 };
            let place = GuestPhysAddr(TABLE + index as u64 * 8);
            self.ram.memory().write_obj([*address, length & 0xffff | last], place).unwrap();
        }
        self.ports.write(0xc004, &(TABLE as u32).to_le_bytes());
        self.write(0xc002, 6);
        self.write(0xc000, 9);
    }

    fn memory(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.memory().read_slice(&mut bytes, GuestPhysAddr(address)).unwrap();
        bytes
    }

    fn content(&self, sector: u64, sectors: usize) -> Vec<u8> {
        drive::read(&*self.disk, sector * 512, sectors * 512).unwrap()
    }

    /// Whether there was an interrupt; reading the status ends it.
    fn interrupted(&self) -> bool {
        let level = self.line.lock().unwrap().level;
        self.read(0x1f7);
        assert!(!self.line.lock().unwrap().level);
        level
    }

    fn packet(&self, packet: &[u8], by_master: bool) {
        self.write(0x1f6, 0x10);
        self.write(0x1f1, by_master.into());
        self.write(0x1f4, 0x00);
        self.write(0x1f5, 0x08);
        self.write(0x1f7, command::PACKET);
        let mut whole = [0; packet::LENGTH];
        whole[..packet.len()].copy_from_slice(packet);
        for word in whole.as_chunks::<2>().0 {
            self.ports.write(0x1f0, word);
        }
    }
}

#[test]
fn drives_are_found_by_their_signatures() {
    let bench = bench();
    bench.write(0x3f6, 4);
    assert_eq!(bench.status(), Status::BSY);
    bench.write(0x3f6, 0);
    let signature = || [2, 3, 4, 5].map(|register| bench.read(0x1f0 + register));
    assert_eq!(signature(), [1, 1, 0, 0]);
    assert!(bench.status().contains(Status::DRDY));
    bench.write(0x1f6, 0x10);
    assert_eq!(signature(), [1, 1, 0x14, 0xeb]);
    assert_eq!(bench.status(), Status::empty());
    // Nobody is on the second channel.
    assert_eq!(bench.read(0x177), 0xff);
}

#[test]
fn the_data_port_reads_and_writes() {
    let bench = bench();
    bench.command(command::IDENTIFY, 0, 0);
    assert!(bench.interrupted());
    let identity = bench.words(256);
    assert_eq!(identity[200..204], (SECTORS as u32).to_le_bytes());
    assert!(!bench.status().contains(Status::DRQ));
    bench.command(command::READ_MULTIPLE_EXT, 100, 20);
    let mut read = Vec::new();
    for words in [16 * 256, 4 * 256] {
        assert!(bench.interrupted());
        read.extend(bench.words(words));
    }
    assert!(!bench.interrupted());
    assert_eq!(read, bench.content(100, 20));
    bench.command(command::WRITE_SECTORS_EXT, 7, 2);
    assert!(!bench.interrupted());
    for _ in 0..2 {
        assert!(bench.status().contains(Status::DRQ));
        (0..256).for_each(|_| assert!(bench.ports.write(0x1f0, &[0x12, 0x34]).served()));
        assert!(bench.interrupted());
    }
    assert_eq!(bench.content(7, 2), [0x12, 0x34].repeat(512));
    assert_eq!(bench.status(), Status::DRDY | Status::DSC);
}

#[test]
fn the_bus_master_reads_and_writes() {
    let bench = bench();
    bench.command(command::READ_DMA_EXT, 8, 16);
    assert!(!bench.interrupted());
    bench.start_master(&[(0x4000, 0x1000), (0x8000, 0x1000)]);
    assert_eq!(bench.read(0xc002), 4);
    assert!(bench.interrupted());
    let read = [bench.memory(0x4000, 0x1000), bench.memory(0x8000, 0x1000)].concat();
    assert_eq!(read, bench.content(8, 16));
    bench.write(0xc000, 0);
    bench.ram.memory().write_slice(&[0x77; 512], GuestPhysAddr(0x4000)).unwrap();
    // The other order: the bus master first.
    bench.start_master(&[(0x4000, 512)]);
    assert_eq!(bench.read(0xc002), 1);
    bench.command(command::WRITE_DMA_EXT, 4000, 1);
    assert!(bench.interrupted());
    assert_eq!(bench.content(4000, 1), [0x77; 512]);
    assert_eq!(bench.line.lock().unwrap().edges, 2);
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let bench = bench();
    for code in [command::READ_DMA_EXT, command::WRITE_SECTORS_EXT, command::READ_SECTORS_EXT] {
        bench.command(code, SECTORS - 1, 2);
        assert!(bench.interrupted());
        assert!(bench.status().contains(Status::ERR));
        assert_eq!(bench.read(0x1f1), 0x10);
    }
    bench.command(0xfe, 0, 1);
    assert_eq!(bench.read(0x1f1), 4);
    // Memory that is not there.
    bench.command(command::READ_DMA_EXT, 0, 1);
    bench.start_master(&[(0x4000_0000, 512)]);
    assert_eq!(bench.read(0xc002) & 7, 6);
    assert!(bench.interrupted() && bench.status().contains(Status::ERR));
    bench.write(0xc000, 0);
    // A table that is too short leaves the drive waiting, until a reset.
    bench.command(command::READ_DMA_EXT, 0, 2);
    bench.start_master(&[(0x4000, 512)]);
    assert_eq!(bench.read(0xc002), 0);
    assert!(bench.status().contains(Status::DRQ));
    bench.write(0x3f6, 4);
    bench.write(0x3f6, 0);
    assert!(!bench.status().contains(Status::DRQ));
    // A function that may not access memory does not.
    bench.ide.lock().unwrap().config_write(4, &[1]);
    bench.write(0xc000, 0);
    bench.command(command::READ_DMA_EXT, 0, 1);
    bench.start_master(&[(0x4000, 512)]);
    assert_eq!(bench.read(0xc002) & 3, 2);
}

#[test]
fn the_cdrom_reads_both_ways() {
    let bench = bench();
    let blocks: Vec<u8> = (512..1024u64).flat_map(|n| n.to_le_bytes()).collect();
    bench.packet(&[0x28, 0, 0, 0, 0, 2, 0, 0, 2], false);
    let mut read = Vec::new();
    for _ in 0..2 {
        assert!(bench.interrupted());
        assert_eq!([2, 4, 5].map(|register| bench.read(0x1f0 + register)), [2, 0, 8]);
        read.extend(bench.words(1024));
    }
    assert!(bench.interrupted());
    assert_eq!((read, bench.read(0x1f2)), (blocks.clone(), 3));
    bench.packet(&[0x28, 0, 0, 0, 0, 2, 0, 0, 2], true);
    bench.start_master(&[(0x1_0000, 0x1000)]);
    assert!(bench.interrupted());
    assert_eq!(bench.memory(0x1_0000, 0x1000), blocks);
    bench.write(0xc000, 0);
    bench.packet(&[0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 1], false);
    assert!(bench.interrupted() && bench.status().contains(Status::ERR));
    assert_eq!(bench.read(0x1f1), 0x54);
    bench.packet(&[3, 0, 0, 0, 18], false);
    assert_eq!(bench.words(9)[..3], [0x70, 0, 5]);
}

#[test]
fn flush_trim_and_the_write_cache() {
    let bench = bench();
    bench.command(command::FLUSH_CACHE_EXT, 0, 0);
    assert!(bench.interrupted() && !bench.status().contains(Status::ERR));
    bench.write(0x1f1, 0x82);
    bench.command(command::SET_FEATURES, 0, 0);
    bench.command(command::IDENTIFY, 0, 0);
    assert_eq!(bench.words(256)[170] & 1 << 5, 0);
    bench.ram.memory().write_slice(&[0; 512], GuestPhysAddr(0x4000)).unwrap();
    bench.ram.memory().write_obj(16u64 | 8 << 48, GuestPhysAddr(0x4000)).unwrap();
    bench.write(0x1f1, 1);
    bench.command(command::DATA_SET_MANAGEMENT, 0, 1);
    bench.start_master(&[(0x4000, 512)]);
    assert!(bench.interrupted() && !bench.status().contains(Status::ERR));
    assert_ne!(bench.content(15, 1), [0; 512]);
    assert_ne!(bench.content(24, 1), [0; 512]);
}

#[test]
fn any_sequence_of_accesses_is_survived() {
    for seed in 0..8 {
        let bench = bench();
        let mut random = Random::new(seed);
        let codes = [0x06, 0x24, 0x25, 0x29, 0x34, 0x35, 0x39, 0xa0, 0xa1, 0xc6, 0xec, 0xef, 0xe7];
        for _ in 0..20_000 {
            let value = random.next();
            let register = random.below(9) as u16;
            match random.below(8) {
                0 => bench.write(0x1f7, codes[random.below(codes.len())]),
                1 => {
                    let port = if register == 8 { 0x3f6 } else { 0x1f0 + register };
                    bench.write(port, if register == 8 { value as u8 & 6 } else { value as u8 });
                }
                2 => _ = bench.read(0x1f0 + register % 8),
                3 => {
                    let table = [value as u32 & 0x3f_ffff, value as u32][random.below(2)];
                    bench.ports.write(0xc004, &table.to_le_bytes());
                }
                4 => {
                    let entry = [value as u32 & 0x7f_ffff, (value >> 32) as u32];
                    let place = TABLE + 8 * random.below(16) as u64;
                    bench.ram.memory().write_obj(entry, GuestPhysAddr(place)).unwrap();
                    bench.ports.write(0xc004, &(TABLE as u32).to_le_bytes());
                }
                5 => bench.write(0xc000, value as u8),
                6 => _ = bench.ports.write(0x1f0, &value.to_le_bytes()[..4]),
                _ => _ = bench.ports.read(0x1f0, &mut [0; 4]),
            }
        }
    }
}
