//! The adapter as its driver sees it.

use super::{NetDevice, Patience, RECEIVE_INTERVAL, SENT};
use crate::testing::{AVAILABLE, Driver, Random, SIZE};
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

/// Time goes on; how many interrupts came of that.
fn later(driver: &Driver, nanoseconds: u64) -> usize {
    driver.time.advance(nanoseconds);
    driver.clock.fire_due();
    driver.messages.take().len()
}

/// An adapter with messages and buffers for received frames.
fn receiver(features: u64) -> (Driver, Arc<ManualNet>) {
    let (mut driver, network) = driver(0, MERGEABLE | features);
    driver.use_messages();
    for _ in 0..SIZE {
        driver.submit(&[(BUFFERS, 2048, true)], false);
    }
    driver.notify();
    // No frame is brought before an interval has passed.
    assert_eq!(later(&driver, RECEIVE_INTERVAL), 0);
    (driver, network)
}

/// The driver has seen `count` completed requests and wants to hear of the next one.
fn looked(driver: &Driver, count: u16) {
    let place = AVAILABLE + 4 + u64::from(SIZE) * 2;
    driver.put(place, &count.to_le_bytes());
}

#[test]
fn interrupts_for_received_frames_keep_their_distance_while_vcpus_are_busy() {
    for features in [0, EVENT_INDEX] {
        let (driver, network) = receiver(features);
        let bring = || {
            network.bring(&frame(100), Offload::NONE);
            driver.messages.take().len()
        };
        assert_eq!(bring(), 1, "the first one is told at once");
        looked(&driver, 1);
        assert_eq!(bring(), 0);
        assert_eq!(bring(), 0);
        assert_eq!(later(&driver, RECEIVE_INTERVAL - 1), 0);
        assert_eq!(later(&driver, 1), 1, "both are told together");
        looked(&driver, 3);
        assert_eq!(later(&driver, 10 * RECEIVE_INTERVAL), 0);
        // A vCPU without anything to do is not kept waiting.
        assert_eq!(bring(), 1);
        looked(&driver, 4);
        assert_eq!(bring(), 0);
        driver.clock.idle_begins();
        assert_eq!(driver.messages.take().len(), 1);
        looked(&driver, 5);
        assert_eq!(bring(), 1);
        looked(&driver, 6);
        driver.clock.idle_ends();
        assert_eq!(bring(), 0);
    }
}

#[test]
fn who_looked_by_himself_is_not_interrupted() {
    let (driver, network) = receiver(EVENT_INDEX);
    for count in 1..3 {
        network.bring(&frame(100), Offload::NONE);
        looked(&driver, count);
    }
    assert_eq!(driver.messages.take().len(), 1);
    assert_eq!(later(&driver, 10 * RECEIVE_INTERVAL), 0);
}

#[test]
fn what_waits_is_forgotten_by_a_reset() {
    let (driver, network) = receiver(EVENT_INDEX);
    network.bring(&frame(100), Offload::NONE);
    looked(&driver, 1);
    network.bring(&frame(100), Offload::NONE);
    driver.messages.take();
    driver.write(20, &[0]);
    assert_eq!(driver.clock.armed(), []);
    assert_eq!(later(&driver, 10 * RECEIVE_INTERVAL), 0);
}

#[test]
fn memory_of_few_small_frames_comes_back_later() {
    let Patience::Delay { nanoseconds, .. } = SENT else { panic!() };
    let (mut driver, network) = driver(1, EVENT_INDEX);
    driver.use_messages();
    driver.put(BUFFERS, &[0; 12]);
    let send = |driver: &mut Driver, length: u32| {
        driver.submit(&[(BUFFERS, length, false)], false);
        driver.notify();
        driver.messages.take().len()
    };
    assert_eq!(send(&mut driver, 80), 0);
    assert_eq!(network.take_sent().len(), 1);
    assert_eq!(later(&driver, nanoseconds / 2), 0);
    assert_eq!(send(&mut driver, 80), 0);
    assert_eq!(later(&driver, nanoseconds / 2), 1, "the first one's time counts");
    looked(&driver, 2);
    // A large one is told of at once, and what waited with it.
    assert_eq!(send(&mut driver, 80), 0);
    assert_eq!(send(&mut driver, 3000), 1);
    looked(&driver, 4);
    assert_eq!(later(&driver, 2 * nanoseconds), 0);
    // So are many: here, a quarter of the queue.
    assert_eq!([80; 4].map(|length| send(&mut driver, length)), [0, 0, 0, 1]);
    looked(&driver, 8);
    // A driver that looked meanwhile is left alone.
    assert_eq!(send(&mut driver, 80), 0);
    looked(&driver, 9);
    assert_eq!(later(&driver, nanoseconds / 2), 0);
    // Nor does its time count for the next one.
    assert_eq!(send(&mut driver, 80), 0);
    assert_eq!(later(&driver, nanoseconds / 2), 0);
    assert_eq!(later(&driver, nanoseconds / 2), 1);
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
