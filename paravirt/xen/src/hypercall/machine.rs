//! Calls that only the control domain may make: `platform_op`, `sysctl`, `domctl`.

use super::{Arguments, Call, Outcome};
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::{Errno, Hypercall};

pub(super) struct PlatformOp;
pub(super) struct Sysctl;
pub(super) struct Domctl;

impl Call for PlatformOp {
    const NUMBER: Hypercall = Hypercall::PlatformOp;

    fn serve(_: &mut XenVcpu, _: &mut dyn GuestCpu, _: Arguments) -> Outcome {
        Err(Errno::EPERM)
    }
}

impl Call for Sysctl {
    const NUMBER: Hypercall = Hypercall::Sysctl;

    fn serve(_: &mut XenVcpu, _: &mut dyn GuestCpu, _: Arguments) -> Outcome {
        Err(Errno::EPERM)
    }
}

impl Call for Domctl {
    const NUMBER: Hypercall = Hypercall::Domctl;

    fn serve(_: &mut XenVcpu, _: &mut dyn GuestCpu, _: Arguments) -> Outcome {
        Err(Errno::EPERM)
    }
}
