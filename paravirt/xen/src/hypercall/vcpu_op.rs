//! `vcpu_op`: vCPUs up and down, their information, timers and run states.

use super::{Answer, Arguments, Call, DONE, Outcome};
use crate::bytes;
use crate::domain::{Nothing, legacy_info, lock};
use crate::pages::Use;
use crate::vcpu::{Flow, XenVcpu};
use ambos_vcpu::{GuestCpu, Request};
use ambos_xen_abi::vcpu::{MIN_PERIOD, SINGLESHOT_FUTURE, context, op, runstate};
use ambos_xen_abi::{Errno, Hypercall, shared_info};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) struct VcpuOp;

impl Call for VcpuOp {
    const NUMBER: Hypercall = Hypercall::VcpuOp;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [command, id, at, ..] = arguments;
        let command = command & 0xffff_ffff;
        let id = (id & 0xffff_ffff) as u32;
        let domain = Arc::clone(&vcpu.domain);
        let target = domain.vcpu(id).ok_or(Errno::ENOENT)?;
        let own = id == vcpu.id;
        match command {
            op::INITIALISE => {
                let mut state = vec![0; context::SIZE];
                bytes::read_into(cpu, at, &mut state)?;
                if target.up.load(Ordering::SeqCst) || target.initialised.load(Ordering::SeqCst) {
                    return Err(Errno::EEXIST);
                }
                *lock(&target.context) = Some(state);
                target.initialised.store(true, Ordering::SeqCst);
            }
            op::UP => {
                if !target.initialised.load(Ordering::SeqCst) {
                    return Err(Errno::EINVAL);
                }
                if !target.up.swap(true, Ordering::SeqCst) {
                    let now = vcpu.now(cpu);
                    lock(&target.run_states).enter(runstate::RUNNABLE, now);
                    // Taken whether or not its thread has come to wait for it.
                    target.attention.raise(Request::INIT);
                    target.attention.start_up(0);
                }
            }
            op::DOWN => {
                target.up.store(false, Ordering::SeqCst);
                if own {
                    vcpu.enter_run_state(cpu, runstate::OFFLINE);
                    return Ok(Answer::Then(0, Flow::Down));
                }
                target.attention.raise(Request::INIT);
            }
            op::IS_UP => return Ok(Answer::Value(target.up.load(Ordering::SeqCst).into())),
            op::GET_RUNSTATE_INFO => {
                let info = lock(&target.run_states).info(vcpu.now(cpu));
                bytes::write(cpu, at, &info)?;
            }
            op::REGISTER_RUNSTATE_MEMORY_AREA => {
                let area = u64::from_le_bytes(bytes::read::<8>(cpu, at)?);
                if area != 0 {
                    let info = lock(&target.run_states).info(vcpu.now(cpu));
                    bytes::write(cpu, area, &info)?;
                }
                // Another vCPU's area is written once: only its own knows where it is from then on.
                if own {
                    vcpu.run_state_area = (area != 0).then_some(area);
                }
            }
            op::SET_PERIODIC_TIMER => {
                let period = u64::from_le_bytes(bytes::read::<8>(cpu, at)?);
                if period < MIN_PERIOD || period > i64::MAX as u64 {
                    return Err(Errno::EINVAL);
                }
                target.timers.periodic.repeat(period);
            }
            op::STOP_PERIODIC_TIMER => target.timers.periodic.cancel(),
            op::SET_SINGLESHOT_TIMER => {
                if !own {
                    return Err(Errno::EINVAL);
                }
                let request = bytes::read::<16>(cpu, at)?;
                let (deadline, flags) = (bytes::u64_at(&request, 0), bytes::u32_at(&request, 8));
                if flags & SINGLESHOT_FUTURE != 0 && deadline < vcpu.now(cpu) {
                    return Err(Errno::ETIME);
                }
                vcpu.set_timer(cpu, deadline.max(1));
            }
            op::STOP_SINGLESHOT_TIMER => {
                if !own {
                    return Err(Errno::EINVAL);
                }
                target.timers.single_shot.cancel();
            }
            op::REGISTER_VCPU_INFO => {
                let request = bytes::read::<16>(cpu, at)?;
                let (frame, offset) = (bytes::u64_at(&request, 0), bytes::u32_at(&request, 8));
                vcpu.register_info(cpu, id, frame, offset)?;
            }
            op::SEND_NMI => {
                target.nmi.store(true, Ordering::SeqCst);
                target.attention.raise(Request::NMI);
            }
            op::GET_PHYSID => return Err(Errno::EINVAL),
            op::REGISTER_VCPU_TIME_MEMORY_AREA => {
                let area = u64::from_le_bytes(bytes::read::<8>(cpu, at)?);
                // What stands there never changes, so there is nothing to remember of the area; none at all is
                // how a guest takes it back.
                if area != 0 {
                    bytes::write(cpu, area, &domain.time.info())?;
                }
            }
            _ => return Err(Errno::ENOSYS),
        }
        DONE
    }
}

impl XenVcpu {
    /// Moves a vCPU's information to a page of the guest.
    fn register_info(
        &self,
        cpu: &mut dyn GuestCpu,
        id: u32,
        frame: u64,
        offset: u32,
    ) -> Result<(), Errno> {
        let domain = &self.domain;
        let target = domain.vcpu(id).ok_or(Errno::ENOENT)?;
        let old = target.info.load(Ordering::SeqCst);
        if u64::from(offset) > 4096 - shared_info::vcpu::SIZE || !offset.is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        if old != legacy_info(&domain.layout, id) {
            return Err(Errno::EINVAL);
        }
        domain.pages(cpu).take(frame, Use::Writable, &mut Nothing)?;
        let new = (frame << 12) + u64::from(offset);
        if id < shared_info::LEGACY_VCPUS {
            for word in (0..shared_info::vcpu::SIZE).step_by(8) {
                domain.ram.store_word(new + word, domain.ram.load_word(old + word));
            }
        } else {
            domain.time.write_info(&domain.ram, new + shared_info::vcpu::TIME);
            domain.set_byte(new + shared_info::vcpu::UPCALL_MASK, 1);
        }
        target.info.store(new, Ordering::SeqCst);
        // What was raised meanwhile may have gone to the old place: the guest looks at everything.
        domain.ram.store_word(new + shared_info::vcpu::PENDING_SELECTOR, u64::MAX);
        domain.mark_events_pending(id);
        Ok(())
    }
}
