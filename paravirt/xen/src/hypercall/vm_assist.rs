//! `vm_assist`: what the guest wants the hypervisor to do for it.

use super::{Arguments, Call, DONE, Outcome};
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::callback::{
    ASSIST_4GB_SEGMENTS, ASSIST_4GB_SEGMENTS_NOTIFY, ASSIST_ARCHITECTURAL_IOPL, ASSIST_DISABLE,
    ASSIST_ENABLE, ASSIST_M2P_STRICT, ASSIST_PAE_EXTENDED_CR3, ASSIST_RUNSTATE_UPDATE_FLAG,
    ASSIST_WRITABLE_PAGETABLES,
};
use ambos_xen_abi::{Errno, Hypercall};
use std::sync::atomic::Ordering;

pub(super) struct VmAssist;

/// What can be asked for. Writes to page tables are emulated in any case.
const KNOWN: u64 = 1 << ASSIST_4GB_SEGMENTS
    | 1 << ASSIST_4GB_SEGMENTS_NOTIFY
    | 1 << ASSIST_WRITABLE_PAGETABLES
    | 1 << ASSIST_PAE_EXTENDED_CR3
    | 1 << ASSIST_ARCHITECTURAL_IOPL
    | 1 << ASSIST_RUNSTATE_UPDATE_FLAG
    | 1 << ASSIST_M2P_STRICT;

impl Call for VmAssist {
    const NUMBER: Hypercall = Hypercall::VmAssist;

    fn serve(vcpu: &mut XenVcpu, _: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [command, kind, ..] = arguments;
        let (command, kind) = (command & 0xffff_ffff, kind & 0xffff_ffff);
        if kind >= 64 || KNOWN & 1 << kind == 0 {
            return Err(Errno::EINVAL);
        }
        let assist = &vcpu.domain.assist;
        match command {
            ASSIST_ENABLE => assist.fetch_or(1 << kind, Ordering::SeqCst),
            ASSIST_DISABLE => assist.fetch_and(!(1 << kind), Ordering::SeqCst),
            _ => return Err(Errno::ENOSYS),
        };
        DONE
    }
}
