//! `update_va_mapping`: one level-1 entry, named by the linear address that it maps.

use super::mmu_update::is_self;
use super::{Arguments, Call, DONE, Outcome};
use crate::domain::Shootdown;
use crate::pages::Use;
use crate::pages::update::Mode;
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::mmu::va;
use ambos_xen_abi::{Errno, Hypercall};

pub(super) struct UpdateVaMapping;
pub(super) struct UpdateVaMappingOtherdomain;

impl Call for UpdateVaMapping {
    const NUMBER: Hypercall = Hypercall::UpdateVaMapping;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [linear, value, flags, ..] = arguments;
        let domain = std::sync::Arc::clone(&vcpu.domain);
        {
            let mut pages = domain.pages(cpu);
            let at = pages.leaf_address(vcpu.kernel_root, linear).ok_or(Errno::EINVAL)?;
            let found = *pages.frame(at >> 12).ok_or(Errno::EINVAL)?;
            if found.usage != Use::Table(1) || found.uses == 0 {
                return Err(Errno::EINVAL);
            }
            let mut forget = Shootdown { domain: &domain, own: vcpu.id, cpu: &mut *cpu };
            pages.update_entry(at, value, 1, Mode::Set, &mut forget)?;
        }
        let target = flags & !va::TYPE_MASK;
        let vcpus = match target {
            va::LOCAL => None,
            va::ALL => Some(u64::MAX),
            bitmap => match flags & va::TYPE_MASK {
                va::NONE => None,
                _ => Some(vcpu.vcpu_mask(cpu, bitmap)?),
            },
        };
        match flags & va::TYPE_MASK {
            va::TLB_FLUSH => vcpu.flush(cpu, None, vcpus),
            va::INVLPG => vcpu.flush(cpu, Some(linear), vcpus),
            _ => {}
        }
        DONE
    }
}

impl Call for UpdateVaMappingOtherdomain {
    const NUMBER: Hypercall = Hypercall::UpdateVaMappingOtherdomain;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        if !is_self(arguments[3]) {
            return Err(Errno::ESRCH);
        }
        UpdateVaMapping::serve(vcpu, cpu, arguments)
    }
}
