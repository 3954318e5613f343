//! `sched_op`: yielding, sleeping, ending.

use super::{Answer, Arguments, Call, DONE, Outcome};
use crate::bytes;
use crate::vcpu::{Flow, XenVcpu};
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::sched::{
    BLOCK, MAX_POLL_PORTS, PIN_OVERRIDE, POLL, REMOTE_SHUTDOWN, SHUTDOWN, SHUTDOWN_CODE, WATCHDOG,
    YIELD, reason,
};
use ambos_xen_abi::vcpu::runstate;
use ambos_xen_abi::{Errno, Hypercall};
use std::sync::atomic::Ordering;

pub(super) struct SchedOp;
pub(super) struct SchedOpCompat;

/// What a guest that suspends itself finds when it goes on where it was, because nobody saved it meanwhile.
const SUSPENSION_CANCELLED: u64 = 1;

impl XenVcpu {
    fn shut_down(&mut self, cpu: &mut dyn GuestCpu, why: u32) -> Outcome {
        if why > reason::SOFT_RESET {
            return Err(Errno::EINVAL);
        }
        if why == reason::SUSPEND {
            return Ok(Answer::Value(SUSPENSION_CANCELLED));
        }
        self.dead = true;
        self.away(cpu, |domain| domain.host.shutdown(why));
        Ok(Answer::Then(0, Flow::Sleep))
    }

    fn yield_processor(&mut self, cpu: &mut dyn GuestCpu) -> Outcome {
        self.away(cpu, |_| std::thread::yield_now());
        DONE
    }

    fn block_call(&mut self, cpu: &mut dyn GuestCpu) -> Outcome {
        Ok(match self.block(cpu) {
            Flow::Guest => Answer::Value(0),
            flow => Answer::Then(0, flow),
        })
    }

    fn poll(&mut self, cpu: &mut dyn GuestCpu, at: u64) -> Outcome {
        let request = bytes::read::<24>(cpu, at)?;
        let (list, count) = (bytes::u64_at(&request, 0), bytes::u32_at(&request, 8));
        let deadline = bytes::u64_at(&request, 16);
        if count > MAX_POLL_PORTS {
            return Err(Errno::EINVAL);
        }
        let mut ports = vec![0; count as usize * 4];
        bytes::read_into(cpu, list, &mut ports)?;
        // Said first: whoever raises a port after we looked wakes us.
        self.shared().polling.store(true, Ordering::SeqCst);
        let mut pending = self.event_pending() && !self.events_masked();
        for port in ports.chunks_exact(4).map(|chunk| bytes::u32_at(chunk, 0)) {
            if self.domain.events.status(port).is_none() {
                self.shared().polling.store(false, Ordering::SeqCst);
                return Err(Errno::EINVAL);
            }
            pending |= self.domain.events.is_pending(port);
        }
        let now = self.now(cpu);
        if pending || deadline != 0 && deadline <= now {
            self.shared().polling.store(false, Ordering::SeqCst);
            return DONE;
        }
        if deadline != 0 {
            self.shared().timers.poll.arm_in(deadline - now);
        }
        self.enter_run_state(cpu, runstate::BLOCKED);
        Ok(Answer::Then(0, Flow::Sleep))
    }
}

impl Call for SchedOp {
    const NUMBER: Hypercall = Hypercall::SchedOp;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [command, at, ..] = arguments;
        match command & 0xffff_ffff {
            YIELD => vcpu.yield_processor(cpu),
            BLOCK => vcpu.block_call(cpu),
            SHUTDOWN => {
                let why = u32::from_le_bytes(bytes::read::<4>(cpu, at)?);
                vcpu.shut_down(cpu, why)
            }
            SHUTDOWN_CODE => {
                let why = u32::from_le_bytes(bytes::read::<4>(cpu, at)?);
                vcpu.domain.shutdown_code.store(why, Ordering::SeqCst);
                DONE
            }
            POLL => vcpu.poll(cpu, at),
            REMOTE_SHUTDOWN => {
                let domain = bytes::read::<8>(cpu, at)?;
                let own = super::mmu_update::is_self(bytes::u16_at(&domain, 0).into());
                Err(if own { Errno::EPERM } else { Errno::ESRCH })
            }
            WATCHDOG => {
                let call = "hypercall sched_op watchdog".to_owned();
                vcpu.unserved(cpu, call)
            }
            PIN_OVERRIDE => Err(Errno::EPERM),
            _ => Err(Errno::ENOSYS),
        }
    }
}

impl Call for SchedOpCompat {
    const NUMBER: Hypercall = Hypercall::SchedOpCompat;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [command, argument, ..] = arguments;
        match command & 0xffff_ffff {
            YIELD => vcpu.yield_processor(cpu),
            BLOCK => vcpu.block_call(cpu),
            SHUTDOWN => vcpu.shut_down(cpu, argument as u32),
            _ => Err(Errno::ENOSYS),
        }
    }
}
