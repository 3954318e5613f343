//! The disk as a driver uses it.

use super::BlockBack;
use super::request::{SLOT, Segment, operation};
use crate::grants::GrantRef;
use crate::testing::{FrontRing, Guest, Random};
use crate::xenbus::{Device, Place, State};
use crate::xenstore::{DomainId, Store};
use ambos_block::{BlockBackend, ImageOptions};
use std::sync::Arc;

const PLACE: Place = Place { guest: DomainId(1), class: "vbd", number: 51712 };
const PORT: u32 = 9;

struct Bench {
    guest: Guest,
    store: Store,
    device: Device,
    disk: Arc<dyn BlockBackend>,
    next_id: u64,
    _directory: tempfile::TempDir,
}

fn bench(read_only: bool, cdrom: bool) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, (0..1u64 << 17).flat_map(u64::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let options = ImageOptions { read_only, ..ImageOptions::new(path) };
    let disk = ambos_block::open(&options).unwrap();
    let (guest, mut store) = (Guest::new(), Store::default());
    let half = BlockBack::new(Arc::clone(&disk), cdrom, 2, guest.grants(), guest.channels());
    let device = Device::create(&mut store, PLACE, Box::new(half), &[], &[]);
    Bench { guest, store, device, disk, next_id: 1, _directory: directory }
}

/// Sectors of a page: reference, first, last.
type Part = (GrantRef, u8, u8);

fn describe(parts: &[Part]) -> Vec<u8> {
    let part =
        |&(page, first, last): &Part| [&page.0.to_le_bytes()[..], &[first, last, 0, 0]].concat();
    parts.iter().flat_map(part).collect()
}

impl Bench {
    fn back(&self, name: &str) -> String {
        self.store.read(&PLACE.back().join(name)).unwrap_or("-").to_owned()
    }

    fn front(&mut self, name: &str, value: &str) {
        self.store.write(&PLACE.front().join(name), value);
    }

    fn switch(&mut self, state: State) {
        self.front("state", &state.number().to_string());
        self.device.front_changed(&mut self.store);
    }

    fn connect(&mut self) -> FrontRing {
        let ring = self.guest.ring(1, SLOT as u32);
        self.front("ring-ref", &ring.references[0].0.to_string());
        self.front("event-channel", &PORT.to_string());
        self.front("protocol", "x86_64-abi");
        self.switch(State::Initialised);
        assert_eq!(self.device.state(), State::Connected);
        self.switch(State::Connected);
        ring
    }

    fn push(&mut self, ring: &mut FrontRing, operation: u8, byte: u8, body: &[u8]) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        ring.push(&[&[operation, byte, 0, 0, 0, 0, 0, 0][..], &id.to_le_bytes(), body].concat());
        id
    }

    fn answer(ring: &mut FrontRing, id: u64) -> Option<i16> {
        let answer = ring.pop::<16>()?;
        assert_eq!(answer[..8], id.to_le_bytes());
        assert_ne!(answer[8], operation::INDIRECT, "what was done is told");
        Some(i16::from_le_bytes([answer[10], answer[11]]))
    }

    fn finish(&mut self, ring: &mut FrontRing, id: u64) -> i16 {
        if ring.publish() {
            assert!(self.guest.notify(PORT));
        }
        assert_eq!(self.guest.pinned(), ring.references.len() * 2, "only the ring is in use");
        Self::answer(ring, id).unwrap()
    }

    fn request(&mut self, ring: &mut FrontRing, operation: u8, sector: u64, parts: &[Part]) -> i16 {
        let body = [&sector.to_le_bytes()[..], &describe(parts)].concat();
        let id = self.push(ring, operation, parts.len() as u8, &body);
        self.finish(ring, id)
    }

    fn indirect(
        &mut self,
        ring: &mut FrontRing,
        operation: u8,
        count: u16,
        sector: u64,
        pages: &[GrantRef],
    ) -> i16 {
        let id = self.next_id;
        self.next_id += 1;
        let pages: Vec<u8> = pages.iter().flat_map(|page| page.0.to_le_bytes()).collect();
        let [low, high] = count.to_le_bytes();
        let head = [operation::INDIRECT, operation, low, high, 0, 0, 0, 0];
        let parts = [&head[..], &id.to_le_bytes(), &sector.to_le_bytes(), &[0; 4], &pages];
        ring.push(&parts.concat());
        self.finish(ring, id)
    }

    fn content(&self, sector: u64, sectors: usize) -> Vec<u8> {
        let mut bytes = vec![0; sectors * 512];
        self.disk.read(sector * 512, &[(&mut bytes[..]).into()]).unwrap();
        bytes
    }

    fn page(&self, page: GrantRef) -> Vec<u8> {
        self.guest.get(self.guest.address(page), 4096)
    }
}

#[test]
fn features_are_there_before_the_guest_says_anything() {
    let bench = bench(false, false);
    assert_eq!(bench.device.state(), State::InitWait);
    assert_eq!(bench.back("state"), "2");
    for (name, value) in [
        ("frontend", "/local/domain/1/device/vbd/51712"),
        ("frontend-id", "1"),
        ("online", "1"),
        ("feature-flush-cache", "1"),
        ("feature-barrier", "1"),
        ("feature-discard", "1"),
        ("feature-persistent", "0"),
        ("feature-max-indirect-segments", "256"),
        ("max-ring-page-order", "4"),
        ("multi-queue-max-queues", "2"),
    ] {
        assert_eq!(bench.back(name), value, "{name}");
    }
    let rights = bench.store.read(&PLACE.front().join("backend"));
    assert_eq!(rights, Some("/local/domain/0/backend/vbd/1/51712"));
}

#[test]
fn the_states_follow_the_front_half() {
    let mut bench = bench(false, false);
    let ring = bench.connect();
    for (name, value) in
        [("state", "4"), ("sectors", "2048"), ("info", "0"), ("sector-size", "512")]
    {
        assert_eq!(bench.back(name), value, "{name}");
    }
    assert_eq!(bench.guest.pinned(), 2 * ring.references.len());
    bench.switch(State::Closing);
    assert_eq!(bench.back("state"), "5");
    assert_eq!(bench.guest.pinned(), ring.references.len());
    assert!(!bench.guest.notify(PORT));
    bench.switch(State::Closed);
    assert_eq!(bench.back("state"), "6");
    bench.switch(State::Initialising);
    assert_eq!(bench.back("state"), "2");
    bench.connect();
    // The driver just goes away.
    bench.switch(State::Unknown);
    assert_eq!(bench.back("state"), "6");
}

#[test]
fn what_cannot_be_connected_is_told() {
    let no_ring: &[(&str, &str)] = &[("event-channel", "9")];
    let no_port = &[("ring-ref", "8")][..];
    let cases: [&[(&str, &str)]; 9] = [
        no_ring,
        no_port,
        &[("ring-ref", "x"), ("event-channel", "9")],
        &[("ring-ref", "7777"), ("event-channel", "9")],
        &[("ring-ref", "8"), ("event-channel", "0")],
        &[("ring-ref", "8"), ("event-channel", "9"), ("protocol", "x86_32-abi")],
        &[("ring-ref", "8"), ("event-channel", "9"), ("ring-page-order", "5")],
        &[("ring-ref", "8"), ("event-channel", "9"), ("multi-queue-num-queues", "3")],
        &[
            ("multi-queue-num-queues", "2"),
            ("queue-0/ring-ref", "8"),
            ("queue-0/event-channel", "9"),
            ("queue-1/ring-ref", "8"),
            ("queue-1/event-channel", "9"),
        ],
    ];
    for values in cases {
        let mut bench = bench(false, false);
        let ring = bench.guest.ring(1, SLOT as u32);
        assert_eq!(ring.references, [GrantRef(8)]);
        for (name, value) in values {
            bench.front(name, value);
        }
        bench.switch(State::Initialised);
        assert_eq!(bench.device.state(), State::Closing, "{values:?}");
        let error = DomainId(0).path().join("error/backend/vbd/1/51712/error");
        assert!(bench.store.read(&error).is_some());
        assert_eq!(bench.guest.pinned(), 1);
        assert!(!bench.guest.notify(PORT));
    }
}

#[test]
fn reads_and_writes() {
    let mut bench = bench(false, false);
    let mut ring = bench.connect();
    let pages: Vec<_> = (0..11).map(|_| bench.guest.grant_new(false)).collect();
    let parts: Vec<Part> = pages.iter().map(|page| (*page, 0, 7)).collect();
    assert_eq!(bench.request(&mut ring, operation::READ, 16, &parts), 0);
    let read: Vec<u8> = pages.iter().flat_map(|page| bench.page(*page)).collect();
    assert!(read == bench.content(16, 88));
    // Parts of pages, one of which may only be read.
    let source = bench.guest.grant_new(true);
    bench.guest.put(bench.guest.address(source), &[7; 4096]);
    let parts = [(source, 2, 2), (source, 0, 1)];
    for operation in [operation::WRITE, operation::WRITE_BARRIER, operation::FLUSH] {
        let sector = 100 + u64::from(operation) * 10;
        assert_eq!(bench.request(&mut ring, operation, sector, &parts), 0);
        assert_eq!(bench.content(sector, 3), [7; 1536]);
        assert_ne!(bench.content(sector + 3, 1), [7; 512]);
    }
    assert_eq!(bench.request(&mut ring, operation::FLUSH, 0, &[]), 0);
    assert_eq!(bench.request(&mut ring, operation::WRITE_BARRIER, 0, &[]), 0);
}

#[test]
fn indirect_requests() {
    let mut bench = bench(false, false);
    let mut ring = bench.connect();
    let page = bench.guest.grant_new(false);
    let described: Vec<Part> =
        (0..256).map(|index| (page, index as u8 % 8, index as u8 % 8)).collect();
    let list = bench.guest.grant_new(true);
    bench.guest.put(bench.guest.address(list), &describe(&described));
    assert_eq!(bench.indirect(&mut ring, operation::READ, 256, 64, &[list]), 0);
    assert!(bench.page(page) == bench.content(64 + 248, 8));
    bench.guest.put(bench.guest.address(page), &[9; 4096]);
    assert_eq!(bench.indirect(&mut ring, operation::WRITE, 9, 64, &[list]), 0);
    assert!(bench.content(64, 9) == [9; 9 * 512]);
    for count in [0, 257, u16::MAX] {
        assert_eq!(bench.indirect(&mut ring, operation::READ, count, 64, &[list]), -1);
    }
    assert_eq!(bench.indirect(&mut ring, operation::READ, 1, 64, &[GrantRef(7777)]), -1);
    assert_eq!(bench.indirect(&mut ring, operation::DISCARD, 1, 64, &[list]), -2);
}

#[test]
fn discards() {
    let mut bench = bench(false, false);
    let mut ring = bench.connect();
    let mut discard = |flag: u8, sector: u64, sectors: u64| {
        let body = [sector.to_le_bytes(), sectors.to_le_bytes()].concat();
        let id = bench.push(&mut ring, operation::DISCARD, flag, &body);
        bench.finish(&mut ring, id)
    };
    assert_eq!(discard(0, 8, 64), 0);
    assert_eq!(discard(1, 8, 64), -2);
    assert_eq!(discard(0, 2040, 9), -1);
    assert_eq!(discard(0, u64::MAX, u64::MAX), -1);
}

#[test]
fn what_cannot_be_done_is_told() {
    let mut bench = bench(false, false);
    let mut ring = bench.connect();
    let (page, fixed) = (bench.guest.grant_new(false), bench.guest.grant_new(true));
    let whole = [(page, 0, 7)];
    let cases: [(u8, u64, &[Part], i16); 10] = [
        (operation::READ, 2041, &whole, -1),
        (operation::READ, u64::MAX, &whole, -1),
        (operation::READ, 0, &[], -1),
        (operation::READ, 0, &[(page, 0, 8)], -1),
        (operation::READ, 0, &[(page, 3, 2)], -1),
        (operation::READ, 0, &[(fixed, 0, 7)], -1),
        (operation::READ, 0, &[(page, 0, 7), (GrantRef(7777), 0, 7)], -1),
        (operation::READ, 0, &[(page, 0, 0); 11], 0),
        (4, 0, &whole, -2),
        (255, 0, &[], -2),
    ];
    for (operation, sector, parts, status) in cases {
        assert_eq!(bench.request(&mut ring, operation, sector, parts), status);
    }
    let id = bench.push(&mut ring, operation::READ, 12, &[0; 96]);
    assert_eq!(bench.finish(&mut ring, id), -1);
    let id = bench.push(&mut ring, operation::WRITE, 255, &[0; 96]);
    assert_eq!(bench.finish(&mut ring, id), -1);
}

#[test]
fn read_only_disks_and_drives() {
    for (read_only, cdrom, info) in [(true, false, "4"), (false, true, "7"), (true, true, "7")] {
        let mut bench = bench(read_only, cdrom);
        assert_eq!(bench.back("feature-discard"), "0");
        assert_eq!(bench.back("feature-flush-cache"), "0");
        let mut ring = bench.connect();
        assert_eq!(bench.back("info"), info);
        let page = bench.guest.grant_new(false);
        let before = bench.content(0, 8);
        assert_eq!(bench.request(&mut ring, operation::WRITE, 0, &[(page, 0, 7)]), -1);
        assert_eq!(bench.request(&mut ring, operation::READ, 0, &[(page, 0, 7)]), 0);
        assert!(bench.page(page) == before && bench.content(0, 8) == before);
    }
}

#[test]
fn queues_and_rings_of_several_pages() {
    let mut bench = bench(false, false);
    let mut rings = [bench.guest.ring(4, SLOT as u32), bench.guest.ring(4, SLOT as u32)];
    bench.front("multi-queue-num-queues", "2");
    bench.front("ring-page-order", "2");
    for (queue, ring) in rings.iter().enumerate() {
        for (page, reference) in ring.references.iter().enumerate() {
            bench.front(&format!("queue-{queue}/ring-ref{page}"), &reference.0.to_string());
        }
        bench.front(&format!("queue-{queue}/event-channel"), &(PORT + queue as u32).to_string());
    }
    bench.switch(State::Initialised);
    assert_eq!(bench.device.state(), State::Connected);
    let page = bench.guest.grant_new(false);
    for round in 0..5u64 {
        for (queue, ring) in (0..).zip(&mut rings) {
            let body = [&round.to_le_bytes()[..], &describe(&[(page, 0, 0)])].concat();
            let ids: Vec<u64> =
                (0..128).map(|_| bench.push(ring, operation::READ, 1, &body)).collect();
            assert!(ring.publish());
            ring.ask_for_notification();
            assert!(bench.guest.notify(PORT + queue));
            assert_eq!(bench.guest.notifications(PORT + queue), 1);
            for id in ids {
                assert_eq!(Bench::answer(ring, id), Some(0));
            }
            assert_eq!(bench.page(page)[..512], bench.content(round, 1));
        }
    }
}

#[test]
fn requests_that_wait_already_are_served() {
    let mut bench = bench(false, false);
    let mut ring = bench.guest.ring(1, SLOT as u32);
    let page = bench.guest.grant_new(false);
    let body = [&0u64.to_le_bytes()[..], &describe(&[(page, 0, 0)])].concat();
    let id = bench.push(&mut ring, operation::READ, 1, &body);
    ring.publish();
    bench.front("ring-ref", &ring.references[0].0.to_string());
    bench.front("event-channel", &PORT.to_string());
    bench.switch(State::Connected);
    assert_eq!(Bench::answer(&mut ring, id), Some(0));
}

#[test]
fn nonsense_does_no_harm() {
    let mut bench = bench(false, false);
    let mut random = Random::new(11);
    for _ in 0..200 {
        let mut ring = bench.connect();
        let pages = [bench.guest.grant_new(false), GrantRef(7777)];
        for _ in 0..random.below(64) {
            let mut slot = [0u8; SLOT];
            slot.fill_with(|| random.next() as u8);
            slot[0] = random.below(8) as u8;
            slot[1] = random.below(14) as u8;
            if random.below(2) == 0 {
                slot[17..24].fill(0);
            }
            for place in (24..SLOT - 4).step_by(8) {
                let page = pages[random.below(8) as usize / 7];
                slot[place..place + 4].copy_from_slice(&page.0.to_le_bytes());
            }
            ring.push(&slot);
        }
        if random.below(4) == 0 {
            ring.pages().store(0, random.next() as u32).unwrap();
        } else {
            ring.publish();
        }
        bench.guest.notify(PORT);
        bench.switch(State::Closed);
        bench.switch(State::Initialising);
        drop(ring);
        bench.guest.free();
        assert_eq!(bench.guest.pinned(), 0);
    }
}

#[test]
fn segments_are_parts_of_pages() {
    let segment = super::request::decode_segments(&describe(&[(GrantRef(5), 1, 3)])).unwrap();
    assert_eq!(segment, [Segment { page: GrantRef(5), offset: 512, length: 1536 }]);
}
