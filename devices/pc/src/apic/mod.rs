//! The local APICs and the fabric between them.
//!
//! Each vCPU has a [`LocalApic`]. Its own thread reads and writes its registers (a page of memory in
//! xAPIC mode, model-specific registers in x2APIC mode), takes interrupts from it and sets its task
//! priority; other threads hand it messages through the [`InterruptFabric`]. It asks for its vCPU by
//! `Request::INTERRUPT`, which is raised exactly while a vector is above the processor's priority or
//! the 8259s are pending and let through. While a guest may have ended an interrupt lazily
//! ([`LazyEnd`]), it is raised for every vector that waits.
//!
//! Each APIC has a lock of its own, held for a few instructions; nobody holds two of them.

mod fabric;
mod registers;
mod spec;
mod timer;
mod vectors;

pub use fabric::{ApicVcpu, Destination, EndOfInterrupt, InterruptFabric, Message};
pub use registers::LazyEnd;
pub use spec::DeliveryMode;
pub use timer::{SHORTEST_PERIOD, TIMER_HZ, TimeStampCounter};

use crate::lock;
use ambos_clock::{TimerTarget, VmClock};
use ambos_device::{AccessError, read_dwords};
use ambos_vcpu::MsrFault;
use ambos_x86::msr;
use fabric::Routing;
use registers::{AskPic, Core, Effect, NoRegister};
use spec::register;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use timer::ApicTimer;

/// A vCPU's local APIC.
pub struct LocalApic {
    // Configuration.
    id: u32,

    // Dependencies.
    fabric: Weak<InterruptFabric>,

    // Book-keeping: copies of the core's state that are read without its lock.
    routing: AtomicU32,
    page: AtomicU64,

    // Volatile state.
    core: Mutex<Core>,
}

impl fmt::Debug for LocalApic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalApic").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Stands for no page in [`LocalApic::page`].
const NO_PAGE: u64 = u64::MAX;

impl LocalApic {
    fn new(
        id: u32,
        clock: &Arc<VmClock>,
        vcpu: ApicVcpu,
        fabric: Weak<InterruptFabric>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|apic: &Weak<Self>| {
            let target = apic.clone() as Weak<dyn TimerTarget>;
            let timer = clock.timer(format!("local APIC {id}"), target);
            let core = Core::new(id, vcpu.attention, ApicTimer::new(timer, vcpu.tsc));
            Self {
                id,
                fabric,
                routing: AtomicU32::new(core.routing().pack()),
                page: AtomicU64::new(core.page().unwrap_or(NO_PAGE)),
                core: Mutex::new(core),
            }
        })
    }

    /// The APIC's ID.
    pub fn id(&self) -> u32 {
        self.id
    }

    // What the vCPU does.

    /// Takes the most urgent interrupt and returns its vector; `None` if there is none after all.
    pub fn acknowledge_interrupt(&self) -> Option<u8> {
        let outcome = lock(&self.core).acknowledge();
        match outcome {
            Ok(vector) => vector,
            Err(AskPic) => {
                let vector = self.fabric.upgrade().and_then(|fabric| fabric.acknowledge_pic());
                lock(&self.core).update_attention();
                vector
            }
        }
    }

    /// The task-priority class, CR8.
    pub fn task_priority(&self) -> u8 {
        lock(&self.core).task_priority() >> 4
    }

    /// Sets the task-priority class, CR8; only the low four bits count.
    pub fn set_task_priority(&self, class: u8) {
        lock(&self.core).set_task_priority(class << 4);
    }

    /// Lets the guest end edge-triggered interrupts through `lazy_end` from now on, or not at all.
    pub fn set_lazy_end(&self, lazy_end: Option<Box<dyn LazyEnd>>) {
        lock(&self.core).set_lazy_end(lazy_end);
    }

    /// The relation of the vCPU's time-stamp counter to machine time changed.
    pub fn tsc_changed(&self) {
        lock(&self.core).tsc_changed();
    }

    /// Guest-physical address of the register page; `None` in x2APIC mode and while the APIC is
    /// disabled.
    #[inline]
    pub fn mmio_page(&self) -> Option<u64> {
        let page = self.page.load(Ordering::Acquire);
        (page != NO_PAGE).then_some(page)
    }

    /// Reads the register page.
    ///
    /// # Errors
    ///
    /// [`AccessError::NoRegister`] where there is none.
    pub fn mmio_read(&self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let mut core = lock(&self.core);
        if core.page().is_none() {
            return Err(AccessError::NoRegister);
        }
        core.learn_of_end();
        let result = read_dwords(offset, data, |offset| {
            if offset & 0xf != 0 {
                return Ok(0);
            }
            core.read(register_number(offset)?).map_err(|NoRegister| AccessError::NoRegister)
        });
        if result.is_err() {
            core.illegal_register();
        }
        result
    }

    /// Writes the register page: four bytes at a register's place.
    ///
    /// # Errors
    ///
    /// [`AccessError::NoRegister`] where there is none, [`AccessError::Size`] for other widths.
    pub fn mmio_write(&self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let bytes = <[u8; 4]>::try_from(data).map_err(|_| AccessError::Size)?;
        if offset & 0xf != 0 {
            return Err(AccessError::Size);
        }
        let mut core = lock(&self.core);
        if core.page().is_none() {
            return Err(AccessError::NoRegister);
        }
        let written = register_number(offset)
            .and_then(|number| {
                let written = core.write(number, u32::from_le_bytes(bytes));
                written.map_err(|NoRegister| AccessError::NoRegister)
            })
            .inspect_err(|_| core.illegal_register());
        self.publish(&core);
        drop(core);
        self.carry_out(written?);
        Ok(())
    }

    /// Whether [`LocalApic::msr_read`] and [`LocalApic::msr_write`] are responsible for a
    /// model-specific register.
    pub const fn owns_msr(index: u32) -> bool {
        matches!(
            index,
            msr::IA32_APIC_BASE | msr::IA32_TSC_DEADLINE | msr::X2APIC_FIRST..=msr::X2APIC_LAST
        )
    }

    /// Reads a model-specific register.
    ///
    /// # Errors
    ///
    /// [`MsrFault`] if there is none in the present mode, or it cannot be read.
    pub fn msr_read(&self, index: u32) -> Result<u64, MsrFault> {
        let mut core = lock(&self.core);
        core.learn_of_end();
        match index {
            msr::IA32_APIC_BASE => Ok(core.base()),
            msr::IA32_TSC_DEADLINE => Ok(core.tsc_deadline()),
            msr::X2APIC_FIRST..=msr::X2APIC_LAST if core.x2apic() => {
                match index - msr::X2APIC_FIRST {
                    register::ICR => Ok(core.command()),
                    number => core.read(number).map(u64::from).map_err(|NoRegister| MsrFault),
                }
            }
            _ => Err(MsrFault),
        }
    }

    /// Writes a model-specific register.
    ///
    /// # Errors
    ///
    /// [`MsrFault`] if there is none in the present mode, it cannot be written, or the value is
    /// illegal.
    pub fn msr_write(&self, index: u32, value: u64) -> Result<(), MsrFault> {
        let mut core = lock(&self.core);
        let effect = match index {
            msr::IA32_APIC_BASE => core.set_base(value).map(|()| Effect::None)?,
            msr::IA32_TSC_DEADLINE => {
                core.set_tsc_deadline(value);
                return Ok(());
            }
            msr::X2APIC_FIRST..=msr::X2APIC_LAST if core.x2apic() => {
                core.write_x2apic(index - msr::X2APIC_FIRST, value)?
            }
            _ => return Err(MsrFault),
        };
        self.publish(&core);
        drop(core);
        self.carry_out(effect);
        Ok(())
    }

    // What the fabric does.

    fn set_virtual_wire(&self) {
        lock(&self.core).set_virtual_wire();
    }

    fn routing(&self) -> Routing {
        Routing::unpack(self.routing.load(Ordering::Acquire))
    }

    fn processor_priority(&self) -> u8 {
        lock(&self.core).processor_priority()
    }

    fn accepts_vectors(&self) -> bool {
        lock(&self.core).software_enabled()
    }

    fn accept(&self, mode: DeliveryMode, vector: u8, level_triggered: bool) {
        let mut core = lock(&self.core);
        core.accept(mode, vector, level_triggered);
        self.publish(&core);
    }

    fn set_pin(&self, pin: usize, level: bool) {
        lock(&self.core).set_pin(pin, level);
    }

    /// Copies what is read without the lock.
    fn publish(&self, core: &Core) {
        self.routing.store(core.routing().pack(), Ordering::Release);
        self.page.store(core.page().unwrap_or(NO_PAGE), Ordering::Release);
    }

    /// Does what must be done without the lock.
    fn carry_out(&self, effect: Effect) {
        if effect == Effect::None {
            return;
        }
        let Some(fabric) = self.fabric.upgrade() else { return };
        match effect {
            Effect::None => {}
            Effect::Send(message) => fabric.deliver(message),
            Effect::EndOfInterrupt(vector) => fabric.end_of_interrupt(vector),
        }
    }
}

impl TimerTarget for LocalApic {
    fn expired(&self, now: u64) {
        lock(&self.core).timer_expired(now);
    }
}

/// The number of the register at an offset of the page.
fn register_number(offset: u64) -> Result<u32, AccessError> {
    u32::try_from(offset >> 4)
        .ok()
        .filter(|number| *number <= register::SELF_IPI)
        .ok_or(AccessError::NoRegister)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
