//! The control domain.

use super::power::PowerAction;
use super::tree::{self, DomainInfo, Service};
use crate::block::BlockBack;
use crate::console::{Console, ConsolePort};
use crate::events::{BindError, Channel, EventChannels, GuestPort, Notified, Progress};
use crate::grants::Grants;
use crate::net::NetBack;
use crate::shared::{RingError, SharedPages};
use crate::turnstile::Turnstile;
use crate::xenbus::{Device, Place};
use crate::xenstore::{ConnectionId, DomainId, Store, StoreRing};
use ambos_block::BlockBackend;
use ambos_net::{MacAddress, NetBackend};
use std::io::Write;
use std::sync::{Arc, Weak};
use thiserror::Error;

/// Rounds of events that one call serves.
const ROUNDS: usize = 64;

/// A page that the guest shares with a service from the beginning, and the port that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedPage {
    /// Where the page is in [`Grants::ram`].
    pub address: u64,
    /// The guest's number of it (a machine frame).
    pub frame: u64,
    /// The guest's port.
    pub port: GuestPort,
}

/// A disk.
#[derive(Clone)]
pub struct Disk {
    /// What is on it.
    pub content: Arc<dyn BlockBackend>,
    /// Whether it is a CD-ROM drive with the content as its medium.
    pub cdrom: bool,
}

/// A network adapter.
#[derive(Clone)]
pub struct Adapter {
    /// What it is connected to.
    pub network: Arc<dyn NetBackend>,
    /// Its address.
    pub mac: MacAddress,
}

/// Why there is no control domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ControlError {
    /// A page that the guest shares is none.
    #[error("a page that the guest shares cannot be used")]
    Page(#[from] RingError),
    /// A port of the guest's cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// What a guest finds outside itself.
pub struct ControlDomain {
    // Configuration.
    guest: DomainId,

    // Dependencies.
    grants: Arc<dyn Grants>,
    channels: Arc<dyn EventChannels>,
    console: Arc<Console>,

    // Volatile state.
    services: Turnstile<Services>,
}

struct Services {
    store: Store,
    /// Our own connection.
    own: ConnectionId,
    ring: StoreRing,
    channel: Option<Box<dyn Channel>>,
    devices: Vec<Device>,
    info: DomainInfo,
    disks: u32,
    adapters: u32,
}

impl ControlDomain {
    /// A control domain for a guest, which has no devices yet. What the guest prints goes to
    /// `console_output`.
    ///
    /// # Errors
    ///
    /// [`ControlError`]: pages or ports of the guest are not what they should be.
    pub fn new(
        info: DomainInfo,
        xenstore: SharedPage,
        console: SharedPage,
        console_output: Box<dyn Write + Send>,
        grants: Arc<dyn Grants>,
        channels: Arc<dyn EventChannels>,
    ) -> Result<Arc<Self>, ControlError> {
        let guest = DomainId(info.id);
        let mut store = Store::default();
        let own = store.connect(DomainId::CONTROL);
        let service = |page: SharedPage| Service { frame: page.frame, port: page.port };
        tree::create(&mut store, &info, service(xenstore), service(console));
        let connection = store.connect(guest);
        let page = |page: SharedPage| SharedPages::page(grants.ram(), page.address);
        let ring = StoreRing::new(page(xenstore), connection)?;
        let services = Turnstile::new(Services {
            store,
            own,
            ring,
            channel: None,
            devices: Vec::new(),
            info,
            disks: 0,
            adapters: 0,
        });
        let terminal = Console::new(page(console), console_output)?;
        let port = Arc::new(ConsolePort(Arc::downgrade(&terminal)));
        terminal.set_channel(channels.bind(console.port, port)?);
        let domain = Arc::new(Self { guest, grants, channels, console: terminal, services });
        let port = Arc::new(StorePort(Arc::downgrade(&domain)));
        let channel = domain.channels.bind(xenstore.port, port)?;
        domain.services.lock().channel = Some(channel);
        Ok(domain)
    }

    /// Gives the guest a disk: the first one is `xvda`.
    pub fn add_disk(&self, disk: Disk) {
        let Disk { content, cdrom } = disk;
        self.with_services(|services| {
            let index = services.disks;
            services.disks += 1;
            let place = Place { guest: self.guest, class: "vbd", number: virtual_device(index) };
            let name = format!("xvd{}", disk_letters(index));
            let read_only = cdrom || content.is_read_only();
            let kind = if cdrom { "cdrom" } else { "disk" };
            let (grants, channels) = (Arc::clone(&self.grants), Arc::clone(&self.channels));
            let half = BlockBack::new(content, cdrom, services.info.cpus, grants, channels);
            services.add_device(
                place,
                Box::new(half),
                &[("virtual-device", place.number.to_string()), ("device-type", kind.to_owned())],
                &[
                    ("params", String::new()),
                    ("type", "phy".to_owned()),
                    ("dev", name),
                    ("mode", if read_only { "r" } else { "w" }.to_owned()),
                    ("device-type", kind.to_owned()),
                    ("removable", u8::from(cdrom).to_string()),
                    ("bootable", "1".to_owned()),
                    ("hotplug-status", "connected".to_owned()),
                ],
            );
        });
    }

    /// Gives the guest a network adapter.
    pub fn add_adapter(&self, adapter: Adapter) {
        let Adapter { network, mac } = adapter;
        self.with_services(|services| {
            let number = services.adapters;
            services.adapters += 1;
            let place = Place { guest: self.guest, class: "vif", number };
            let common = [
                ("handle", number.to_string()),
                ("mac", mac.to_string()),
                ("mtu", network.mtu().to_string()),
            ];
            let (grants, channels) = (Arc::clone(&self.grants), Arc::clone(&self.channels));
            let half = Box::new(NetBack::new(network, services.info.cpus, grants, channels));
            let own = [("type", "vif".to_owned()), ("hotplug-status", "connected".to_owned())];
            services.add_device(place, half, &common, &[&common[..], &own].concat());
        });
    }

    /// Types on the guest's console.
    pub fn console_input(&self, bytes: &[u8]) {
        self.console.input(bytes);
    }

    /// Asks the guest's operating system to do something. Returns whether it has said that it
    /// would.
    pub fn request(&self, action: PowerAction) -> bool {
        self.with_services(|services| {
            let control = self.guest.path().join("control");
            let answers = services.store.read(&control.join(action.feature())) == Some("1");
            services.store.write(&control.join("shutdown"), action.word());
            answers
        })
    }

    /// Asks the guest to give memory back, or to take some again, until it has `kib` KiB.
    pub fn set_memory_target(&self, kib: u64) {
        self.with_services(|services| {
            let target = self.guest.path().join("memory").join("target");
            services.store.write(&target, &kib.to_string());
        });
    }

    /// Changes something, and lets the guest know.
    fn with_services<R>(&self, change: impl FnOnce(&mut Services) -> R) -> R {
        let result = change(&mut self.services.lock());
        // What is left, the guest's next notification finds.
        let _ = self.services.serve(Services::serve);
        result
    }
}

impl Services {
    fn add_device(
        &mut self,
        place: Place,
        half: Box<dyn crate::xenbus::BackHalf>,
        front_values: &[(&str, String)],
        back_values: &[(&str, String)],
    ) {
        let device = Device::create(&mut self.store, place, half, front_values, back_values);
        self.store.add_watch(self.own, &device.watched(), &self.devices.len().to_string());
        self.devices.push(device);
    }

    /// Serves the guest's requests, and lets devices see what changed for them.
    fn serve(&mut self) -> Progress {
        let (mut moved, mut progress) = (false, Progress::More);
        for _ in 0..ROUNDS {
            let exchanged = self.ring.exchange(&mut self.store);
            moved |= exchanged.moved;
            let mut events = false;
            while let Some(event) = self.store.next_event(self.own) {
                events = true;
                let index = event.token.parse().ok();
                if let Some(device) = index.and_then(|index: usize| self.devices.get_mut(index)) {
                    device.front_changed(&mut self.store);
                }
            }
            if !events {
                progress = exchanged.progress;
                break;
            }
        }
        if moved && let Some(channel) = &self.channel {
            channel.notify();
        }
        progress
    }
}

impl Notified for ControlDomain {
    /// The guest notified the store.
    fn notified(&self) -> Progress {
        self.services.serve(Services::serve)
    }
}

/// What the store's port is bound to: it does not keep the domain alive.
struct StorePort(Weak<ControlDomain>);

impl Notified for StorePort {
    fn notified(&self) -> Progress {
        self.0.upgrade().map_or(Progress::Done, |domain| domain.notified())
    }
}

/// The number of a disk in the store (`vbd-interface.7`): the first sixteen have those of the block devices
/// `xvda` to `xvdp`; others cannot be told by these.
fn virtual_device(index: u32) -> u32 {
    const MAJOR: u32 = 202;
    const EXTENDED: u32 = 1 << 28;
    if index < 16 { MAJOR << 8 | index << 4 } else { EXTENDED | index << 8 }
}

/// How a disk's name ends: `a` to `z`, `aa` and so on.
fn disk_letters(index: u32) -> String {
    let mut rest = index + 1;
    let mut letters = Vec::new();
    while rest > 0 {
        rest -= 1;
        letters.push(char::from(b'a' + (rest % 26) as u8));
        rest /= 26;
    }
    letters.iter().rev().collect()
}
