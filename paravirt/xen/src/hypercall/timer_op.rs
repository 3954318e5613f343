//! `set_timer_op`: the vCPU's timer, by an instant of system time.

use super::{Arguments, Call, DONE, Outcome};
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::Hypercall;

pub(super) struct SetTimerOp;

impl Call for SetTimerOp {
    const NUMBER: Hypercall = Hypercall::SetTimerOp;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        vcpu.set_timer(cpu, arguments[0]);
        DONE
    }
}

impl XenVcpu {
    /// Arms the vCPU's timer for an instant of system time; zero disarms it.
    pub(super) fn set_timer(&self, cpu: &dyn GuestCpu, deadline: u64) {
        let timer = &self.shared().timers.single_shot;
        if deadline == 0 {
            timer.cancel();
        } else {
            timer.arm_in(deadline.saturating_sub(self.now(cpu)));
        }
    }
}
