//! What a kernel does between two tasks: `fpu_taskswitch`, `set_debugreg`, `get_debugreg`.

use super::{Answer, Arguments, Call, DONE, Outcome};
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::Hypercall;

pub(super) struct FpuTaskswitch;
pub(super) struct SetDebugreg;
pub(super) struct GetDebugreg;

impl Call for FpuTaskswitch {
    const NUMBER: Hypercall = Hypercall::FpuTaskswitch;

    fn serve(_: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        XenVcpu::set_task_switched(cpu, arguments[0] as u32 != 0);
        DONE
    }
}

impl Call for SetDebugreg {
    const NUMBER: Hypercall = Hypercall::SetDebugreg;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        vcpu.set_debug_register(cpu, arguments[0] & 0xffff_ffff, arguments[1])?;
        DONE
    }
}

impl Call for GetDebugreg {
    const NUMBER: Hypercall = Hypercall::GetDebugreg;

    fn serve(_: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        Ok(Answer::Value(XenVcpu::debug_register(cpu, arguments[0] & 0xffff_ffff)?))
    }
}
