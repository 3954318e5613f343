//! What all vCPUs of a guest share.

use crate::events::Events;
use crate::grants::GrantTable;
use crate::layout::Layout;
use crate::pages::{Forget, Pages};
use crate::time::{TimeBase, VcpuTimers};
use ambos_clock::VmClock;
use ambos_intercept::UnservedLog;
use ambos_memory::GuestRam;
use ambos_vcpu::{Attention, GuestCpu, Request};
use ambos_xen_abi::{DomainId, shared_info};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// What a domain asks of the machine around it.
pub trait Host: Send + Sync {
    /// The guest ends itself, for a reason of [`ambos_xen_abi::sched::reason`].
    fn shutdown(&self, reason: u32);

    /// The guest prints on the emergency console.
    fn print(&self, bytes: &[u8]);

    /// vCPU `own` leaves guest code and its requests alone for something that may take long, or comes back.
    fn away(&self, own: u32, away: bool);

    /// Raises `request` ([`Request::FLUSH`] or [`Request::FLUSH_ALL`]) on the vCPUs whose bits are in `mask`,
    /// but not on `own`, and waits until each has served it or runs no guest code. While it waits it calls
    /// `meanwhile`. vCPUs past the sixty-fourth have no bits and are always meant.
    fn forget(&self, own: u32, mask: u64, request: Request, meanwhile: &mut dyn FnMut());
}

/// What a domain is made of.
pub struct DomainConfig {
    /// Its memory.
    pub frames: Frames,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// The machine's clock.
    pub clock: Arc<VmClock>,
    /// Where requests go that are not served.
    pub unserved: Arc<UnservedLog>,
    /// One for each vCPU.
    pub attentions: Vec<Arc<Attention>>,
    /// Frequency of the guest's time-stamp counter, which counts from zero at the start.
    pub tsc_hz: u64,
    /// The time of day at the start, in nanoseconds since 1970.
    pub unix_time_ns: u64,
    /// Machine frames of the console's page and the store's page.
    pub console_frame: u64,
    /// See `console_frame`.
    pub store_frame: u64,
}

/// A guest's RAM, divided between it and the hypervisor as at the start. Nothing of the guest is needed to make it, but some time.
pub struct Frames(Pages);

impl Frames {
    /// Divides RAM of [`Layout::ram_size`] bytes as `layout` says, and fills in the hypervisor's frames. Others are not touched.
    pub fn new(ram: Arc<GuestRam>, layout: Layout) -> Self {
        layout.fill(&ram);
        Self(Pages::new(ram, layout))
    }
}

/// What the first vCPU starts with, besides its registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Machine frame of the top-level page table.
    pub root: u64,
    /// Kernel stack.
    pub stack: u64,
}

/// A vCPU as others see it.
pub(crate) struct SharedVcpu {
    pub(crate) attention: Arc<Attention>,
    /// Guest-physical address of its information.
    pub(crate) info: AtomicU64,
    /// It is up.
    pub(crate) up: AtomicBool,
    /// It has been given a state.
    pub(crate) initialised: AtomicBool,
    /// It waits for one of some ports.
    pub(crate) polling: AtomicBool,
    pub(crate) nmi: AtomicBool,
    /// The state it starts with.
    pub(crate) context: Mutex<Option<Vec<u8>>>,
    pub(crate) timers: VcpuTimers,
    pub(crate) run_states: Mutex<crate::time::RunStates>,
}

/// A guest as the hypervisor sees it.
pub struct Domain {
    // Configuration.
    pub(crate) layout: Layout,
    pub(crate) time: TimeBase,

    // Dependencies.
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) unserved: Arc<UnservedLog>,

    // Volatile state.
    pages: Mutex<Pages>,
    pub(crate) events: Events,
    grants: Mutex<GrantTable>,
    pub(crate) vcpus: Vec<SharedVcpu>,
    /// Bits of `vm_assist`.
    pub(crate) assist: AtomicU64,
    pub(crate) shutdown_code: AtomicU32,
}

impl Domain {
    /// The guest's number.
    pub const ID: DomainId = DomainId(1);

    /// Makes the hypervisor's part of a guest whose memory has been built.
    pub fn new(config: DomainConfig) -> Arc<Self> {
        let DomainConfig { frames: Frames(pages), host, clock, unserved, attentions, .. } = config;
        let (ram, layout) = (Arc::clone(pages.ram()), *pages.layout());
        let time = TimeBase::new(config.tsc_hz, config.unix_time_ns);
        let domain = Arc::new_cyclic(|domain| Self {
            layout,
            time,
            ram: Arc::clone(&ram),
            host,
            unserved,
            pages: Mutex::new(pages),
            events: Events::new(Arc::clone(&ram), layout, attentions.len() as u32),
            grants: Mutex::new(GrantTable::new(
                layout,
                &[
                    (ambos_xen_abi::grant::RESERVED_CONSOLE, config.console_frame),
                    (ambos_xen_abi::grant::RESERVED_XENSTORE, config.store_frame),
                ],
                &ram,
            )),
            vcpus: attentions
                .iter()
                .zip(0..)
                .map(|(attention, id)| SharedVcpu {
                    attention: Arc::clone(attention),
                    info: AtomicU64::new(legacy_info(&layout, id)),
                    up: AtomicBool::new(id == 0),
                    initialised: AtomicBool::new(id == 0),
                    polling: AtomicBool::new(false),
                    nmi: AtomicBool::new(false),
                    context: Mutex::default(),
                    timers: VcpuTimers::new(&clock, domain, id),
                    run_states: Mutex::default(),
                })
                .collect(),
            assist: AtomicU64::new(0),
            shutdown_code: AtomicU32::new(0),
        });
        for vcpu in &domain.vcpus {
            let info = vcpu.info.load(Ordering::Relaxed);
            domain.set_byte(info + shared_info::vcpu::UPCALL_MASK, 1);
            domain.time.write_info(&ram, info + shared_info::vcpu::TIME);
        }
        domain.time.write_wall_clock(&ram, layout.shared_info << 12);
        domain
    }

    /// The guest's RAM.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// The guest's frames. Whoever waits serves other vCPUs' requests to forget translations, for one of them
    /// may hold the lock and wait for that.
    pub(crate) fn pages(&self, cpu: &mut dyn GuestCpu) -> MutexGuard<'_, Pages> {
        wait_for(&self.pages, cpu)
    }

    /// The guest's grants; waits as [`Domain::pages`] does.
    pub(crate) fn grants(&self, cpu: &mut dyn GuestCpu) -> MutexGuard<'_, GrantTable> {
        wait_for(&self.grants, cpu)
    }

    /// The guest's grants, for threads that run no guest code.
    pub(crate) fn grants_from_outside(&self) -> MutexGuard<'_, GrantTable> {
        lock(&self.grants)
    }

    /// The guest's frames, for threads that run no guest code.
    pub(crate) fn pages_from_outside(&self) -> MutexGuard<'_, Pages> {
        lock(&self.pages)
    }

    /// The vCPU with this number.
    pub(crate) fn vcpu(&self, id: u32) -> Option<&SharedVcpu> {
        self.vcpus.get(id as usize)
    }

    /// Whether assistance of this kind is on.
    pub(crate) fn assists(&self, kind: u64) -> bool {
        self.assist.load(Ordering::Relaxed) & 1 << kind != 0
    }

    pub(crate) fn byte(&self, at: u64) -> u8 {
        self.ram.byte(at).map_or(0, |byte| byte.load(Ordering::SeqCst))
    }

    pub(crate) fn set_byte(&self, at: u64, value: u8) {
        if let Some(byte) = self.ram.byte(at) {
            byte.store(value, Ordering::SeqCst);
        }
    }

    /// Marks events pending for a vCPU and wakes it.
    pub(crate) fn mark_events_pending(&self, id: u32) {
        let Some(vcpu) = self.vcpu(id) else { return };
        let info = vcpu.info.load(Ordering::SeqCst);
        if let Some(byte) = self.ram.byte(info + shared_info::vcpu::UPCALL_PENDING)
            && byte.swap(1, Ordering::SeqCst) == 0
        {
            vcpu.attention.raise(Request::INTERRUPT);
        }
    }

    /// Notes an event at one of the guest's ports.
    pub fn notify(&self, port: u32) {
        if let Some(vcpu) = self.events.raise(port, self) {
            self.mark_events_pending(vcpu);
        }
        for vcpu in &self.vcpus {
            if vcpu.polling.load(Ordering::SeqCst) {
                vcpu.attention.raise(Request::INTERRUPT);
            }
        }
    }

    /// Notes a virtual interrupt of a vCPU.
    pub(crate) fn raise_virq(&self, vcpu: u32, virq: u32) {
        if let Some(port) = self.events.port_of_virq(vcpu, virq) {
            self.notify(port);
        }
    }
}

/// Where the information of a vCPU lies until the guest places it elsewhere.
pub(crate) fn legacy_info(layout: &Layout, id: u32) -> u64 {
    let slot = u64::from(id.min(shared_info::LEGACY_VCPUS - 1));
    (layout.shared_info << 12) + slot * shared_info::vcpu::SIZE
}

/// Makes vCPUs forget that a frame is writable.
pub(crate) struct Shootdown<'a> {
    pub(crate) domain: &'a Domain,
    pub(crate) own: u32,
    pub(crate) cpu: &'a mut dyn GuestCpu,
}

impl Forget for Shootdown<'_> {
    fn protect(&mut self, frame: u64) {
        self.cpu.protect_frame(frame << 12);
        if self.domain.vcpus.len() > 1 {
            let cpu = &mut *self.cpu;
            self.domain.host.forget(self.own, u64::MAX, Request::FLUSH, &mut || cpu.serve_flush());
        }
    }
}

/// Nothing to forget: for uses that never need it.
pub(crate) struct Nothing;

impl Forget for Nothing {
    fn protect(&mut self, _: u64) {}
}

fn wait_for<'a, T>(mutex: &'a Mutex<T>, cpu: &mut dyn GuestCpu) -> MutexGuard<'a, T> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                cpu.serve_flush();
                std::thread::yield_now();
            }
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
