//! Which ports there are and what they are bound to.

use super::Receiver;
use ambos_xen_abi::event::{fifo, virq};
use ambos_xen_abi::{DomainId, Errno};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a port is bound to.
#[derive(Clone)]
pub(crate) enum Channel {
    /// Nothing.
    Closed,
    /// It waits for this domain.
    Unbound(DomainId),
    /// The control domain.
    Interdomain(Option<Arc<dyn Receiver>>),
    /// A virtual interrupt.
    Virq(u32),
    /// It signals a vCPU.
    Ipi,
}

/// One port.
#[derive(Clone)]
pub(crate) struct Port {
    pub(crate) channel: Channel,
    /// The vCPU that is told.
    pub(crate) vcpu: u32,
    pub(crate) priority: u8,
}

impl Port {
    const CLOSED: Self =
        Self { channel: Channel::Closed, vcpu: 0, priority: fifo::DEFAULT_PRIORITY as u8 };
}

/// All ports, by number; port 0 is none.
pub(crate) struct Ports {
    vcpus: u32,
    ports: Vec<Port>,
    /// Closed ports below the end of `ports`.
    closed: Vec<u32>,
    /// Ports of virtual interrupts, by vCPU and interrupt.
    virqs: BTreeMap<(u32, u32), u32>,
}

impl Ports {
    pub(crate) fn new(vcpus: u32) -> Self {
        Self { vcpus, ports: vec![Port::CLOSED], closed: Vec::new(), virqs: BTreeMap::new() }
    }

    pub(crate) fn get(&self, port: u32) -> Option<&Port> {
        self.ports.get(port as usize).filter(|_| port != 0)
    }

    pub(crate) fn get_mut(&mut self, port: u32) -> Option<&mut Port> {
        self.ports.get_mut(port as usize).filter(|_| port != 0)
    }

    pub(crate) fn open(&self) -> impl Iterator<Item = u32> + '_ {
        let open = |port: &Port| !matches!(port.channel, Channel::Closed);
        (0..).zip(&self.ports).filter(move |(_, port)| open(port)).map(|(number, _)| number)
    }

    pub(crate) fn allocate(
        &mut self,
        channel: Channel,
        vcpu: u32,
        limit: u32,
    ) -> Result<u32, Errno> {
        if vcpu >= self.vcpus {
            return Err(Errno::ENOENT);
        }
        let virq = if let Channel::Virq(virq) = channel { Some(virq) } else { None };
        let made = Port { channel, vcpu, ..Port::CLOSED };
        // The lowest number first, as Xen does: guests print them.
        let lowest = self.closed.iter().enumerate().min_by_key(|(_, port)| **port);
        let port = match lowest.map(|(index, _)| index) {
            Some(index) => {
                let port = self.closed.swap_remove(index);
                self.ports[port as usize] = made;
                port
            }
            None if (self.ports.len() as u32) < limit => {
                self.ports.push(made);
                self.ports.len() as u32 - 1
            }
            None => return Err(Errno::ENOSPC),
        };
        if let Some(virq) = virq {
            self.virqs.insert((vcpu, virq), port);
        }
        Ok(port)
    }

    /// Closes a port and returns what it was bound to.
    pub(crate) fn close(&mut self, port: u32) -> Result<Channel, Errno> {
        let found = self.get_mut(port).ok_or(Errno::EINVAL)?;
        let closed = std::mem::replace(found, Port::CLOSED);
        match closed.channel {
            Channel::Closed => return Err(Errno::EINVAL),
            Channel::Virq(_) => self.virqs.retain(|_, bound| *bound != port),
            _ => {}
        }
        self.closed.push(port);
        Ok(closed.channel)
    }

    pub(crate) fn of_virq(&self, vcpu: Option<u32>, virq: u32) -> Option<u32> {
        match vcpu {
            Some(vcpu) => self.virqs.get(&(vcpu, virq)).copied(),
            None => self.virqs.iter().find(|((_, found), _)| *found == virq).map(|(_, port)| *port),
        }
    }

    pub(crate) fn bind_vcpu(&mut self, port: u32, vcpu: u32) -> Result<(), Errno> {
        if vcpu >= self.vcpus {
            return Err(Errno::ENOENT);
        }
        let found = self.get_mut(port).ok_or(Errno::EINVAL)?;
        match found.channel {
            Channel::Virq(virq) if virq::is_per_vcpu(virq) => return Err(Errno::EINVAL),
            Channel::Closed | Channel::Ipi => return Err(Errno::EINVAL),
            _ => found.vcpu = vcpu,
        }
        Ok(())
    }
}
