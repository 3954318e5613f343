//! `xenpmu_op`: performance counters, of which there are none.

use super::{Arguments, Call, Outcome};
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::{Errno, Hypercall};

pub(super) struct XenpmuOp;

impl Call for XenpmuOp {
    const NUMBER: Hypercall = Hypercall::XenpmuOp;

    fn serve(_: &mut XenVcpu, _: &mut dyn GuestCpu, _: Arguments) -> Outcome {
        Err(Errno::EOPNOTSUPP)
    }
}
