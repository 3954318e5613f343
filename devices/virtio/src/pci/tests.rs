//! The function as software finds it.

use super::*;
use crate::EntropySource;
use crate::testing::{BAR, Driver, Random, SIZE};

fn driver() -> Driver {
    Driver::new(Box::new(EntropySource))
}

fn dword(driver: &Driver, offset: u16) -> u32 {
    let mut data = [0; 4];
    driver.pci.lock().unwrap().config_read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn the_structures_are_named() {
    let driver = driver();
    assert_eq!(dword(&driver, 0), 0x1044_1af4);
    let (mut place, mut kinds) = (dword(&driver, 0x34) as u16 & 0xff, Vec::new());
    while place != 0 {
        let head = dword(&driver, place);
        if head as u8 == spec::CAPABILITY {
            kinds.push(((head >> 24) as u8, dword(&driver, place + 8)));
        } else {
            assert_eq!(head as u8, spec::MSIX);
            // Two messages.
            assert_eq!(head >> 16, 1);
        }
        place = (head >> 8) as u16 & 0xff;
    }
    assert_eq!(kinds, [(1, 0), (2, 0x3000), (3, 0x1000), (4, 0x2000), (5, 0)]);
}

#[test]
fn features_must_be_among_those_offered() {
    let driver = driver();
    driver.write(0, &[1, 0, 0, 0]);
    assert_eq!(driver.read(4, 4), 1);
    for (word, half, accepted) in [(1u32 << 5, 0u8, false), (0, 0, false), (1, 1, true)] {
        driver.write(20, &[0]);
        driver.write(8, &[half, 0, 0, 0]);
        driver.write(12, &word.to_le_bytes());
        driver.write(20, &[0xb]);
        assert_eq!(driver.read(20, 1) & 8 != 0, accepted, "{word:#x}");
    }
}

#[test]
fn the_pin_is_driven_until_the_status_is_read() {
    let mut driver = driver();
    driver.start(1 << 32);
    driver.submit(&[(0x8000, 64, true)], false);
    driver.notify();
    assert!(driver.served().is_some());
    assert!(driver.pci.lock().unwrap().wire.level());
    assert_eq!(driver.read(0x1000, 1), 1);
    assert!(!driver.pci.lock().unwrap().wire.level());
    assert_eq!(driver.read(0x1000, 1), 0);
    assert!(driver.messages.take().is_empty());
}

#[test]
fn messages_replace_the_pin() {
    let mut driver = driver();
    driver.start(1 << 32);
    driver.use_messages();
    driver.submit(&[(0x8000, 64, true)], false);
    driver.notify();
    assert_eq!(driver.messages.take(), [(0xfee0_0000, 0x41)]);
    assert!(!driver.pci.lock().unwrap().wire.level());
    // A masked one waits.
    driver.write(0x401c, &[1, 0, 0, 0]);
    driver.submit(&[(0x8000, 64, true)], false);
    driver.notify();
    assert!(driver.messages.take().is_empty());
    assert_eq!(driver.read(0x5000, 4), 2);
    driver.write(0x401c, &[0, 0, 0, 0]);
    assert_eq!(driver.messages.take(), [(0xfee0_0000, 0x41)]);
}

#[test]
fn the_event_index_saves_interrupts() {
    let mut driver = driver();
    driver.start(1 << 32 | 1 << 29);
    driver.use_messages();
    // The driver wants to hear of the third one.
    driver.put(crate::testing::AVAILABLE + 4 + u64::from(SIZE) * 2, &[2, 0]);
    for expected in [0, 0, 1, 0] {
        driver.submit(&[(0x8000, 8, true)], false);
        driver.notify();
        assert_eq!(driver.messages.take().len(), expected);
    }
}

#[test]
fn a_function_without_leave_to_access_memory_does_not() {
    let mut driver = driver();
    driver.start(1 << 32);
    driver.pci.lock().unwrap().config_write(4, &[2]);
    driver.submit(&[(0x8000, 64, true)], false);
    driver.notify();
    assert_eq!(driver.served(), None);
}

#[test]
fn registers_can_be_reached_through_configuration_space() {
    let driver = driver();
    let mut pci = driver.pci.lock().unwrap();
    let access = u16::from(pci.places.access);
    pci.config_write(access + 4, &[4]);
    pci.config_write(access + 8, &20u32.to_le_bytes());
    pci.config_write(access + 12, &1u32.to_le_bytes());
    pci.config_write(access + 16, &[3]);
    assert_eq!(pci.common.status, Status::ACKNOWLEDGE | Status::DRIVER);
    let mut data = [0];
    pci.config_read(access + 16, &mut data);
    assert_eq!(data, [3]);
}

#[test]
fn queues_that_are_nowhere_need_a_reset() {
    let driver = driver();
    driver.start(1 << 32);
    assert_eq!(driver.read(28, 2), 1);
    driver.write(20, &[0]);
    driver.write(32, &0xffff_f000u64.to_le_bytes());
    driver.write(28, &[1, 0]);
    assert_eq!((driver.read(28, 2), driver.read(20, 1)), (0, 0x40));
}

#[test]
fn any_sequence_of_accesses_is_survived() {
    let driver = driver();
    let mut random = Random::new(3);
    for _ in 0..200_000 {
        let offset = match random.below(4) {
            0 => random.below(64),
            1 => random.below(8) * 0x1000 + random.below(16),
            _ => random.below(0x8000),
        };
        let length = 1 + random.below(8) as usize;
        if random.below(2) == 0 {
            let _ = driver.mmio.read(BAR + offset, &mut [0; 8][..length]);
        } else {
            let bytes = (random.next() >> random.below(64)).to_le_bytes();
            let _ = driver.mmio.write(BAR + offset, &bytes[..length]);
        }
        if random.below(16) == 0 {
            let mut pci = driver.pci.lock().unwrap();
            let (at, value) = (0x40 + random.below(48) as u16 * 4, random.next() as u32);
            pci.config_write(at, &value.to_le_bytes());
            pci.config_read(at, &mut [0; 4]);
        }
    }
}
