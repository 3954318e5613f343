//! The adapter as its driver sees it.

use super::NetDevice;
use crate::testing::{Driver, Random};
use ambos_net::{Accepts, Checksum, MacAddress, ManualNet, Offload, SegmentKind, Segmentation};
use std::sync::Arc;

/// Where the driver has buffers.
const BUFFERS: u64 = 0x10_0000;
const VERSION_1: u64 = 1 << 32;
const MERGEABLE: u64 = 1 << 15;
const EVENT_INDEX: u64 = 1 << 29;
/// Every offload that the driver could take.
const GUEST_OFFLOADS: u64 = 1 << 1 | 1 << 7 | 1 << 8 | 1 << 9;

fn driver(queue: u16, features: u64) -> (Driver, Arc<ManualNet>) {
    let network = Arc::new(ManualNet::default());
    let device = NetDevice::new(network.clone(), MacAddress::DEFAULT);
    let driver = Driver::with_queue(Box::new(device), queue);
    driver.start(VERSION_1 | features);
    (driver, network)
}

/// A frame to the adapter.
fn frame(length: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..length).map(|at| at as u8).collect();
    frame[..6].copy_from_slice(&MacAddress::DEFAULT.0);
    frame
}

#[test]
fn frames_are_sent_with_what_is_left_to_do() {
    let (mut driver, network) = driver(1, 0);
    let offload = Offload {
        checksum: Some(Checksum { start: 34, offset: 16 }),
        valid: false,
        segmentation: Some(Segmentation {
            kind: SegmentKind::TcpV4,
            ecn: false,
            size: 1448,
            header: 66,
        }),
    };
    driver.put(BUFFERS, &offload.to_header());
    driver.put(BUFFERS + 12, &frame(5000));
    driver.submit(&[(BUFFERS, 1000, false), (BUFFERS + 1000, 4012, false)], false);
    driver.notify();
    assert_eq!(driver.served(), Some(0));
    assert_eq!(network.take_sent(), [(offload, frame(5000))]);
}

#[test]
fn a_full_network_keeps_requests_waiting() {
    let (mut driver, network) = driver(1, EVENT_INDEX);
    network.set_room(0);
    driver.put(BUFFERS + 12, &frame(60));
    driver.submit(&[(BUFFERS, 72, false)], false);
    driver.notify();
    assert_eq!(driver.served(), None);
    network.set_room(5);
    assert_eq!(driver.served(), Some(0));
    assert_eq!(network.take_sent().len(), 1);
}

#[test]
fn large_frames_are_spread_over_buffers_or_cut() {
    for (features, lengths) in [(MERGEABLE | GUEST_OFFLOADS, vec![3012]), (MERGEABLE, vec![1512])] {
        let (mut driver, network) = driver(0, features);
        assert_eq!(network.accepts().contains(Accepts::TCP_V4), features != MERGEABLE);
        for buffer in 0..4 {
            driver.submit(&[(BUFFERS + buffer * 0x1000, 1000, true)], true);
            driver.notify();
        }
        assert_eq!(driver.served(), None);
        network.bring(&frame(lengths[0] - 12), Offload::NONE);
        let mut left = lengths[0];
        let mut count = 0;
        while let Some(written) = driver.served() {
            left -= written as usize;
            count += 1;
        }
        assert_eq!((left, count), (0, lengths[0].div_ceil(1000)));
        // All buffers are the same one here, as the driver describes only one at a time.
        let header = driver.get(BUFFERS + 3 * 0x1000, 12);
        assert_eq!(header.len(), 12);
    }
}

#[test]
fn frames_wait_for_buffers_and_strangers_do_not() {
    let (mut driver, network) = driver(0, MERGEABLE);
    network.bring(&[6; 60], Offload::NONE);
    assert_eq!(network.waiting(), 0);
    network.bring(&frame(1000), Offload::NONE);
    assert_eq!(network.waiting(), 1);
    driver.submit(&[(BUFFERS, 512, true)], false);
    driver.notify();
    assert_eq!((driver.served(), network.waiting()), (None, 1));
    driver.submit(&[(BUFFERS, 512, true)], false);
    driver.notify();
    assert_eq!([driver.served(), driver.served()], [Some(512), Some(500)]);
    assert_eq!(network.waiting(), 0);
}

#[test]
fn commands_change_what_is_taken() {
    let (mut driver, network) = driver(2, 1 << 17 | 1 << 18 | 1 << 2 | GUEST_OFFLOADS);
    let run = |driver: &mut Driver, command: &[u8]| {
        driver.put(BUFFERS, command);
        driver.put(BUFFERS + 0x100, &[9]);
        driver.submit(&[(BUFFERS, command.len() as u32, false), (BUFFERS + 0x100, 1, true)], false);
        driver.notify();
        assert_eq!(driver.served(), Some(1));
        driver.get(BUFFERS + 0x100, 1)[0]
    };
    assert_eq!(run(&mut driver, &[0, 0, 1]), 0);
    assert_eq!(run(&mut driver, &[0, 0]), 1);
    assert_eq!(run(&mut driver, &[9, 9, 1]), 1);
    assert!(network.accepts().contains(Accepts::TCP_V4));
    assert_eq!(run(&mut driver, &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 0);
    assert_eq!(network.accepts(), Accepts::empty());
    assert_eq!(run(&mut driver, &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0xff]), 1);
}

/// Rings and descriptors full of nonsense, in every queue.
#[test]
fn hostile_drivers_do_no_harm() {
    let mut random = Random::new(7);
    for round in 0..300 {
        let queue = (round % 3) as u16;
        let (mut driver, network) =
            driver(queue, (random.next() & (MERGEABLE | EVENT_INDEX)) | 1 << 17);
        for _ in 0..20 {
            let parts: Vec<(u64, u32, bool)> = (0..1 + random.below(4))
                .map(|_| {
                    let address = match random.below(3) {
                        0 => random.next(),
                        1 => random.below(5 << 20),
                        _ => BUFFERS,
                    };
                    let length = random.next() as u32 >> random.below(32);
                    (address, length, random.below(2) == 0)
                })
                .collect();
            driver.submit(&parts, random.below(2) == 0);
            if random.below(8) == 0 {
                let (place, byte) = (0x1000 + random.below(0x4000), random.next() as u8);
                driver.put(place, &[byte]);
            }
            driver.notify();
            network.bring(&frame(60 + random.below(3000) as usize), Offload::NONE);
        }
        drop(driver);
    }
}
