//! What requests are answered, and that rings carry them.

use super::path::Path;
use super::permissions::DomainId;
use super::quota;
use super::ring::StoreRing;
use super::store::{ConnectionId, Store};
use super::wire::{HEADER, Header, StoreError, kind};
use crate::events::Progress;
use crate::ring::{ByteRing, Side};
use crate::shared::SharedPages;
use crate::testing::{Guest, Random};
use proptest::prelude::*;

const GUEST: DomainId = DomainId(1);

struct Bench {
    store: Store,
    control: ConnectionId,
    guest: ConnectionId,
}

fn bench() -> Bench {
    let mut store = Store::default();
    let (control, guest) = (store.connect(DomainId(0)), store.connect(GUEST));
    let mut bench = Bench { store, control, guest };
    for path in ["/local/domain/1", "/secret"] {
        bench.ok(control, kind::WRITE, &[path, "\0"].concat());
    }
    bench.ok(control, kind::SET_PERMS, "/local/domain/1\0n1\0");
    bench
}

impl Bench {
    fn ask(
        &mut self,
        id: ConnectionId,
        request: u32,
        tx: u32,
        text: &str,
    ) -> Result<String, StoreError> {
        let reply = self.store.serve(id, request, tx, text.as_bytes())?;
        Ok(String::from_utf8(reply).unwrap())
    }

    fn ok(&mut self, id: ConnectionId, request: u32, text: &str) -> String {
        self.ask(id, request, 0, text).unwrap()
    }

    /// As the guest.
    fn guest(&mut self, request: u32, text: &str) -> Result<String, StoreError> {
        self.ask(self.guest, request, 0, text)
    }

    fn start(&mut self) -> u32 {
        let reply = self.guest(kind::TRANSACTION_START, "\0").unwrap();
        reply.trim_end_matches('\0').parse().unwrap()
    }

    fn events(&mut self, id: ConnectionId) -> Vec<(String, String)> {
        let next = || self.store.next_event(id).map(|event| (event.name, event.token));
        std::iter::from_fn(next).collect()
    }
}

fn pairs(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(name, token)| ((*name).to_owned(), (*token).to_owned())).collect()
}

#[test]
fn values_are_kept() {
    let mut bench = bench();
    assert_eq!(bench.guest(kind::WRITE, "a/b\0value"), Ok("OK\0".into()));
    assert_eq!(bench.guest(kind::READ, "/local/domain/1/a/b\0"), Ok("value".into()));
    assert_eq!(bench.guest(kind::READ, "a\0"), Ok(String::new()));
    assert_eq!(bench.guest(kind::MKDIR, "a/b\0"), Ok("OK\0".into()));
    assert_eq!(bench.guest(kind::READ, "a/b\0"), Ok("value".into()));
    assert_eq!(bench.guest(kind::MKDIR, "a/c\0"), Ok("OK\0".into()));
    assert_eq!(bench.guest(kind::DIRECTORY, "a\0"), Ok("b\0c\0".into()));
    assert_eq!(bench.guest(kind::RM, "a\0"), Ok("OK\0".into()));
    assert_eq!(bench.guest(kind::RM, "a\0"), Ok("OK\0".into()));
    assert_eq!(bench.guest(kind::READ, "a/b\0"), Err(StoreError::NoEntry));
    assert_eq!(bench.guest(kind::RM, "x/y/z\0"), Err(StoreError::NoEntry));
    assert_eq!(bench.guest(kind::RM, "/\0"), Err(StoreError::Invalid));
    assert_eq!(bench.guest(kind::GET_DOMAIN_PATH, "7\0"), Ok("/local/domain/7\0".into()));
    assert_eq!(bench.guest(kind::IS_DOMAIN_INTRODUCED, "1\0"), Ok("T\0".into()));
    assert_eq!(bench.guest(kind::IS_DOMAIN_INTRODUCED, "2\0"), Ok("F\0".into()));
}

#[test]
fn malformed_requests_are_told() {
    let mut bench = bench();
    for request in [
        kind::READ,
        kind::DIRECTORY,
        kind::DIRECTORY_PART,
        kind::GET_PERMS,
        kind::SET_PERMS,
        kind::WRITE,
        kind::MKDIR,
        kind::RM,
        kind::WATCH,
        kind::UNWATCH,
        kind::GET_DOMAIN_PATH,
        kind::TRANSACTION_END,
    ] {
        for text in ["", "a", "a b\0", "//\0", "\0"] {
            assert_eq!(bench.guest(request, text), Err(StoreError::Invalid), "{request} {text:?}");
        }
    }
    for request in [kind::CONTROL, kind::INTRODUCE, kind::RELEASE, kind::RESUME, kind::SET_TARGET] {
        assert_eq!(bench.guest(request, "1\0"), Err(StoreError::Access));
    }
    for request in [kind::WATCH_EVENT, kind::ERROR, 20, 23, u32::MAX] {
        assert_eq!(bench.guest(request, "a\0"), Err(StoreError::NoSuchRequest));
    }
    assert_eq!(bench.store.serve(bench.guest, kind::READ, 0, &[0xff, 0]), Err(StoreError::Invalid));
}

#[test]
fn permissions_hold() {
    let mut bench = bench();
    assert_eq!(bench.guest(kind::READ, "/secret\0"), Err(StoreError::Access));
    // Not even whether something is there.
    assert_eq!(bench.guest(kind::READ, "/secret/x\0"), Err(StoreError::Access));
    assert_eq!(bench.guest(kind::WRITE, "/new\0x"), Err(StoreError::Access));
    assert_eq!(bench.guest(kind::RM, "/secret\0"), Err(StoreError::Access));
    bench.ok(bench.control, kind::SET_PERMS, "/secret\0n0\0r1\0");
    assert_eq!(bench.guest(kind::READ, "/secret\0"), Ok(String::new()));
    assert_eq!(bench.guest(kind::READ, "/secret/x\0"), Err(StoreError::NoEntry));
    assert_eq!(bench.guest(kind::WRITE, "/secret/x\0v"), Err(StoreError::Access));
    assert_eq!(bench.guest(kind::SET_PERMS, "/secret\0b1\0"), Err(StoreError::Access));
    assert_eq!(bench.guest(kind::GET_PERMS, "/secret\0"), Ok("n0\0r1\0".into()));
    bench.guest(kind::WRITE, "own\0v").unwrap();
    assert_eq!(bench.guest(kind::GET_PERMS, "own\0"), Ok("n1\0".into()));
    assert_eq!(bench.guest(kind::SET_PERMS, "own\0n2\0"), Err(StoreError::NotPermitted));
    assert_eq!(bench.guest(kind::SET_PERMS, "own\0r1\0b0\0"), Ok("OK\0".into()));
    assert_eq!(bench.guest(kind::GET_PERMS, "own\0"), Ok("r1\0b0\0".into()));
    let many = ["own\0n1\0", &"r2\0".repeat(quota::PERMISSIONS)].concat();
    assert_eq!(bench.guest(kind::SET_PERMS, &many), Err(StoreError::NoSpace));
}

#[test]
fn watches_fire() {
    let mut bench = bench();
    bench.guest(kind::WATCH, "device\0rel\0").unwrap();
    bench.guest(kind::WATCH, "/local/domain/1/device/a\0abs\0").unwrap();
    bench.guest(kind::WATCH, "@releaseDomain\0sp\0").unwrap();
    let initial =
        pairs(&[("device", "rel"), ("/local/domain/1/device/a", "abs"), ("@releaseDomain", "sp")]);
    assert_eq!(bench.events(bench.guest), initial);
    assert_eq!(bench.guest(kind::WATCH, "device\0rel\0"), Err(StoreError::Exists));
    bench.ok(bench.control, kind::WRITE, "/local/domain/1/device/a/state\x004");
    let both = pairs(&[("device/a/state", "rel"), ("/local/domain/1/device/a/state", "abs")]);
    assert_eq!(bench.events(bench.guest), both);
    // What is removed with a node above it is told to who watches exactly that.
    bench.guest(kind::WATCH, "device/a/state\0leaf\0").unwrap();
    bench.events(bench.guest);
    bench.guest(kind::RM, "device\0").unwrap();
    let gone = pairs(&[
        ("device", "rel"),
        ("/local/domain/1/device/a", "abs"),
        ("device/a/state", "leaf"),
    ]);
    assert_eq!(bench.events(bench.guest), gone);
    assert_eq!(bench.guest(kind::UNWATCH, "device\0other\0"), Err(StoreError::NoEntry));
    bench.guest(kind::UNWATCH, "device\0rel\0").unwrap();
    bench.guest(kind::WRITE, "device/b\0").unwrap();
    assert_eq!(bench.events(bench.guest), []);
    bench.guest(kind::RESET_WATCHES, "\0").unwrap();
    bench.guest(kind::WRITE, "device/a/state\0").unwrap();
    assert_eq!(bench.events(bench.guest), []);
}

#[test]
fn watches_tell_nothing_that_may_not_be_read() {
    let mut bench = bench();
    bench.guest(kind::WATCH, "/\0all\0").unwrap();
    bench.events(bench.guest);
    bench.ok(bench.control, kind::WRITE, "/secret/x\0v");
    assert_eq!(bench.events(bench.guest), []);
    bench.ok(bench.control, kind::WRITE, "/local/domain/1/x\0v");
    assert_eq!(bench.events(bench.guest), pairs(&[("/local/domain/1/x", "all")]));
}

#[test]
fn transactions_are_isolated() {
    let mut bench = bench();
    bench.guest(kind::WRITE, "a\0old").unwrap();
    bench.guest(kind::WATCH, "a\0w\0").unwrap();
    bench.events(bench.guest);
    let tx = bench.start();
    let (guest, control) = (bench.guest, bench.control);
    bench.ask(guest, kind::WRITE, tx, "a\0new").unwrap();
    bench.ask(guest, kind::WRITE, tx, "b/c\0x").unwrap();
    assert_eq!(bench.ask(guest, kind::READ, tx, "a\0"), Ok("new".into()));
    assert_eq!(bench.guest(kind::READ, "a\0"), Ok("old".into()));
    assert_eq!(bench.guest(kind::READ, "b\0"), Err(StoreError::NoEntry));
    assert_eq!(bench.events(guest), []);
    // Something that it did not look at changes meanwhile.
    bench.ok(control, kind::WRITE, "/elsewhere\0");
    assert_eq!(bench.ask(guest, kind::TRANSACTION_END, tx, "T\0"), Ok("OK\0".into()));
    assert_eq!(bench.events(guest), pairs(&[("a", "w")]));
    assert_eq!(bench.guest(kind::READ, "b/c\0"), Ok("x".into()));
    assert_eq!(bench.ask(guest, kind::TRANSACTION_END, tx, "T\0"), Err(StoreError::NoEntry));
    assert_eq!(bench.ask(guest, kind::READ, tx, "a\0"), Err(StoreError::NoEntry));
    assert_eq!(bench.guest(kind::TRANSACTION_END, "T\0"), Err(StoreError::NoEntry));
    let tx = bench.start();
    assert_eq!(bench.ask(guest, kind::TRANSACTION_START, tx, "\0"), Err(StoreError::Busy));
    assert_eq!(bench.ask(guest, kind::TRANSACTION_END, tx, "X\0"), Err(StoreError::Invalid));
    bench.ask(guest, kind::RM, tx, "a\0").unwrap();
    bench.ask(guest, kind::TRANSACTION_END, tx, "F\0").unwrap();
    assert_eq!(bench.guest(kind::READ, "a\0"), Ok("new".into()));
}

#[test]
fn transactions_conflict() {
    // What one looks at or changes, and what happens meanwhile.
    let cases: [(u32, &str, &str, bool); 10] = [
        (kind::READ, "a\0", "a\0other", true),
        (kind::READ, "a\0", "b\0other", false),
        (kind::READ, "a\0", "a/child\0other", true),
        (kind::READ, "none\0", "none\0other", true),
        (kind::DIRECTORY, "a\0", "a/b\0other", true),
        (kind::WRITE, "a\0mine", "a\0other", true),
        (kind::WRITE, "n/m\0mine", "n\0other", true),
        (kind::RM, "a\0", "a\0other", true),
        (kind::SET_PERMS, "a\0r1\0", "a\0other", true),
        (kind::WATCH, "a\0t\0", "a\0other", false),
    ];
    for (request, text, meanwhile, conflict) in cases {
        let mut bench = bench();
        bench.guest(kind::WRITE, "a\0old").unwrap();
        let (tx, guest) = (bench.start(), bench.guest);
        let _ = bench.ask(guest, request, tx, text);
        bench.guest(kind::WRITE, meanwhile).unwrap();
        let expected = if conflict { Err(StoreError::Again) } else { Ok("OK\0".to_owned()) };
        let end = bench.ask(guest, kind::TRANSACTION_END, tx, "T\0");
        assert_eq!(end, expected, "{request} {text:?} {meanwhile:?}");
    }
}

#[test]
fn large_directories_come_in_parts() {
    let mut bench = bench();
    let names: Vec<String> =
        (0..300).map(|index| format!("a-rather-long-name-{index:04}")).collect();
    for name in &names {
        bench.guest(kind::WRITE, &format!("many/{name}\0")).unwrap();
    }
    assert_eq!(bench.guest(kind::DIRECTORY, "many\0"), Err(StoreError::TooBig));
    let (mut found, mut offset) = (String::new(), 0);
    loop {
        let part = bench.guest(kind::DIRECTORY_PART, &format!("many\0{offset}\0")).unwrap();
        assert!(part.len() <= 4096);
        let (_, names) = part.split_once('\0').unwrap();
        if let Some(last) = names.strip_suffix("\0\0") {
            found.push_str(last);
            break;
        }
        offset += names.len();
        found.push_str(names);
    }
    assert_eq!(found.split('\0').collect::<Vec<_>>(), names);
    assert!(bench.guest(kind::DIRECTORY_PART, "many\099999999\0").unwrap().ends_with("\0\0"));
    assert_eq!(bench.guest(kind::DIRECTORY_PART, "many\0-1\0"), Err(StoreError::Invalid));
}

#[test]
fn a_guest_cannot_grow_the_store() {
    let mut bench = bench();
    let long = "x".repeat(quota::VALUE + 1);
    assert_eq!(bench.guest(kind::WRITE, &format!("a\0{long}")), Err(StoreError::NoSpace));
    assert!(bench.guest(kind::WRITE, &format!("a\0{}", &long[1..])).is_ok());
    let made = (0..2000).filter(|index| bench.guest(kind::MKDIR, &format!("n{index}\0")).is_ok());
    // Its own node and the one above count, too.
    assert_eq!(made.count() as u32, quota::NODES - 2);
    let tx = bench.start();
    let guest = bench.guest;
    assert_eq!(bench.ask(guest, kind::WRITE, tx, "another\0"), Err(StoreError::NoSpace));
    let watches =
        (0..200).filter(|index| bench.guest(kind::WATCH, &format!("a\0{index}\0")).is_ok());
    assert_eq!(watches.count(), quota::WATCHES);
    assert_eq!(bench.guest(kind::WATCH, "a\0more\0"), Err(StoreError::TooBig));
    let started = (0..20).filter(|_| bench.guest(kind::TRANSACTION_START, "\0").is_ok());
    assert_eq!(started.count() + 1, quota::TRANSACTIONS);
    for index in 0..200 {
        bench.guest(kind::WRITE, &format!("a\0{index}")).unwrap();
    }
    assert_eq!(bench.events(guest).len(), quota::EVENTS);
    let seen = (0..2000)
        .filter(|index| bench.ask(guest, kind::READ, tx, &format!("n{index}\0")).is_ok())
        .count();
    assert!(seen < 1000, "{seen}");
}

#[test]
fn transactions_cannot_get_around_the_quota() {
    let mut bench = bench();
    let guest = bench.guest;
    let half = |bench: &mut Bench, name: &str| {
        let tx = bench.start();
        for index in 0..600 {
            bench.ask(guest, kind::MKDIR, tx, &format!("{name}{index}\0")).unwrap();
        }
        tx
    };
    // So that both make nodes in different places.
    for name in ["a", "b"] {
        bench.guest(kind::MKDIR, &format!("{name}\0")).unwrap();
    }
    let (one, two) = (half(&mut bench, "a/"), half(&mut bench, "b/"));
    assert!(bench.ask(guest, kind::TRANSACTION_END, one, "T\0").is_ok());
    let end = bench.ask(guest, kind::TRANSACTION_END, two, "T\0");
    assert_eq!(end, Err(StoreError::NoSpace));
    assert_eq!(bench.guest(kind::DIRECTORY, "b\0"), Ok(String::new()));
}

/// The guest's end of the page.
struct Client {
    pages: SharedPages,
    requests: ByteRing,
    responses: ByteRing,
    received: Vec<u8>,
}

fn client() -> (Bench, StoreRing, Client) {
    let (bench, guest) = (bench(), Guest::new());
    let page = guest.page();
    let share = || SharedPages::page(guest.ram(), page);
    let ring = StoreRing::new(share(), bench.guest).unwrap();
    let pages = share();
    let requests = ByteRing::new(&pages, (0, 1024), 2048, 2052, Side::Producer).unwrap();
    let responses = ByteRing::new(&pages, (1024, 1024), 2056, 2060, Side::Consumer).unwrap();
    (bench, ring, Client { pages, requests, responses, received: Vec::new() })
}

fn message(request: u32, number: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let header = Header { kind: request, request: number, transaction: 0, length };
    [&header.encode()[..], payload].concat()
}

impl Client {
    fn fetch(&mut self, limit: usize) -> usize {
        let mut bytes = vec![0; limit];
        let count = self.responses.read(&self.pages, &mut bytes).unwrap();
        self.received.extend(&bytes[..count]);
        count
    }

    /// The messages that have come whole.
    fn messages(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut messages = Vec::new();
        while let Some(header) = self.received.first_chunk::<HEADER>().map(Header::decode) {
            let end = HEADER + header.length as usize;
            if self.received.len() < end {
                break;
            }
            let message: Vec<u8> = self.received.drain(..end).collect();
            messages.push((header, message[HEADER..].to_vec()));
        }
        messages
    }
}

#[test]
fn rings_carry_requests_in_any_pieces() {
    let (mut bench, mut ring, mut client) = client();
    let mut random = Random::new(5);
    let mut stream = Vec::new();
    for index in 0..100u32 {
        let value = "v".repeat(index as usize * 20);
        stream.extend(message(kind::WRITE, index * 2, format!("a\0{value}").as_bytes()));
        stream.extend(message(kind::READ, index * 2 + 1, b"a\0"));
    }
    let (mut sent, mut answers) = (0, Vec::new());
    while answers.len() < 200 {
        let end = stream.len().min(sent + random.below(700) as usize);
        sent += client.requests.write(&client.pages, &stream[sent..end]).unwrap();
        let _ = ring.exchange(&mut bench.store);
        client.fetch(random.below(900) as usize);
        answers.extend(client.messages());
    }
    for (index, (header, payload)) in answers.iter().enumerate() {
        assert_eq!(header.request as usize, index);
        let expected = if index % 2 == 0 { b"OK\0".to_vec() } else { vec![b'v'; index / 2 * 20] };
        assert_eq!(*payload, expected);
    }
}

#[test]
fn events_come_after_answers() {
    let (mut bench, mut ring, mut client) = client();
    client.requests.write(&client.pages, &message(kind::WATCH, 7, b"a\0t\0")).unwrap();
    client.requests.write(&client.pages, &message(kind::READ, 8, b"none\0")).unwrap();
    let exchanged = ring.exchange(&mut bench.store);
    assert!(exchanged.moved && exchanged.progress == Progress::Done);
    assert!(!ring.exchange(&mut bench.store).moved);
    client.fetch(1024);
    let found: Vec<_> = client
        .messages()
        .into_iter()
        .map(|(header, payload)| (header.kind, header.request, payload))
        .collect();
    let expected = [
        (kind::WATCH, 7, b"OK\0".to_vec()),
        (kind::WATCH_EVENT, 0, b"a\0t\0".to_vec()),
        (kind::ERROR, 8, b"ENOENT\0".to_vec()),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_guest_that_fetches_nothing_is_not_served() {
    let (mut bench, mut ring, mut client) = client();
    bench.guest(kind::WRITE, &format!("a\0{}", "x".repeat(2000))).unwrap();
    let mut served = 0;
    for _ in 0..1000 {
        let request = message(kind::READ, 0, b"a\0");
        served += client.requests.write(&client.pages, &request).unwrap() / request.len();
        let _ = ring.exchange(&mut bench.store);
    }
    assert!(served < 120, "{served}");
    while client.fetch(1024) > 0 {
        let _ = ring.exchange(&mut bench.store);
    }
    client.fetch(1024);
    assert!(client.messages().len() >= served);
}

#[test]
fn broken_connections_begin_anew() {
    for (place, value) in [(2052, 5000), (2056, 77)] {
        let (mut bench, mut ring, mut client) = client();
        bench.guest(kind::WATCH, "a\0t\0").unwrap();
        client.pages.store(place, value).unwrap();
        let _ = ring.exchange(&mut bench.store);
        assert_eq!(client.pages.load(2072), Ok(2));
        client.pages.store(2052, 0).unwrap();
        assert!(!ring.exchange(&mut bench.store).moved);
        client.pages.store(2068, 1).unwrap();
        assert!(ring.exchange(&mut bench.store).moved);
        assert_eq!(
            [2048, 2052, 2056, 2060, 2068, 2072].map(|at| client.pages.load(at)),
            [Ok(0); 6]
        );
        client.requests.reset(&client.pages).unwrap();
        client.responses.reset(&client.pages).unwrap();
        client.requests.write(&client.pages, &message(kind::DIRECTORY, 1, b"/local\0")).unwrap();
        let _ = ring.exchange(&mut bench.store);
        client.fetch(1024);
        // The watch is gone, too.
        assert_eq!(client.messages()[0].0.kind, kind::ERROR);
    }
    let (mut bench, mut ring, mut client) = client();
    let header = Header { kind: 2, request: 0, transaction: 0, length: 4097 };
    client.requests.write(&client.pages, &header.encode()).unwrap();
    let _ = ring.exchange(&mut bench.store);
    assert_eq!(client.pages.load(2072), Ok(3));
}

/// A request that often means something.
fn request() -> impl Strategy<Value = (u32, u32, Vec<u8>)> {
    let path =
        prop::sample::select(vec!["a", "a/b", "a/b/c", "/", "/local/domain/1", "/secret", "x//"]);
    let rest = prop::sample::select(vec!["", "value", "T", "n1\0", "token\0", "0\0", "r1\0b0\0"]);
    let text = (path, rest).prop_map(|(path, rest)| format!("{path}\0{rest}").into_bytes());
    let payload = prop_oneof![
        6 => text,
        1 => Just(b"T\0".to_vec()),
        1 => Just(b"\0".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    (0u32..25, 0u32..4, payload)
}

proptest! {
    #[test]
    fn requests_never_break_the_store(requests in prop::collection::vec(request(), 0..200)) {
        let mut bench = bench();
        for (kind, tx, payload) in requests {
            let _ = bench.store.serve(bench.guest, kind, tx, &payload);
        }
        // What is not the guest's is as it was, and the counts are right.
        let root = Path::root();
        prop_assert_eq!(bench.store.read(&root.join("secret")), Some(""));
        prop_assert!(bench.store.counts_are_right());
    }

    #[test]
    fn rings_of_nonsense_do_no_harm(
        writes in prop::collection::vec((0u32..1024, any::<u32>()), 0..64),
        indices in prop::collection::vec(any::<u16>(), 4),
    ) {
        let (mut bench, mut ring, client) = client();
        for (word, value) in writes {
            client.pages.store(word * 4, value).unwrap();
        }
        for (place, value) in [2048, 2052, 2056, 2060].into_iter().zip(indices) {
            client.pages.store(place, u32::from(value) & 0x7ff).unwrap();
        }
        for _ in 0..4 {
            let _ = ring.exchange(&mut bench.store);
        }
    }
}
