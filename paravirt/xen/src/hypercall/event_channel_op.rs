//! `event_channel_op`.

use super::mmu_update::is_self;
use super::{Arguments, Call, DONE, Outcome};
use crate::bytes;
use crate::domain::{Domain, Nothing};
use crate::events::Channel;
use crate::pages::Use;
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::event::{fifo, op, status, virq};
use ambos_xen_abi::{DomainId, Errno, Hypercall};
use std::sync::Arc;

pub(super) struct EventChannelOp;
pub(super) struct EventChannelOpCompat;

impl Call for EventChannelOp {
    const NUMBER: Hypercall = Hypercall::EventChannelOp;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [command, at, ..] = arguments;
        let domain = Arc::clone(&vcpu.domain);
        let number = |cpu: &mut dyn GuestCpu, offset: u64| {
            bytes::read::<4>(cpu, at.wrapping_add(offset)).map(u32::from_le_bytes)
        };
        let answer = |cpu: &mut dyn GuestCpu, offset: u64, value: u32| {
            bytes::write(cpu, at.wrapping_add(offset), &value.to_le_bytes())
        };
        match command & 0xffff_ffff {
            op::SEND => {
                let port = number(cpu, 0)?;
                vcpu.away(cpu, |domain| domain.send(port))?;
            }
            op::BIND_VIRQ => {
                let (which, target) = (number(cpu, 0)?, number(cpu, 4)?);
                if which >= virq::COUNT || !virq::is_per_vcpu(which) && target != 0 {
                    return Err(Errno::EINVAL);
                }
                let port = domain.events.bind_virq(which, target)?;
                answer(cpu, 8, port)?;
            }
            op::BIND_IPI => {
                let target = number(cpu, 0)?;
                let port = domain.events.allocate(Channel::Ipi, target)?;
                answer(cpu, 4, port)?;
            }
            op::ALLOC_UNBOUND => {
                let request = bytes::read::<8>(cpu, at)?;
                let (local, remote) = (bytes::u16_at(&request, 0), bytes::u16_at(&request, 2));
                if !is_self(local.into()) {
                    return Err(Errno::ESRCH);
                }
                let remote = match is_self(remote.into()) {
                    true => Domain::ID,
                    false => DomainId(remote),
                };
                let port = domain.events.allocate(Channel::Unbound(remote), 0)?;
                answer(cpu, 4, port)?;
            }
            op::BIND_INTERDOMAIN => {
                // The control domain makes no ports for the guest to bind to.
                let remote = u16::from_le_bytes(bytes::read::<2>(cpu, at)?);
                let known = remote == DomainId::CONTROL.0 || is_self(remote.into());
                return Err(if known { Errno::EINVAL } else { Errno::ESRCH });
            }
            op::BIND_PIRQ => return Err(Errno::EPERM),
            op::CLOSE => {
                let port = number(cpu, 0)?;
                vcpu.away(cpu, |domain| domain.events.close(port))?;
            }
            op::STATUS => {
                let request = bytes::read::<8>(cpu, at)?;
                if !is_self(bytes::u16_at(&request, 0).into()) {
                    return Err(Errno::ESRCH);
                }
                let found = port_status(&domain, bytes::u32_at(&request, 4))?;
                bytes::write(cpu, at.wrapping_add(8), &found)?;
            }
            op::BIND_VCPU => {
                let (port, target) = (number(cpu, 0)?, number(cpu, 4)?);
                domain.events.bind_vcpu(port, target)?;
            }
            op::UNMASK => {
                let port = number(cpu, 0)?;
                if let Some(told) = domain.events.unmask(port, &domain)? {
                    domain.mark_events_pending(told);
                }
            }
            op::RESET => {
                let which = u16::from_le_bytes(bytes::read::<2>(cpu, at)?);
                if !is_self(which.into()) {
                    return Err(Errno::ESRCH);
                }
                vcpu.away(cpu, |domain| domain.events.reset());
            }
            op::INIT_CONTROL => {
                let request = bytes::read::<16>(cpu, at)?;
                let frame = bytes::u64_at(&request, 0);
                let (offset, target) = (bytes::u32_at(&request, 8), bytes::u32_at(&request, 12));
                if domain.vcpu(target).is_none() {
                    return Err(Errno::ENOENT);
                }
                let fits =
                    u64::from(offset) <= 4096 - fifo::CONTROL_SIZE && offset.is_multiple_of(8);
                if !fits {
                    return Err(Errno::EINVAL);
                }
                hold(&domain, cpu, frame)?;
                let control = (frame << 12) + u64::from(offset);
                domain.events.init_control(target, control).inspect_err(|_| {
                    domain.pages(cpu).give(frame);
                })?;
                answer(cpu, 16, 17)?;
            }
            op::EXPAND_ARRAY => {
                let frame = u64::from_le_bytes(bytes::read::<8>(cpu, at)?);
                hold(&domain, cpu, frame)?;
                let told = domain.events.expand_array(frame << 12, &domain).inspect_err(|_| {
                    domain.pages(cpu).give(frame);
                })?;
                told.into_iter().for_each(|told| domain.mark_events_pending(told));
            }
            op::SET_PRIORITY => {
                let (port, priority) = (number(cpu, 0)?, number(cpu, 4)?);
                domain.events.set_priority(port, priority)?;
            }
            _ => return Err(Errno::ENOSYS),
        }
        DONE
    }
}

/// Keeps a page of the guest that the hypervisor writes to.
fn hold(domain: &Domain, cpu: &mut dyn GuestCpu, frame: u64) -> Result<(), Errno> {
    domain.pages(cpu).take(frame, Use::Writable, &mut Nothing)
}

/// The part of `evtchn_status` that is returned: status, vCPU, and what the state has.
fn port_status(domain: &Domain, port: u32) -> Result<[u8; 16], Errno> {
    let (channel, vcpu) = domain.events.status(port).ok_or(Errno::EINVAL)?;
    let (state, detail) = match channel {
        Channel::Closed => (status::CLOSED, 0),
        Channel::Unbound(remote) => (status::UNBOUND, remote.0.into()),
        Channel::Interdomain(_) => (status::INTERDOMAIN, DomainId::CONTROL.0.into()),
        Channel::Virq(virq) => (status::VIRQ, virq),
        Channel::Ipi => (status::IPI, 0),
    };
    let mut bytes = [0; 16];
    for (chunk, value) in bytes.chunks_exact_mut(4).zip([state, vcpu, detail, port]) {
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    Ok(bytes)
}

impl Call for EventChannelOpCompat {
    const NUMBER: Hypercall = Hypercall::EventChannelOpCompat;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let command = u32::from_le_bytes(bytes::read::<4>(cpu, arguments[0])?);
        let inner = [command.into(), arguments[0].wrapping_add(8), 0, 0, 0, 0];
        EventChannelOp::serve(vcpu, cpu, inner)
    }
}
