//! The adapter as a driver uses it.

use super::NetBack;
use super::spec::{RECEIVE_SLOT, TRANSMIT_SLOT, extra, receive, transmit};
use crate::grants::GrantRef;
use crate::testing::{FrontRing, Guest, Random};
use crate::xenbus::{Device, Place, State};
use crate::xenstore::{DomainId, Store};
use ambos_net::{
    Accepts, Checksum, Full, NetBackend, NetPort, Offload, Received, SegmentKind, Segmentation,
    Slice,
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

const PLACE: Place = Place { guest: DomainId(1), class: "vif", number: 0 };
const TRANSMIT: u32 = 20;
const RECEIVE: u32 = 21;

/// A network that remembers what is sent.
#[derive(Default)]
struct Network {
    port: Mutex<Option<Weak<dyn NetPort>>>,
    accepts: Mutex<Accepts>,
    sent: Mutex<Vec<(Offload, Vec<u8>)>>,
    waiting: Mutex<VecDeque<(Offload, Vec<u8>)>>,
    /// Frames that it still takes.
    room: Mutex<usize>,
}

impl NetBackend for Network {
    fn mtu(&self) -> u16 {
        1500
    }

    fn attach(&self, port: Weak<dyn NetPort>) {
        *self.port.lock().unwrap() = Some(port);
    }

    fn accept(&self, accepts: Accepts) {
        *self.accepts.lock().unwrap() = accepts;
    }

    fn transmit(&self, offload: &Offload, parts: &[Slice<'_>]) -> Result<(), Full> {
        let mut room = self.room.lock().unwrap();
        *room = room.checked_sub(1).ok_or(Full)?;
        let bytes = parts.iter().flat_map(|part| {
            let mut bytes = vec![0; part.len()];
            part.copy_to(&mut bytes[..]);
            bytes
        });
        self.sent.lock().unwrap().push((*offload, bytes.collect()));
        Ok(())
    }

    fn receive(&self, take: &mut dyn FnMut(&Received<'_>) -> bool) {
        let mut waiting = self.waiting.lock().unwrap();
        while let Some((offload, bytes)) = waiting.front() {
            let (head, tail) = bytes.split_at(bytes.len().min(54));
            if !take(&Received { offload: *offload, parts: [head, tail] }) {
                break;
            }
            waiting.pop_front();
        }
    }
}

impl Network {
    fn changed(&self) {
        let port = self.port.lock().unwrap().as_ref().and_then(Weak::upgrade);
        port.unwrap().changed();
    }

    fn deliver(&self, offload: Offload, bytes: &[u8]) {
        self.waiting.lock().unwrap().push_back((offload, bytes.to_vec()));
    }

    fn take_sent(&self) -> Vec<(Offload, Vec<u8>)> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

struct Bench {
    guest: Guest,
    store: Store,
    device: Device,
    network: Arc<Network>,
}

/// The rings of a driver.
struct Rings {
    transmit: FrontRing,
    receive: FrontRing,
}

const FEATURES: [&str; 6] = [
    "request-rx-copy",
    "feature-rx-notify",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-ipv6-csum-offload",
];

fn bench() -> Bench {
    let (guest, mut store) = (Guest::new(), Store::default());
    let network = Arc::new(Network::default());
    *network.room.lock().unwrap() = usize::MAX;
    let half = NetBack::new(network.clone(), 2, guest.grants(), guest.channels());
    let device = Device::create(&mut store, PLACE, Box::new(half), &[], &[]);
    Bench { guest, store, device, network }
}

impl Bench {
    fn back(&self, name: &str) -> &str {
        self.store.read(&PLACE.back().join(name)).unwrap_or("-")
    }

    fn front(&mut self, name: &str, value: &str) {
        self.store.write(&PLACE.front().join(name), value);
    }

    fn switch(&mut self, state: State) {
        self.front("state", &state.number().to_string());
        self.device.front_changed(&mut self.store);
    }

    fn queue(&mut self, prefix: &str, ports: &[(&str, u32)]) -> Rings {
        let transmit = self.guest.ring(1, TRANSMIT_SLOT as u32);
        let receive = self.guest.ring(1, RECEIVE_SLOT as u32);
        for (name, ring) in [("tx-ring-ref", &transmit), ("rx-ring-ref", &receive)] {
            self.front(&format!("{prefix}{name}"), &ring.references[0].0.to_string());
        }
        for (name, port) in ports {
            self.front(&format!("{prefix}{name}"), &port.to_string());
        }
        Rings { transmit, receive }
    }

    fn features(&mut self, without: &[&str]) {
        for name in FEATURES {
            self.front(name, if without.contains(&name) { "0" } else { "1" });
        }
    }

    fn connect(&mut self, without: &[&str]) -> Rings {
        self.features(without);
        let ports = [("event-channel-tx", TRANSMIT), ("event-channel-rx", RECEIVE)];
        let rings = self.queue("", &ports);
        self.switch(State::Connected);
        assert_eq!(self.device.state(), State::Connected);
        rings
    }

    /// Pages in which frames can be received; their numbers are those of the grants.
    fn provide(&self, ring: &mut FrontRing, pages: u32) -> bool {
        for _ in 0..pages {
            let page = self.guest.grant_new(false);
            ring.push(
                &[&(page.0 as u16).to_le_bytes()[..], &[0; 2], &page.0.to_le_bytes()].concat(),
            );
        }
        ring.publish()
    }

    /// What was received: flags of the first page, what follows it, and the bytes.
    fn received(&self, ring: &mut FrontRing) -> Option<(u16, Option<[u8; 8]>, Vec<u8>)> {
        let (mut bytes, mut first, mut more) = (Vec::new(), None, None);
        loop {
            let [id_0, id_1, _, _, flag_0, flag_1, size_0, size_1] = ring.pop::<8>()?;
            let flags = u16::from_le_bytes([flag_0, flag_1]);
            let page = GrantRef(u16::from_le_bytes([id_0, id_1]).into());
            let size = usize::try_from(i16::from_le_bytes([size_0, size_1])).unwrap();
            bytes.extend(self.guest.get(self.guest.address(page), size));
            first.get_or_insert(flags);
            if flags & receive::EXTRA_INFO != 0 {
                more = Some(ring.pop::<8>().unwrap());
            }
            if flags & receive::MORE_DATA == 0 {
                return Some((first? & !receive::MORE_DATA, more, bytes));
            }
        }
    }
}

fn request(page: GrantRef, offset: u16, flags: u16, id: u16, size: u16) -> Vec<u8> {
    let words = [offset, flags, id, size].map(u16::to_le_bytes);
    [&page.0.to_le_bytes()[..], words.as_flattened()].concat()
}

/// Answers to requests to send, as pairs of number and status.
fn answers(ring: &mut FrontRing) -> Vec<(u16, i16)> {
    let pop = || {
        let [a, b, c, d] = ring.pop::<4>()?;
        Some((u16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])))
    };
    std::iter::from_fn(pop).collect()
}

/// A frame of TCP over IPv4.
fn frame(length: usize) -> Vec<u8> {
    let mut frame = vec![0; length];
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[23] = 6;
    frame[46] = 0x50;
    for (index, byte) in frame.iter_mut().enumerate().skip(54) {
        *byte = (index * 7 / 5) as u8;
    }
    frame
}

const CHECKSUM: Checksum = Checksum { start: 34, offset: 16 };

#[test]
fn the_halves_connect() {
    let mut bench = bench();
    for (name, value) in [
        ("state", "2"),
        ("feature-sg", "1"),
        ("feature-rx-copy", "1"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("feature-ipv6-csum-offload", "1"),
        ("feature-split-event-channels", "1"),
        ("multi-queue-max-queues", "2"),
    ] {
        assert_eq!(bench.back(name), value, "{name}");
    }
    let rings = bench.connect(&[]);
    let accepts = Accepts::CHECKSUM | Accepts::TCP_V4 | Accepts::TCP_V6;
    assert_eq!(*bench.network.accepts.lock().unwrap(), accepts);
    assert_eq!(bench.guest.pinned(), 4);
    drop(rings);
    bench.switch(State::Closing);
    bench.switch(State::Closed);
    assert_eq!(bench.guest.pinned(), 0);
    assert!(!bench.guest.notify(TRANSMIT) && !bench.guest.notify(RECEIVE));
    assert!(bench.network.accepts.lock().unwrap().is_empty());
    bench.switch(State::Initialising);
    bench.connect(&["feature-sg"]);
    assert_eq!(*bench.network.accepts.lock().unwrap(), Accepts::CHECKSUM);
}

#[test]
fn what_cannot_be_connected_is_told() {
    for without in ["request-rx-copy", "feature-rx-notify"] {
        let mut bench = bench();
        bench.features(&[without]);
        bench.queue("", &[("event-channel", TRANSMIT)]);
        bench.switch(State::Connected);
        assert_eq!(bench.device.state(), State::Closing);
    }
    // The second channel, or queue, is missing.
    for (queues, ports) in [("1", &[("event-channel-tx", 20)][..]), ("2", &[("event-channel", 20)])]
    {
        let mut bench = bench();
        bench.features(&[]);
        bench.front("multi-queue-num-queues", queues);
        bench.queue(if queues == "1" { "" } else { "queue-0/" }, ports);
        bench.switch(State::Connected);
        assert_eq!(bench.device.state(), State::Closing);
        assert_eq!(bench.guest.pinned(), 0);
        assert!(!bench.guest.notify(TRANSMIT));
    }
}

#[test]
fn frames_are_sent() {
    let mut bench = bench();
    let mut ring = bench.connect(&[]).transmit;
    let (one, two) = (bench.guest.grant_new(true), bench.guest.grant_new(true));
    let bytes = frame(3000);
    bench.guest.put(bench.guest.address(one) + 100, &bytes[..1000]);
    bench.guest.put(bench.guest.address(two), &bytes[1000..]);
    ring.push(&request(one, 100, transmit::DATA_VALIDATED, 1, 1000));
    ring.push(&request(one, 100, transmit::MORE_DATA | transmit::CHECKSUM_BLANK, 2, 3000));
    ring.push(&request(two, 0, 0, 3, 2000));
    // With segments.
    ring.push(&request(
        one,
        100,
        transmit::MORE_DATA | transmit::CHECKSUM_BLANK | transmit::EXTRA_INFO,
        4,
        3000,
    ));
    ring.push(&[extra::SEGMENTATION, 0, 0xb4, 5, extra::TCP_V4, 0, 0, 0, 0, 0, 0, 0]);
    ring.push(&request(two, 0, 0, 5, 2000));
    assert!(ring.publish());
    assert!(bench.guest.notify(TRANSMIT));
    assert_eq!(answers(&mut ring), [(1, 0), (2, 0), (3, 0), (4, 0), (0, 1), (5, 0)]);
    assert_eq!(bench.guest.notifications(TRANSMIT), 1);
    let checksum = Some(CHECKSUM);
    let kind = SegmentKind::TcpV4;
    let segmentation = Some(Segmentation { kind, ecn: false, size: 1460, header: 54 });
    let expected = [
        (Offload { valid: true, ..Offload::NONE }, bytes[..1000].to_vec()),
        (Offload { checksum, ..Offload::NONE }, bytes.clone()),
        (Offload { checksum, valid: false, segmentation }, bytes),
    ];
    assert_eq!(bench.network.take_sent(), expected);
    assert_eq!(bench.guest.pinned(), 3);
}

#[test]
fn what_cannot_be_sent_is_told() {
    let mut bench = bench();
    let mut ring = bench.connect(&[]).transmit;
    let page = bench.guest.grant_new(true);
    let extra = transmit::EXTRA_INFO;
    ring.push(&request(GrantRef(7777), 0, 0, 1, 60));
    ring.push(&request(page, 4000, 0, 2, 97));
    let empty = bench.guest.grant_new(true);
    ring.push(&request(empty, 0, transmit::CHECKSUM_BLANK, 3, 60));
    ring.push(&request(page, 0, extra, 4, 60));
    ring.push(&[extra::GROUP_ADD, 0, 1, 0, 94, 0, 0, 1, 0, 0, 0, 0]);
    bench.guest.put(bench.guest.address(page), &frame(100));
    for (id, kind, size) in [(5, extra::TCP_V4, 0), (6, 9, 1460)] {
        ring.push(&request(page, 0, extra, id, 100));
        ring.push(&[extra::SEGMENTATION, 0, size as u8, 0, kind, 0, 0, 0, 0, 0, 0, 0]);
    }
    ring.publish();
    bench.guest.notify(TRANSMIT);
    let expected = [(1, -1), (2, -1), (3, -1), (4, 0), (0, 1), (5, -1), (0, 1), (6, -1), (0, 1)];
    assert_eq!(answers(&mut ring), expected);
    assert_eq!(bench.network.take_sent(), []);
}

#[test]
fn contradicting_requests_end_the_queue() {
    let more = transmit::MORE_DATA;
    let page = GrantRef(1);
    let cases: [Vec<Vec<u8>>; 5] = [
        // The frame does not go on.
        vec![request(page, 0, more, 1, 100)],
        vec![request(page, 0, transmit::EXTRA_INFO, 1, 100)],
        // Its parts are larger than the whole.
        vec![request(page, 0, more, 1, 100), request(page, 0, 0, 2, 101)],
        vec![request(page, 0, more, 1, 100); 30],
        [vec![request(page, 0, transmit::EXTRA_INFO, 1, 100)], vec![vec![1; TRANSMIT_SLOT]; 30]]
            .concat(),
    ];
    for requests in cases {
        let mut bench = bench();
        let mut ring = bench.connect(&[]).transmit;
        requests.iter().for_each(|request| ring.push(request));
        ring.publish();
        assert!(bench.guest.notify(TRANSMIT));
        assert_eq!(answers(&mut ring), []);
        assert!(!bench.guest.notify(TRANSMIT));
    }
}

#[test]
fn a_full_network_holds_the_guest_back() {
    let mut bench = bench();
    let mut ring = bench.connect(&[]).transmit;
    *bench.network.room.lock().unwrap() = 2;
    let page = bench.guest.grant_new(true);
    for id in 0..5 {
        ring.push(&request(page, 0, 0, id, 60));
    }
    assert!(ring.publish());
    bench.guest.notify(TRANSMIT);
    assert_eq!(answers(&mut ring), [(0, 0), (1, 0)]);
    bench.guest.notify(TRANSMIT);
    assert_eq!(answers(&mut ring), []);
    *bench.network.room.lock().unwrap() = 10;
    bench.network.changed();
    assert_eq!(answers(&mut ring), [(2, 0), (3, 0), (4, 0)]);
    ring.push(&request(page, 0, 0, 5, 60));
    assert!(ring.publish());
}

#[test]
fn frames_are_received() {
    let mut bench = bench();
    let mut ring = bench.connect(&[]).receive;
    bench.provide(&mut ring, 40);
    let kind = SegmentKind::TcpV6;
    let segmentation = Some(Segmentation { kind, ecn: false, size: 1440, header: 74 });
    let (checksum, none) = (Some(CHECKSUM), Offload::NONE);
    let all = [
        (none, frame(60)),
        (Offload { valid: true, ..none }, frame(4096)),
        (Offload { checksum, ..none }, frame(4097)),
        (Offload { checksum, valid: false, segmentation }, frame(65_000)),
        (Offload { checksum, valid: false, segmentation }, frame(1000)),
    ];
    for (offload, bytes) in &all {
        bench.network.deliver(*offload, bytes);
    }
    bench.network.changed();
    assert_eq!(bench.guest.notifications(RECEIVE), 1);
    let flags = [
        0,
        receive::DATA_VALIDATED,
        receive::DATA_VALIDATED | receive::CHECKSUM_BLANK,
        receive::DATA_VALIDATED | receive::CHECKSUM_BLANK | receive::EXTRA_INFO,
        receive::DATA_VALIDATED | receive::CHECKSUM_BLANK | receive::EXTRA_INFO,
    ];
    for ((offload, bytes), flags) in all.iter().zip(flags) {
        let info = offload.segmentation.map(|_| [1, 0, 0xa0, 5, extra::TCP_V6, 0, 0, 0]);
        assert_eq!(bench.received(&mut ring), Some((flags, info, bytes.clone())));
    }
    assert_eq!(bench.guest.pinned(), 3);
}

#[test]
fn frames_wait_for_pages() {
    let mut bench = bench();
    let mut ring = bench.connect(&[]).receive;
    bench.provide(&mut ring, 2);
    bench.network.deliver(Offload::NONE, &frame(60));
    bench.network.deliver(Offload::NONE, &frame(9000));
    bench.network.changed();
    assert!(bench.received(&mut ring).is_some());
    assert!(bench.received(&mut ring).is_none());
    // Three pages are needed: one more is not worth a notification.
    assert!(!bench.provide(&mut ring, 1));
    assert!(bench.provide(&mut ring, 1));
    bench.guest.notify(RECEIVE);
    assert_eq!(bench.received(&mut ring).unwrap().2, frame(9000));
    assert!(!bench.provide(&mut ring, 20));
}

#[test]
fn one_page_is_all_without_scattering() {
    let mut bench = bench();
    let mut ring = bench.connect(&["feature-sg"]).receive;
    bench.provide(&mut ring, 5);
    bench.network.deliver(Offload::NONE, &frame(5000));
    bench.network.deliver(Offload::NONE, &frame(60));
    bench.network.changed();
    assert_eq!(bench.received(&mut ring).unwrap().2, frame(60));
}

#[test]
fn bad_pages_cost_only_their_frame() {
    let mut bench = bench();
    let mut ring = bench.connect(&[]).receive;
    let fixed = bench.guest.grant_new(true);
    ring.push(&[1, 0, 0, 0, 0xff, 0xff, 0, 0]);
    ring.push(&[&[2, 0, 0, 0][..], &fixed.0.to_le_bytes()].concat());
    bench.provide(&mut ring, 1);
    bench.network.deliver(Offload::NONE, &frame(5000));
    bench.network.deliver(Offload::NONE, &frame(60));
    bench.network.changed();
    for (id, flags) in [(1, receive::MORE_DATA as u8), (2, 0)] {
        assert_eq!(ring.pop::<8>(), Some([id, 0, 0, 0, flags, 0, 0xff, 0xff]));
    }
    assert_eq!(bench.received(&mut ring).unwrap().2, frame(60));
}

#[test]
fn queues_share_the_streams() {
    let mut bench = bench();
    bench.features(&[]);
    bench.front("multi-queue-num-queues", "2");
    let mut rings = [
        bench.queue("queue-0/", &[("event-channel", 30)]),
        bench.queue("queue-1/", &[("event-channel", 31)]),
    ];
    bench.switch(State::Connected);
    assert_eq!(bench.device.state(), State::Connected);
    for rings in &mut rings {
        bench.provide(&mut rings.receive, 32);
    }
    for stream in 0..32 {
        let mut bytes = frame(60);
        bytes[37] = stream;
        bench.network.deliver(Offload::NONE, &bytes);
    }
    bench.network.changed();
    for (queue, rings) in (0..).zip(&mut rings) {
        let frames = std::iter::from_fn(|| bench.received(&mut rings.receive)).count();
        assert_eq!(frames, 16);
        let page = bench.guest.grant_new(true);
        rings.transmit.push(&request(page, 0, 0, 7, 60));
        assert!(rings.transmit.publish());
        assert!(bench.guest.notify(30 + queue));
        assert_eq!(answers(&mut rings.transmit), [(7, 0)]);
    }
}

#[test]
fn nonsense_does_no_harm() {
    let mut bench = bench();
    let mut random = Random::new(3);
    for _ in 0..200 {
        let mut rings = bench.connect(&[]);
        let page = bench.guest.grant_new(random.below(2) == 0);
        for _ in 0..random.below(300) {
            let mut slot = [0u8; TRANSMIT_SLOT];
            slot.fill_with(|| random.next() as u8);
            if random.below(2) == 0 {
                slot[..4].copy_from_slice(&page.0.to_le_bytes());
                slot[5] = 0;
                slot[6] &= if random.below(4) == 0 { 0xf } else { 3 };
                slot[11] &= 7;
            }
            rings.transmit.push(&slot);
        }
        for _ in 0..random.below(300) {
            let mut slot = [0u8; RECEIVE_SLOT];
            slot.fill_with(|| random.next() as u8);
            if random.below(4) > 0 {
                slot[4..].copy_from_slice(&page.0.to_le_bytes());
            }
            rings.receive.push(&slot);
        }
        rings.transmit.publish();
        rings.receive.publish();
        for _ in 0..random.below(20) {
            let length = 14 + random.below(65_000) as usize;
            bench.network.deliver(Offload::NONE, &vec![1; length]);
        }
        if random.below(8) == 0 {
            rings.receive.pages().store(0, random.next() as u32).unwrap();
        }
        bench.guest.notify(TRANSMIT);
        bench.guest.notify(RECEIVE);
        bench.network.changed();
        bench.switch(State::Closed);
        bench.switch(State::Initialising);
        drop(rings);
        bench.guest.free();
        assert_eq!(bench.guest.pinned(), 0);
        bench.network.waiting.lock().unwrap().clear();
    }
}
