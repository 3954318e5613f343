//! Event channels: the guest's interrupts.
//!
//! A port is bound to one of several sources. Raising it sets a bit in memory that the guest shares, in one of
//! two forms: two levels of bitmaps ([`two_level`]), or a word for each port and queues by
//! priority ([`fifo`]). Whether the vCPU must be told comes back to the caller.

mod fifo;
mod ports;
mod two_level;

pub(crate) use ports::{Channel, Port};

use crate::domain::Domain;
use crate::layout::Layout;
use ambos_memory::GuestRam;
use ambos_xen_abi::Errno;
use ambos_xen_abi::event;
use ambos_xen_abi::event::virq;
use fifo::Fifo;
use ports::Ports;
use std::sync::{Arc, Mutex};

/// What the guest's notifications of a port go to, outside the guest.
pub trait Receiver: Send + Sync {
    /// The guest notified. Called on the vCPU's thread; no lock of the domain is held.
    fn notified(&self);
}

/// All event channels of a guest.
pub(crate) struct Events {
    ram: Arc<GuestRam>,
    shared_info: u64,
    state: Mutex<State>,
}

struct State {
    ports: Ports,
    /// The form, once the guest chose the second.
    fifo: Option<Fifo>,
}

impl Events {
    pub(crate) fn new(ram: Arc<GuestRam>, layout: Layout, vcpus: u32) -> Self {
        let state = State { ports: Ports::new(vcpus), fifo: None };
        Self { ram, shared_info: layout.shared_info << 12, state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        crate::domain::lock(&self.state)
    }

    /// Makes `port` pending; returns the vCPU that must be told.
    pub(crate) fn raise(&self, port: u32, domain: &Domain) -> Option<u32> {
        let mut state = self.state();
        let found = state.ports.get(port)?;
        if matches!(found.channel, Channel::Closed) {
            return None;
        }
        let (vcpu, priority) = (found.vcpu, found.priority);
        self.set_pending(&mut state, port, vcpu, priority, domain)
    }

    fn set_pending(
        &self,
        state: &mut State,
        port: u32,
        vcpu: u32,
        priority: u8,
        domain: &Domain,
    ) -> Option<u32> {
        let told = match &mut state.fifo {
            Some(fifo) => fifo.raise(&self.ram, port, vcpu, priority),
            None => two_level::raise(&self.ram, self.shared_info, domain.vcpu(vcpu)?, port),
        };
        told.then_some(vcpu)
    }

    /// Lets `port` through again; returns the vCPU that must be told of what was pending.
    pub(crate) fn unmask(&self, port: u32, domain: &Domain) -> Result<Option<u32>, Errno> {
        let mut state = self.state();
        let found = state.ports.get(port).ok_or(Errno::EINVAL)?;
        if matches!(found.channel, Channel::Closed) {
            return Err(Errno::EINVAL);
        }
        let (vcpu, priority) = (found.vcpu, found.priority);
        let Some(shared) = domain.vcpu(vcpu) else { return Ok(None) };
        let told = match &mut state.fifo {
            Some(fifo) => fifo.unmask(&self.ram, port, vcpu, priority),
            None => two_level::unmask(&self.ram, self.shared_info, shared, port),
        };
        Ok(told.then_some(vcpu))
    }

    /// Whether `port` is pending.
    pub(crate) fn is_pending(&self, port: u32) -> bool {
        let state = self.state();
        match &state.fifo {
            Some(fifo) => fifo.is_pending(&self.ram, port),
            None => two_level::is_pending(&self.ram, self.shared_info, port),
        }
    }

    fn limit(state: &State) -> u32 {
        if state.fifo.is_some() { event::fifo::PORTS } else { event::TWO_LEVEL_PORTS }
    }

    /// Binds a free port to `channel`, for `vcpu`.
    pub(crate) fn allocate(&self, channel: Channel, vcpu: u32) -> Result<u32, Errno> {
        let mut state = self.state();
        let limit = Self::limit(&state);
        let port = state.ports.allocate(channel, vcpu, limit)?;
        self.clear(&mut state, port);
        Ok(port)
    }

    /// A new port is neither pending nor (in the second form) in a queue; it is masked or not as the guest
    /// left it.
    fn clear(&self, state: &mut State, port: u32) {
        match &mut state.fifo {
            Some(fifo) => fifo.clear(&self.ram, port),
            None => two_level::clear(&self.ram, self.shared_info, port),
        }
    }

    /// Binds a virtual interrupt of a vCPU.
    pub(crate) fn bind_virq(&self, virq: u32, vcpu: u32) -> Result<u32, Errno> {
        if self.port_of_virq(vcpu, virq).is_some() {
            return Err(Errno::EEXIST);
        }
        self.allocate(Channel::Virq(virq), vcpu)
    }

    /// The port that a virtual interrupt is bound to.
    pub(crate) fn port_of_virq(&self, vcpu: u32, virq: u32) -> Option<u32> {
        let state = self.state();
        state.ports.of_virq(virq::is_per_vcpu(virq).then_some(vcpu), virq)
    }

    /// Closes a port.
    pub(crate) fn close(&self, port: u32) -> Result<(), Errno> {
        let mut state = self.state();
        let closed = state.ports.close(port)?;
        self.clear(&mut state, port);
        drop(state);
        // The other end may call back while it goes.
        drop(closed);
        Ok(())
    }

    /// Closes everything but the ports that the builder made.
    pub(crate) fn reset(&self) {
        let mut state = self.state();
        let open: Vec<u32> = state.ports.open().collect();
        let mut closed = Vec::new();
        for port in open {
            closed.extend(state.ports.close(port));
            self.clear(&mut state, port);
        }
        state.fifo = None;
        drop(state);
        drop(closed);
    }

    /// What a port is, if it exists.
    pub(crate) fn status(&self, port: u32) -> Option<(Channel, u32)> {
        let state = self.state();
        let found = state.ports.get(port)?;
        Some((found.channel.clone(), found.vcpu))
    }

    /// Moves a port to another vCPU.
    pub(crate) fn bind_vcpu(&self, port: u32, vcpu: u32) -> Result<(), Errno> {
        self.state().ports.bind_vcpu(port, vcpu)
    }

    /// Sets a port's priority.
    pub(crate) fn set_priority(&self, port: u32, priority: u32) -> Result<(), Errno> {
        let mut state = self.state();
        if state.fifo.is_none() {
            return Err(Errno::ENOSYS);
        }
        let found: &mut Port = state.ports.get_mut(port).ok_or(Errno::EINVAL)?;
        if matches!(found.channel, Channel::Closed) || priority >= event::fifo::PRIORITIES {
            return Err(Errno::EINVAL);
        }
        found.priority = priority as u8;
        Ok(())
    }

    /// Switches `vcpu` to the second form: its control block is at guest-physical address `at`.
    pub(crate) fn init_control(&self, vcpu: u32, at: u64) -> Result<(), Errno> {
        let mut state = self.state();
        let State { ports, fifo } = &mut *state;
        let created = fifo.is_none();
        let form = fifo.get_or_insert_with(Fifo::default);
        form.set_control(&self.ram, vcpu, at)?;
        if created {
            // What was pending in the first form is carried over once there are words for it.
            for port in ports.open() {
                if two_level::is_pending(&self.ram, self.shared_info, port) {
                    form.remember_pending(port);
                }
            }
        }
        Ok(())
    }

    /// Adds the page of event words at guest-physical address `at`; returns the vCPUs that must be told.
    pub(crate) fn expand_array(&self, at: u64, domain: &Domain) -> Result<Vec<u32>, Errno> {
        let mut state = self.state();
        let form = state.fifo.as_mut().ok_or(Errno::ENOSYS)?;
        let carried = form.add_page(at)?;
        let mut told = Vec::new();
        for port in carried {
            let Some((vcpu, priority)) =
                state.ports.get(port).map(|found| (found.vcpu, found.priority))
            else {
                continue;
            };
            told.extend(self.set_pending(&mut state, port, vcpu, priority, domain));
        }
        Ok(told)
    }

    /// Connects a port that waits for the control domain to `receiver`.
    fn connect(&self, port: u32, receiver: Arc<dyn Receiver>) -> Result<(), Errno> {
        let mut state = self.state();
        let found = state.ports.get_mut(port).ok_or(Errno::EINVAL)?;
        match found.channel {
            Channel::Unbound(ambos_xen_abi::DomainId::CONTROL) => {
                found.channel = Channel::Interdomain(Some(receiver));
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn disconnect(&self, port: u32) {
        let mut state = self.state();
        let Some(found) = state.ports.get_mut(port) else { return };
        if let Channel::Interdomain(receiver) = &mut found.channel {
            let gone = receiver.take();
            found.channel = Channel::Unbound(ambos_xen_abi::DomainId::CONTROL);
            drop(state);
            drop(gone);
        }
    }
}

impl Domain {
    /// Makes a port that waits for the control domain, as the domain builder does.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOSPC`] if there is none left.
    pub fn new_port(&self) -> Result<u32, Errno> {
        self.events.allocate(Channel::Unbound(ambos_xen_abi::DomainId::CONTROL), 0)
    }

    /// Connects to a port of the guest's that waits for the control domain.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`] if it does not.
    pub fn connect(&self, port: u32, receiver: Arc<dyn Receiver>) -> Result<(), Errno> {
        self.events.connect(port, receiver)
    }

    /// Ends a connection: the port waits again.
    pub fn disconnect(&self, port: u32) {
        self.events.disconnect(port);
    }

    /// The guest notifies the other end of its port.
    pub(crate) fn send(&self, port: u32) -> Result<(), Errno> {
        let (channel, _) = self.events.status(port).ok_or(Errno::EINVAL)?;
        match channel {
            Channel::Interdomain(Some(receiver)) => receiver.notified(),
            Channel::Interdomain(None) | Channel::Unbound(_) => {}
            Channel::Ipi => self.notify(port),
            Channel::Closed | Channel::Virq(_) => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}
