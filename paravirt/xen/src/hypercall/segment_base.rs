//! `set_segment_base`: FS and GS.

use super::{Arguments, Call, DONE, Outcome, is_canonical};
use crate::vcpu::XenVcpu;
use ambos_vcpu::{GuestCpu, Segment, SegmentName};
use ambos_x86::segment::attr;
use ambos_xen_abi::segment::base;
use ambos_xen_abi::{Errno, Hypercall};

pub(super) struct SetSegmentBase;

impl Call for SetSegmentBase {
    const NUMBER: Hypercall = Hypercall::SetSegmentBase;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [which, value, ..] = arguments;
        let which = which & 0xffff_ffff;
        if which <= base::GS_KERNEL && !is_canonical(value) {
            return Err(Errno::EINVAL);
        }
        match which {
            base::FS => cpu.set_base(SegmentName::Fs, value),
            base::GS_USER => vcpu.other_gs_base = value,
            base::GS_KERNEL => cpu.set_base(SegmentName::Gs, value),
            base::GS_USER_SELECTOR => {
                let selector = value as u16;
                let kernel_base = cpu.segment(SegmentName::Gs).base;
                let mut segment = Segment {
                    selector,
                    attributes: attr::UNUSABLE | 3 << attr::DPL_SHIFT,
                    ..Segment::default()
                };
                if selector & 0xfffc != 0 {
                    segment = vcpu.data_segment(cpu, selector | 3).ok_or(Errno::EFAULT)?;
                    segment.selector = selector;
                }
                vcpu.other_gs_base = segment.base;
                cpu.set_segment(SegmentName::Gs, Segment { base: kernel_base, ..segment });
            }
            _ => return Err(Errno::EINVAL),
        }
        DONE
    }
}
