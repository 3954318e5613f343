//! A guest driven by bytes.

use ambos_block::MemoryImage;
use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};
use ambos_net::{Accepts, FRAME_MAX, Full, MacAddress, NetBackend, NetPort, Offload, Received};
use ambos_random::Input;
use ambos_xen_backends::{
    Access, Adapter, BindError, Channel, ControlDomain, Disk, DomainInfo, EventChannels,
    GrantError, GrantRef, Grants, GuestPort, Notified, PowerAction, Progress, SharedPage,
};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

const PAGE: u64 = 4096;
const PAGES: u64 = 24;
/// Pages that are shared or granted for writing; all others must stay as they are.
const STORE_PAGE: u64 = 1;
const CONSOLE_PAGE: u64 = 2;
const RINGS: [u64; 3] = [3, 4, 5];
const DATA: std::ops::Range<u64> = 8..14;
/// A page granted for reading only.
const FIXED: u64 = 16;
const CANARY: u8 = 0xa5;

/// Ports: store, console, disk, adapter.
const PORTS: [u32; 4] = [1, 2, 3, 4];

/// Every page's grant has the page's number; `FIXED` and `DATA` and the rings are granted.
struct Table {
    ram: Arc<GuestRam>,
    pinned: AtomicIsize,
}

impl Grants for Table {
    fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    fn pin(&self, reference: GrantRef, access: Access) -> Result<u64, GrantError> {
        let page = u64::from(reference.0);
        if page == FIXED && access == Access::Write {
            return Err(GrantError::PermissionDenied);
        }
        if page != FIXED && !RINGS.contains(&page) && !DATA.contains(&page) {
            return Err(GrantError::BadReference);
        }
        self.pinned.fetch_add(1, Ordering::SeqCst);
        Ok(page * PAGE)
    }

    fn unpin(&self, _reference: GrantRef, _access: Access) {
        self.pinned.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Ports(Mutex<BTreeMap<u32, Arc<dyn Notified>>>);

struct Channels(Arc<Ports>);

struct End(Arc<Ports>, u32);

impl Channel for End {
    fn notify(&self) {}
}

impl Drop for End {
    fn drop(&mut self) {
        let receiver = self.0.0.lock().unwrap().remove(&self.1);
        drop(receiver);
    }
}

impl EventChannels for Channels {
    fn bind(
        &self,
        port: GuestPort,
        receiver: Arc<dyn Notified>,
    ) -> Result<Box<dyn Channel>, BindError> {
        let mut bound = self.0.0.lock().unwrap();
        if !PORTS.contains(&port.0) || bound.contains_key(&port.0) {
            return Err(BindError(port));
        }
        bound.insert(port.0, receiver);
        Ok(Box::new(End(Arc::clone(&self.0), port.0)))
    }
}

impl Ports {
    /// Notifies. Work is bounded: it ends even if the back end is called again as long as it asks.
    fn notify(&self, port: u32) {
        let receiver = self.0.lock().unwrap().get(&port).cloned();
        let Some(receiver) = receiver else { return };
        let calls = (0..1000).take_while(|_| receiver.notified() == Progress::More).count();
        assert!(calls < 1000, "port {port} is never done");
    }
}

/// A network that gives back what is sent.
#[derive(Default)]
struct Loop {
    frames: Mutex<VecDeque<(Offload, Vec<u8>)>>,
    port: Mutex<Option<Weak<dyn NetPort>>>,
}

impl NetBackend for Loop {
    fn mtu(&self) -> u16 {
        1500
    }

    fn attach(&self, port: Weak<dyn NetPort>) {
        *self.port.lock().unwrap() = Some(port);
    }

    fn accept(&self, _accepts: Accepts) {}

    fn transmit(&self, offload: &Offload, parts: &[ambos_net::Slice<'_>]) -> Result<(), Full> {
        let mut frames = self.frames.lock().unwrap();
        if frames.len() > 8 {
            return Err(Full);
        }
        let mut frame = Vec::new();
        for part in parts {
            let start = frame.len();
            frame.resize(start + part.len(), 0);
            part.copy_to(&mut frame[start..]);
        }
        if frame.len() <= FRAME_MAX {
            frames.push_back((*offload, frame));
        }
        Ok(())
    }

    fn receive(&self, take: &mut dyn FnMut(&Received<'_>) -> bool) {
        let mut frames = self.frames.lock().unwrap();
        while let Some((offload, bytes)) = frames.front() {
            if !take(&Received { offload: *offload, parts: [bytes, &[]] }) {
                break;
            }
            frames.pop_front();
        }
    }
}

struct Guest {
    ram: Arc<GuestRam>,
    table: Arc<Table>,
    ports: Arc<Ports>,
    network: Arc<Loop>,
    domain: Arc<ControlDomain>,
}

const FRONT: [&str; 2] = ["device/vbd/51712", "device/vif/0"];

impl Guest {
    fn new() -> Self {
        let ram = Arc::new(GuestRam::new(PAGES * PAGE).unwrap());
        for page in 0..PAGES {
            let fill = if Self::is_ours(page) { 0 } else { CANARY };
            ram.memory().write_slice(&[fill; 4096], GuestPhysAddr(page * PAGE)).unwrap();
        }
        let table = Arc::new(Table { ram: Arc::clone(&ram), pinned: AtomicIsize::new(0) });
        let ports = Arc::new(Ports::default());
        let shared = |page: u64, port: usize| SharedPage {
            address: page * PAGE,
            frame: page,
            port: GuestPort(PORTS[port]),
        };
        let info = DomainInfo {
            id: 1,
            name: "guest".to_owned(),
            uuid: [7; 16],
            cpus: 1,
            memory_kib: 1024,
            start_time: 0,
        };
        let domain = ControlDomain::new(
            info,
            shared(STORE_PAGE, 0),
            shared(CONSOLE_PAGE, 1),
            Box::new(io::sink()),
            table.clone(),
            Arc::new(Channels(Arc::clone(&ports))),
        )
        .unwrap();
        let content = Arc::new(MemoryImage::new(vec![0; 1 << 20], false));
        domain.add_disk(Disk { content, cdrom: false });
        let network = Arc::new(Loop::default());
        let mac = MacAddress::DEFAULT;
        domain.add_adapter(Adapter { network: network.clone(), mac });
        Self { ram, table, ports, network, domain }
    }

    fn is_ours(page: u64) -> bool {
        [STORE_PAGE, CONSOLE_PAGE].contains(&page) || RINGS.contains(&page) || DATA.contains(&page)
    }

    fn put(&self, page: u64, offset: u64, bytes: &[u8]) {
        let room = (PAGE - offset % PAGE) as usize;
        let bytes = &bytes[..bytes.len().min(room)];
        let place = GuestPhysAddr(page * PAGE + offset % PAGE);
        self.ram.memory().write_slice(bytes, place).unwrap();
    }

    fn word(&self, page: u64, offset: u64) -> u32 {
        self.ram.memory().read_obj(GuestPhysAddr(page * PAGE + offset)).unwrap()
    }

    /// Sends a well-formed request to the store, as far as there is room, and drops answers.
    fn ask(&self, kind: u8, transaction: u8, payload: &[u8]) {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0, transaction, 0, 0, 0];
        message.extend((payload.len() as u32).to_le_bytes());
        message.extend(payload);
        let mut producer = self.word(STORE_PAGE, 2052);
        for byte in message {
            self.put(STORE_PAGE, u64::from(producer & 1023), &[byte]);
            producer = producer.wrapping_add(1);
        }
        self.put(STORE_PAGE, 2052, &producer.to_le_bytes());
        self.ports.notify(PORTS[0]);
        let answered = self.word(STORE_PAGE, 2060);
        self.put(STORE_PAGE, 2056, &answered.to_le_bytes());
    }

    fn write(&self, device: usize, name: &str, value: &str) {
        self.ask(11, 0, format!("{}/{name}\0{value}", FRONT[device]).as_bytes());
    }

    fn connect(&self) {
        for ring in RINGS {
            self.put(ring, 0, &[0; 64]);
        }
        for (name, value) in [("ring-ref", "3"), ("event-channel", "3"), ("state", "3")] {
            self.write(0, name, value);
        }
        for (name, value) in [
            ("tx-ring-ref", "4"),
            ("rx-ring-ref", "5"),
            ("event-channel", "4"),
            ("request-rx-copy", "1"),
            ("feature-rx-notify", "1"),
            ("feature-sg", "1"),
            ("state", "4"),
        ] {
            self.write(1, name, value);
        }
    }

    /// A slot with a request that is nearly right.
    fn slot(&self, input: &mut Input<'_>, ring: usize, index: u32) {
        let size = [112, 12, 8][ring];
        let mut slot = input.bytes(size as usize);
        let page = (DATA.start as u8 + input.byte() % 10).to_le_bytes()[0];
        match ring {
            0 => {
                slot[0] %= 8;
                slot[1] %= 13;
                slot[17..24].fill(0);
                for place in (24..108).step_by(8) {
                    slot[place..place + 4].copy_from_slice(&[page, 0, 0, 0]);
                    slot[place + 5] &= 7;
                }
            }
            1 => {
                slot[..4].copy_from_slice(&[page, 0, 0, 0]);
                slot[5] &= 1;
                slot[6] &= 0xf;
                slot[11] &= 0xf;
            }
            _ => slot[4..].copy_from_slice(&[page, 0, 0, 0]),
        }
        let slots = [32, 256, 256][ring];
        self.put(RINGS[ring], u64::from(64 + index % slots * size), &slot);
    }

    fn step(&self, input: &mut Input<'_>) {
        match input.byte() % 12 {
            0..=3 => {
                let ring = usize::from(input.byte() % 3);
                let mut producer = self.word(RINGS[ring], 0);
                for _ in 0..=input.byte() % 4 {
                    self.slot(input, ring, producer);
                    producer = producer.wrapping_add(1);
                }
                self.put(RINGS[ring], 0, &producer.to_le_bytes());
                self.ports.notify(PORTS[2 + ring.min(1)]);
            }
            4 => {
                let page = [STORE_PAGE, CONSOLE_PAGE, 3, 4, 5, 8][usize::from(input.byte() % 6)];
                let (offset, length) = (input.short(), input.byte() % 32);
                self.put(page, offset.into(), &input.bytes(length.into()));
            }
            5 => {
                let (page, index) = (RINGS[usize::from(input.byte() % 3)], input.byte() % 4);
                let value = u32::from(input.short()).wrapping_mul(0x1_0001);
                self.put(page, u64::from(index) * 4, &value.to_le_bytes());
            }
            6 => self.ports.notify(PORTS[usize::from(input.byte() % 4)]),
            7 => {
                const PATHS: [&str; 6] =
                    ["device/vbd/51712/state", "device", "a/b", "/", "control/shutdown", "data"];
                let path = PATHS[usize::from(input.byte() % 6)];
                let (kind, transaction, length) =
                    (input.byte() % 25, input.byte() % 3, input.byte() % 16);
                let payload = [path.as_bytes(), &[0], &input.bytes(length.into())].concat();
                self.ask(kind, transaction, &payload);
            }
            8 => {
                let (device, state) = (usize::from(input.byte() % 2), input.byte() % 9);
                self.write(device, "state", &state.to_string());
            }
            9 => {
                const NAMES: [&str; 6] = [
                    "ring-ref",
                    "event-channel",
                    "ring-page-order",
                    "multi-queue-num-queues",
                    "tx-ring-ref",
                    "protocol",
                ];
                let name = NAMES[usize::from(input.byte() % 6)];
                self.write(usize::from(input.byte() % 2), name, &(input.byte() % 24).to_string());
            }
            10 => {
                // A fresh connection to the store, and to all devices.
                self.put(STORE_PAGE, 2068, &1u32.to_le_bytes());
                self.ports.notify(PORTS[0]);
                for device in 0..2 {
                    self.write(device, "state", "6");
                    self.write(device, "state", "1");
                }
                self.connect();
            }
            _ => {
                self.domain.request(PowerAction::PowerOff);
                self.domain.console_input(&input.bytes(40));
                let port = self.network.port.lock().unwrap().as_ref().and_then(Weak::upgrade);
                if let Some(port) = port {
                    port.changed();
                }
            }
        }
    }
}

/// Does what `data` says.
pub(crate) fn run(data: &[u8]) {
    let guest = Guest::new();
    guest.connect();
    assert_eq!(guest.table.pinned.load(Ordering::SeqCst), 3, "both devices are connected");
    let mut input = Input::new(data);
    while !input.is_empty() {
        guest.step(&mut input);
    }
    let Guest { ram, table, ports, domain, .. } = guest;
    drop(domain);
    assert!(ports.0.lock().unwrap().is_empty(), "a port is still bound");
    assert_eq!(table.pinned.load(Ordering::SeqCst), 0, "a page is still in use");
    for page in (0..PAGES).filter(|page| !Guest::is_ours(*page)) {
        let mut bytes = [0; 4096];
        ram.memory().read_slice(&mut bytes, GuestPhysAddr(page * PAGE)).unwrap();
        assert!(bytes == [CANARY; 4096], "page {page} was written to");
    }
}
