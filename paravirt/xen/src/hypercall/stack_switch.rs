//! `stack_switch`: the stack that the guest's kernel is entered on.

use super::{Arguments, Call, DONE, Outcome};
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::Hypercall;

pub(super) struct StackSwitch;

impl Call for StackSwitch {
    const NUMBER: Hypercall = Hypercall::StackSwitch;

    fn serve(vcpu: &mut XenVcpu, _: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        vcpu.kernel_stack = (arguments[0] as u16 | 3, arguments[1]);
        DONE
    }
}
