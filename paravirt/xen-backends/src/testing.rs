//! The guest's side of things, for unit tests.

use crate::events::{BindError, Channel, EventChannels, GuestPort, Notified};
use crate::grants::{Access, GrantError, GrantRef, Grants};
use crate::shared::SharedPages;
use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) use ambos_random::Random;

/// Pages of a test's guest.
const PAGES: u64 = 512;

#[derive(Debug, Clone, Copy)]
struct Entry {
    address: u64,
    read_only: bool,
    pinned: u32,
}

/// A grant table, and the guest's memory.
pub(crate) struct Table {
    ram: Arc<GuestRam>,
    entries: Mutex<HashMap<u32, Entry>>,
}

impl Grants for Table {
    fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    fn pin(&self, reference: GrantRef, access: Access) -> Result<u64, GrantError> {
        let mut entries = self.entries.lock().unwrap();
        let entry = entries.get_mut(&reference.0).ok_or(GrantError::BadReference)?;
        if entry.read_only && access == Access::Write {
            return Err(GrantError::PermissionDenied);
        }
        entry.pinned += 1;
        Ok(entry.address)
    }

    fn unpin(&self, reference: GrantRef, _access: Access) {
        if let Some(entry) = self.entries.lock().unwrap().get_mut(&reference.0) {
            entry.pinned -= 1;
        }
    }
}

/// Event channels that count.
#[derive(Default)]
pub(crate) struct Ports {
    bound: Mutex<HashMap<u32, Arc<dyn Notified>>>,
    notified: Mutex<HashMap<u32, u32>>,
}

struct End {
    ports: Arc<Ports>,
    port: u32,
}

impl Channel for End {
    fn notify(&self) {
        *self.ports.notified.lock().unwrap().entry(self.port).or_default() += 1;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.ports.bound.lock().unwrap().remove(&self.port);
    }
}

struct PortsHandle(Arc<Ports>);

impl EventChannels for PortsHandle {
    fn bind(
        &self,
        port: GuestPort,
        receiver: Arc<dyn Notified>,
    ) -> Result<Box<dyn Channel>, BindError> {
        let mut bound = self.0.bound.lock().unwrap();
        if port.0 == 0 || bound.contains_key(&port.0) {
            return Err(BindError(port));
        }
        bound.insert(port.0, receiver);
        Ok(Box::new(End { ports: Arc::clone(&self.0), port: port.0 }))
    }
}

/// A guest without a processor: the test does what a driver does.
pub(crate) struct Guest {
    table: Arc<Table>,
    ports: Arc<Ports>,
    next_page: AtomicU32,
    next_reference: AtomicU32,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let ram = Arc::new(GuestRam::new(PAGES * 4096).unwrap());
        let table = Arc::new(Table { ram, entries: Mutex::default() });
        let next = AtomicU32::new(1);
        Self { table, ports: Arc::default(), next_page: next, next_reference: AtomicU32::new(8) }
    }

    pub(crate) fn ram(&self) -> &Arc<GuestRam> {
        &self.table.ram
    }

    pub(crate) fn grants(&self) -> Arc<dyn Grants> {
        self.table.clone()
    }

    pub(crate) fn channels(&self) -> Arc<dyn EventChannels> {
        Arc::new(PortsHandle(Arc::clone(&self.ports)))
    }

    /// Takes all grants back that nobody uses, and their pages.
    pub(crate) fn free(&self) {
        self.table.entries.lock().unwrap().retain(|_, entry| entry.pinned > 0);
        self.next_page.store(1, Ordering::Relaxed);
    }

    /// The address of a page that nobody uses.
    pub(crate) fn page(&self) -> u64 {
        let page = self.next_page.fetch_add(1, Ordering::Relaxed);
        assert!(u64::from(page) < PAGES);
        u64::from(page) * 4096
    }

    pub(crate) fn grant(&self, address: u64, read_only: bool) -> GrantRef {
        let reference = self.next_reference.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { address, read_only, pinned: 0 };
        self.table.entries.lock().unwrap().insert(reference, entry);
        GrantRef(reference)
    }

    /// Grants a fresh page.
    pub(crate) fn grant_new(&self, read_only: bool) -> GrantRef {
        self.grant(self.page(), read_only)
    }

    pub(crate) fn address(&self, reference: GrantRef) -> u64 {
        self.table.entries.lock().unwrap()[&reference.0].address
    }

    /// Grants in use.
    pub(crate) fn pinned(&self) -> usize {
        self.table.entries.lock().unwrap().values().map(|entry| entry.pinned as usize).sum()
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.ram().memory().write_slice(bytes, GuestPhysAddr(address)).unwrap();
    }

    pub(crate) fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram().memory().read_slice(&mut bytes, GuestPhysAddr(address)).unwrap();
        bytes
    }

    /// Notifies by `port`; whether somebody listens.
    pub(crate) fn notify(&self, port: u32) -> bool {
        let receiver = self.ports.bound.lock().unwrap().get(&port).cloned();
        let Some(receiver) = receiver else { return false };
        while receiver.notified() == crate::events::Progress::More {}
        true
    }

    /// How often the guest was notified by `port` since this was last asked.
    pub(crate) fn notifications(&self, port: u32) -> u32 {
        self.ports.notified.lock().unwrap().remove(&port).unwrap_or_default()
    }

    /// A new ring of granted pages, the guest's side.
    pub(crate) fn ring(&self, pages: u32, slot: u32) -> FrontRing {
        let references: Vec<_> = (0..pages).map(|_| self.grant_new(false)).collect();
        let shared = SharedPages::granted(&self.grants(), &references).unwrap();
        shared.write(0, &[0; 64]).unwrap();
        shared.store(4, 1).unwrap();
        shared.store(12, 1).unwrap();
        let slots = 1 << ((pages * 4096 - 64) / slot).ilog2();
        let grants = self.grants();
        FrontRing { references, grants, shared, slot, slots, pushed: 0, published: 0, popped: 0 }
    }
}

/// The guest's side of a ring of requests.
pub(crate) struct FrontRing {
    pub(crate) references: Vec<GrantRef>,
    grants: Arc<dyn Grants>,
    shared: SharedPages,
    slot: u32,
    slots: u32,
    pushed: u32,
    published: u32,
    popped: u32,
}

impl FrontRing {
    pub(crate) fn pages(&self) -> SharedPages {
        SharedPages::granted(&self.grants, &self.references).unwrap()
    }

    pub(crate) fn push(&mut self, request: &[u8]) {
        let place = 64 + (self.pushed & (self.slots - 1)) * self.slot;
        self.shared.write(place, request).unwrap();
        self.pushed = self.pushed.wrapping_add(1);
    }

    /// Publishes requests; whether the back end wants to be notified.
    pub(crate) fn publish(&mut self) -> bool {
        let old = std::mem::replace(&mut self.published, self.pushed);
        self.shared.store(0, self.pushed).unwrap();
        let event = self.shared.load(4).unwrap();
        self.pushed.wrapping_sub(event) < self.pushed.wrapping_sub(old)
    }

    pub(crate) fn pop<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.popped == self.shared.load(8).unwrap() {
            return None;
        }
        let mut response = [0; N];
        self.shared.read(64 + (self.popped & (self.slots - 1)) * self.slot, &mut response).unwrap();
        self.popped = self.popped.wrapping_add(1);
        Some(response)
    }

    /// Asks to be notified of the next response.
    pub(crate) fn ask_for_notification(&mut self) {
        self.shared.store(12, self.popped.wrapping_add(1)).unwrap();
    }
}
