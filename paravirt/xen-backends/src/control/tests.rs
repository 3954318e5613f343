//! The control domain as a guest finds it.

use super::*;
use crate::events::GuestPort;
use crate::ring::{ByteRing, Side};
use crate::shared::SharedPages;
use crate::testing::Guest;
use ambos_block::ImageOptions;
use std::sync::Arc;

const STORE: u32 = 1;
const CONSOLE: u32 = 2;

/// A guest that talks to its store.
struct Bench {
    guest: Guest,
    domain: Arc<ControlDomain>,
    page: SharedPages,
    requests: ByteRing,
    responses: ByteRing,
    events: Vec<String>,
}

fn info() -> DomainInfo {
    DomainInfo {
        id: 7,
        name: "guest".to_owned(),
        uuid: *b"\x9c\xa3\xf7\xc7\x94\xc7\x45\x67\xb1\xc4\x6c\xf6\xa8\x93\x1f\xf0",
        cpus: 2,
        memory_kib: 262_144,
        start_time: 1_700_000_000,
    }
}

fn bench() -> Bench {
    let guest = Guest::new();
    let shared = |port| {
        let address = guest.page();
        SharedPage { address, frame: 0x1000 + address / 4096, port: GuestPort(port) }
    };
    let (store, console) = (shared(STORE), shared(CONSOLE));
    let (grants, channels) = (guest.grants(), guest.channels());
    let sink = Box::new(std::io::sink());
    let domain = ControlDomain::new(info(), store, console, sink, grants, channels).unwrap();
    let page = SharedPages::page(guest.ram(), store.address);
    let requests = ByteRing::new(&page, (0, 1024), 2048, 2052, Side::Producer).unwrap();
    let responses = ByteRing::new(&page, (1024, 1024), 2056, 2060, Side::Consumer).unwrap();
    Bench { guest, domain, page, requests, responses, events: Vec::new() }
}

impl Bench {
    fn fetch(&mut self, bytes: &mut [u8]) {
        assert_eq!(self.responses.read(&self.page, bytes), Ok(bytes.len()));
    }

    fn message(&mut self) -> Option<(u32, String)> {
        if self.responses.available(&self.page) == Ok(0) {
            return None;
        }
        let mut header = [0; 16];
        self.fetch(&mut header);
        let mut payload = vec![0; usize::from(u16::from_le_bytes([header[12], header[13]]))];
        self.fetch(&mut payload);
        Some((u32::from(header[0]), String::from_utf8(payload).unwrap()))
    }

    /// Asks, and keeps events that come meanwhile.
    fn ask(&mut self, kind: u8, payload: &str) -> (u32, String) {
        let mut message = [0; 16];
        message[0] = kind;
        message[12..14].copy_from_slice(&(payload.len() as u16).to_le_bytes());
        self.requests.write(&self.page, &message).unwrap();
        self.requests.write(&self.page, payload.as_bytes()).unwrap();
        assert!(self.guest.notify(STORE));
        assert!(self.guest.notifications(STORE) > 0);
        let mut answer = None;
        while let Some((kind, text)) = self.message() {
            if kind == 15 {
                self.events.push(text);
            } else {
                assert!(answer.replace((kind, text)).is_none());
            }
        }
        answer.unwrap()
    }

    fn read(&mut self, path: &str) -> String {
        let (kind, text) = self.ask(2, &format!("{path}\0"));
        if kind == 2 { text } else { format!("error {text}") }
    }

    fn write(&mut self, path: &str, value: &str) {
        assert_eq!(self.ask(11, &format!("{path}\0{value}")), (11, "OK\0".to_owned()));
    }

    fn watch(&mut self, path: &str) {
        assert_eq!(self.ask(4, &format!("{path}\0t\0")), (4, "OK\0".to_owned()));
    }

    fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }
}

#[test]
fn the_tree_is_the_toolstacks() {
    let mut bench = bench();
    let vm = "/vm/9ca3f7c7-94c7-4567-b1c4-6cf6a8931ff0";
    for (path, value) in [
        ("vm", vm),
        ("name", "guest"),
        ("domid", "7"),
        ("cpu/0/availability", "online"),
        ("cpu/1/availability", "online"),
        ("memory/static-max", "262144"),
        ("memory/target", "262144"),
        ("control/platform-feature-xs_reset_watches", "1"),
        ("control/platform-feature-multiprocessor-suspend", "1"),
        ("control/shutdown", ""),
        ("store/port", "1"),
        ("store/ring-ref", "4097"),
        ("console/port", "2"),
        ("console/ring-ref", "4098"),
        ("console/type", "xenconsoled"),
        ("console/backend", "/local/domain/0/backend/console/7/0"),
        ("/local/domain/0/backend/console/7/0/protocol", "vt100"),
        ("/vm/9ca3f7c7-94c7-4567-b1c4-6cf6a8931ff0/name", "guest"),
        ("/local/domain/0/name", "error EACCES\0"),
        ("/tool", "error EACCES\0"),
        ("cpu/2/availability", "error ENOENT\0"),
    ] {
        assert_eq!(bench.read(path), value, "{path}");
    }
    let permissions = |bench: &mut Bench, path: &str| bench.ask(3, &format!("{path}\0")).1;
    assert_eq!(permissions(&mut bench, "memory"), "n0\0r7\0");
    assert_eq!(permissions(&mut bench, "control/shutdown"), "n7\0");
    assert_eq!(permissions(&mut bench, "data"), "n7\0");
    assert_eq!(bench.ask(11, "memory/target\x001"), (16, "EACCES\0".to_owned()));
}

#[test]
fn power_is_asked_for() {
    let mut bench = bench();
    assert!(!bench.domain.request(PowerAction::Reboot));
    bench.watch("control/shutdown");
    assert_eq!(bench.take_events(), ["control/shutdown\0t\0"]);
    bench.write("control/feature-poweroff", "1");
    assert!(bench.domain.request(PowerAction::PowerOff));
    assert_eq!(bench.guest.notifications(STORE), 1);
    assert_eq!(bench.read("control/shutdown"), "poweroff");
    assert_eq!(bench.take_events(), ["control/shutdown\0t\0"]);
    bench.write("control/shutdown", "");
}

#[test]
fn memory_is_asked_for() {
    let mut bench = bench();
    bench.watch("memory/target");
    bench.take_events();
    bench.domain.set_memory_target(100_000);
    assert_eq!(bench.read("memory/target"), "100000");
    assert_eq!(bench.take_events(), ["memory/target\0t\0"]);
}

#[test]
fn disks_appear_and_connect() {
    let mut bench = bench();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, [5; 4096]).unwrap();
    bench.watch("device");
    let options = ImageOptions { read_only: true, ..ImageOptions::new(path) };
    for cdrom in [false, true] {
        let content = ambos_block::open(&options).unwrap();
        bench.domain.add_disk(Disk { content, cdrom });
    }
    assert_eq!(bench.ask(1, "device/vbd\0").1, "51712\x0051728\0");
    assert_eq!(bench.read("device/vbd/51712/device-type"), "disk");
    assert_eq!(bench.read("device/vbd/51728/device-type"), "cdrom");
    let back = bench.read("device/vbd/51712/backend");
    assert_eq!(back, "/local/domain/0/backend/vbd/7/51712");
    assert_eq!(bench.read(&format!("{back}/state")), "2");
    assert_eq!(bench.read(&format!("{back}/dev")), "xvda");
    let ring = bench.guest.ring(1, 112);
    bench.watch(&format!("{back}/state"));
    bench.take_events();
    bench.write("device/vbd/51712/ring-ref", &ring.references[0].0.to_string());
    bench.write("device/vbd/51712/event-channel", "30");
    bench.write("device/vbd/51712/state", "3");
    let expected = format!("{back}/state\0t\0");
    assert_eq!(bench.take_events().iter().filter(|event| **event == expected).count(), 1);
    assert_eq!(bench.read(&format!("{back}/state")), "4");
    assert!(bench.guest.notify(30));
    // The guest takes its node away.
    assert_eq!(bench.ask(13, "device/vbd/51712\0").0, 13);
    assert_eq!(bench.read(&format!("{back}/state")), "6");
    assert!(!bench.guest.notify(30));
}

#[test]
fn nothing_is_left_of_a_control_domain() {
    let Bench { guest, domain, .. } = bench();
    let weak = Arc::downgrade(&domain);
    drop(domain);
    assert!(weak.upgrade().is_none());
    assert!(!guest.notify(STORE) && !guest.notify(CONSOLE));
}
