//! `set_gdt` and `update_descriptor`.

use super::{Arguments, Call, DONE, Outcome};
use crate::bytes;
use crate::descriptor;
use crate::domain::Shootdown;
use crate::pages::Use;
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::segment::FIRST_RESERVED_GDT_ENTRY;
use ambos_xen_abi::{Errno, Hypercall};

pub(super) struct SetGdt;
pub(super) struct UpdateDescriptor;

impl Call for SetGdt {
    const NUMBER: Hypercall = Hypercall::SetGdt;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [list, entries, ..] = arguments;
        let entries = entries & 0xffff_ffff;
        if entries > FIRST_RESERVED_GDT_ENTRY as u64 {
            return Err(Errno::EINVAL);
        }
        let mut frames = Vec::new();
        for index in 0..entries.div_ceil(512) {
            let at = list.wrapping_add(index * 8);
            frames.push(u64::from_le_bytes(bytes::read::<8>(cpu, at)?));
        }
        vcpu.set_gdt(cpu, &frames, entries)?;
        DONE
    }
}

impl Call for UpdateDescriptor {
    const NUMBER: Hypercall = Hypercall::UpdateDescriptor;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [at, value, ..] = arguments;
        let checked = descriptor::checked(value).filter(|_| at.is_multiple_of(8));
        let checked = checked.ok_or(Errno::EINVAL)?;
        let domain = std::sync::Arc::clone(&vcpu.domain);
        let mut pages = domain.pages(cpu);
        let frame = at >> 12;
        let usage = match pages.frame(frame).ok_or(Errno::EINVAL)?.usage {
            Use::Descriptors => Use::Descriptors,
            _ => Use::Writable,
        };
        let mut forget = Shootdown { domain: &domain, own: vcpu.id, cpu: &mut *cpu };
        pages.take(frame, usage, &mut forget)?;
        domain.ram.store_word(at, checked);
        pages.give(frame);
        DONE
    }
}
