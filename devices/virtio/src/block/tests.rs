//! The disk as a driver uses it.

use super::*;
use crate::testing::{Driver, Random};
use ambos_block::ImageOptions;
use ambos_memory::{Bytes, GuestPhysAddr};

const VERSION_1: u64 = 1 << 32;
const HEADER: u64 = 0x5000;
const DATA: u64 = 0x8000;
const STATUS: u64 = 0x6000;

struct Bench {
    driver: Driver,
    disk: Arc<dyn BlockBackend>,
    _directory: tempfile::TempDir,
}

fn bench(read_only: bool) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, (0..1u64 << 17).flat_map(u64::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let options = ImageOptions { read_only, ..ImageOptions::new(path) };
    let disk = ambos_block::open(&options).unwrap();
    let ram = Driver::ram();
    let device = BlockDevice::new(Arc::clone(&disk), Arc::clone(&ram), "disk0", 2);
    Bench { driver: Driver::with_ram(ram, Box::new(device)), disk, _directory: directory }
}

impl Bench {
    /// Does a request with data in `data`, and returns its status.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)], indirect: bool) -> u8 {
        let driver = &mut self.driver;
        driver.put(HEADER, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
        driver.put(STATUS, &[0xee]);
        let parts = [&[(HEADER, 16, false)], data, &[(STATUS, 1, true)]].concat();
        driver.submit(&parts, indirect);
        driver.notify();
        let written = data.iter().filter(|part| part.2).map(|part| part.1).sum::<u32>() + 1;
        // Some are served by other threads.
        let served = loop {
            match driver.served() {
                Some(served) => break served,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(served, written);
        driver.get(STATUS, 1)[0]
    }

    fn content(&self, sector: u64, sectors: usize) -> Vec<u8> {
        let mut bytes = vec![0; sectors * 512];
        self.disk.read(sector * 512, &[(&mut bytes[..]).into()]).unwrap();
        bytes
    }
}

#[test]
fn reads_and_writes() {
    let mut bench = bench(false);
    bench.driver.start(VERSION_1 | 1 << 28 | Features::FLUSH.bits());
    bench.driver.use_messages();
    for indirect in [false, true] {
        let data = [(DATA + 3, 100, true), (DATA + 0x1000, 924, true)];
        assert_eq!(bench.request(request::READ, 7, &data, indirect), 0);
        let read = [bench.driver.get(DATA + 3, 100), bench.driver.get(DATA + 0x1000, 924)];
        assert_eq!(read.concat(), bench.content(7, 2));
        assert_eq!(bench.driver.messages.take(), [(0xfee0_0000, 0x41)]);
        let value = 0x50 + u8::from(indirect);
        bench.driver.put(DATA, &[value; 512]);
        assert_eq!(bench.request(request::WRITE, 9, &[(DATA, 512, false)], indirect), 0);
        assert_eq!(bench.content(9, 1), [value; 512]);
        bench.driver.messages.take();
    }
    assert_eq!(bench.request(request::FLUSH, 0, &[], false), 0);
    assert_eq!(bench.request(request::GET_ID, 0, &[(DATA, 20, true)], false), 0);
    assert_eq!(bench.driver.get(DATA, 6), b"disk0\0");
}

#[test]
fn discarding_and_zeroing() {
    let mut bench = bench(false);
    bench.driver.start(VERSION_1);
    let segment = |sector: u64, count: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    bench.driver.put(DATA, &[segment(8, 8, 1), segment(32, 1, 0)].concat());
    assert_eq!(bench.request(request::WRITE_ZEROES, 0, &[(DATA, 32, false)], false), 0);
    assert_eq!(bench.content(8, 8), [0; 4096]);
    assert_eq!(bench.content(32, 1), [0; 512]);
    assert_ne!(bench.content(33, 1), [0; 512]);
    assert_eq!(bench.request(request::DISCARD, 0, &[(DATA, 32, false)], false), 2);
    bench.driver.put(DATA, &segment(64, 8, 0));
    assert_eq!(bench.request(request::DISCARD, 0, &[(DATA, 16, false)], false), 0);
    for bad in [segment(2047, 2, 0), segment(u64::MAX, 1, 0), segment(0, u32::MAX, 0)] {
        bench.driver.put(DATA, &bad);
        assert_eq!(bench.request(request::WRITE_ZEROES, 0, &[(DATA, 16, false)], false), 1);
    }
    for length in [0, 8, 272] {
        let data = [(DATA, length, false)];
        assert_eq!(bench.request(request::DISCARD, 0, &data, false), 1, "{length}");
    }
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let mut bench = bench(false);
    bench.driver.start(VERSION_1);
    let data = [(DATA, 512, true)];
    assert_eq!(bench.request(request::READ, 2048, &data, false), 1);
    assert_eq!(bench.request(request::READ, u64::MAX, &data, false), 1);
    assert_eq!(bench.request(request::READ, 0, &[(DATA, 511, true)], false), 1);
    assert_eq!(bench.request(request::READ, 0, &[(0x4000_0000, 512, true)], false), 1);
    assert_eq!(bench.request(request::READ, 0, &[(u64::MAX - 5, 512, true)], false), 1);
    assert_eq!(bench.request(99, 0, &data, false), 2);
    // A request without a place for its status is against the rules.
    bench.driver.submit(&[(HEADER, 16, false)], false);
    bench.driver.notify();
    assert_eq!(bench.driver.read(20, 1) & 0x40, 0x40);
    bench.driver.write(20, &[0]);
    assert_eq!(bench.driver.read(20, 1), 0);
}

#[test]
fn a_read_only_disk_says_so() {
    let mut bench = bench(true);
    bench.driver.write(0, &[0; 4]);
    let features = Features::from_bits_truncate(bench.driver.read(4, 4));
    assert!(features.contains(Features::READ_ONLY) && !features.contains(Features::DISCARD));
    bench.driver.start(VERSION_1 | Features::READ_ONLY.bits());
    assert_eq!(bench.request(request::WRITE, 0, &[(DATA, 512, false)], false), 1);
}

#[test]
fn the_configuration_space() {
    let bench = bench(false);
    assert_eq!(bench.driver.read(0x2000, 8), 2048);
    assert_eq!(bench.driver.read(0x2014, 4), 512);
    assert_eq!(bench.driver.read(0x2022, 2), 2);
    assert_eq!(bench.driver.read(0x2020, 1), 1);
    bench.driver.start(VERSION_1 | Features::WRITE_CACHE.bits());
    bench.driver.write(0x2020, &[0]);
    assert_eq!(bench.driver.read(0x2020, 1), 0);
    assert_eq!(bench.driver.read(0x2ff8, 8), 0);
}

#[test]
fn any_rings_and_requests_are_survived() {
    for seed in 0..6 {
        let bench = bench(false);
        let mut random = Random::new(seed);
        let features = VERSION_1 | (seed & 3) << 28;
        bench.driver.start(features);
        bench.driver.use_messages();
        for _ in 0..3000 {
            // Descriptors, rings, tables and headers, mostly in range and of known kinds.
            for _ in 0..random.below(12) {
                let place = GuestPhysAddr(0x1000 + random.below(0x4400) / 2 * 2);
                let value = match random.below(4) {
                    0 => random.next(),
                    1 => 0x1000 + random.below(0x5000),
                    2 => random.below(16),
                    _ => random.below(16) << 32 | random.below(8) << 48 | random.below(4096),
                };
                bench.driver.ram.memory().write_obj(value, place).unwrap();
            }
            match random.below(24) {
                0 => bench.driver.start(features),
                1 => {
                    let offset = random.below(64);
                    let bytes = random.next().to_le_bytes();
                    let bytes = &bytes[..1 << random.below(4)];
                    let _ = bench.driver.mmio.write(crate::testing::BAR + offset, bytes);
                }
                2 => {
                    let index = random.next() as u16;
                    bench.driver.put(crate::testing::AVAILABLE + 2, &index.to_le_bytes());
                }
                3 => _ = bench.driver.clock.fire_due(),
                _ => {
                    let index = bench.driver.get(crate::testing::AVAILABLE + 2, 2);
                    let index = u16::from_le_bytes([index[0], index[1]]).wrapping_add(1);
                    bench.driver.put(crate::testing::AVAILABLE + 2, &index.to_le_bytes());
                }
            }
            bench.driver.notify();
        }
    }
}

/// A disk whose flushes take until they are let through.
struct SlowFlush(Arc<dyn BlockBackend>, Arc<std::sync::Barrier>);

impl BlockBackend for SlowFlush {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn is_cached(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, slices: &[ambos_block::Slice<'_>]) -> io::Result<()> {
        self.0.read(offset, slices)
    }

    fn write(&self, offset: u64, slices: &[ambos_block::Slice<'_>]) -> io::Result<()> {
        self.0.write(offset, slices)
    }

    fn flush(&self) -> io::Result<()> {
        self.1.wait();
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.0.write_zeroes(offset, length, unmap)
    }
}

#[test]
fn a_flush_does_not_keep_the_vcpu() {
    let file = bench(false);
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let ram = Driver::ram();
    let disk = Arc::new(SlowFlush(Arc::clone(&file.disk), Arc::clone(&barrier)));
    let device = BlockDevice::new(disk, Arc::clone(&ram), "slow", 1);
    let mut driver = Driver::with_ram(ram, Box::new(device));
    driver.start(VERSION_1 | Features::FLUSH.bits());
    driver.use_messages();
    driver.put(HEADER, &[&request::FLUSH.to_le_bytes()[..], &[0; 12]].concat());
    driver.submit(&[(HEADER, 16, false), (STATUS, 1, true)], false);
    driver.notify();
    assert_eq!(driver.served(), None);
    assert!(driver.messages.take().is_empty());
    barrier.wait();
    while driver.messages.take().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(driver.served(), Some(1));
    // A reset waits for what is under way, wherever that is.
    let release = std::thread::spawn(move || barrier.wait());
    driver.submit(&[(HEADER, 16, false), (STATUS, 1, true)], false);
    driver.notify();
    driver.write(20, &[0]);
    assert!(release.join().is_ok());
    assert_eq!(driver.get(STATUS, 1), [0]);
}
