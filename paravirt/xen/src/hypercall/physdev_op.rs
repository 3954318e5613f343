//! `physdev_op`: physical devices, of which there are none, and the I/O privilege level.

use super::{Arguments, Call, DONE, Outcome};
use crate::bytes;
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::physdev::{
    APIC_READ, APIC_WRITE, EOI, IRQ_STATUS_QUERY, IRQ_UNMASK_NOTIFY, MAX_IO_PORTS,
    PIRQ_EOI_GMFN_V1, PIRQ_EOI_GMFN_V2, SET_IOBITMAP, SET_IOPL,
};
use ambos_xen_abi::{Errno, Hypercall};

pub(super) struct PhysdevOp;
pub(super) struct PhysdevOpCompat;

impl Call for PhysdevOp {
    const NUMBER: Hypercall = Hypercall::PhysdevOp;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [command, at, ..] = arguments;
        match command & 0xffff_ffff {
            SET_IOPL => {
                let level = u32::from_le_bytes(bytes::read::<4>(cpu, at)?);
                if level > 3 {
                    return Err(Errno::EINVAL);
                }
                vcpu.iopl = u64::from(level) << 12;
            }
            SET_IOBITMAP => {
                let request = bytes::read::<16>(cpu, at)?;
                let (bitmap, ports) = (bytes::u64_at(&request, 0), bytes::u32_at(&request, 8));
                let bytes = u64::from(ports.div_ceil(8));
                if ports > MAX_IO_PORTS || !bytes::is_guest_range(bitmap, bytes) {
                    return Err(Errno::EINVAL);
                }
                vcpu.io_bitmap = (bitmap, ports);
            }
            // There are no physical interrupts.
            EOI | IRQ_UNMASK_NOTIFY | IRQ_STATUS_QUERY => return Err(Errno::EINVAL),
            APIC_READ | APIC_WRITE => return Err(Errno::EPERM),
            PIRQ_EOI_GMFN_V1 | PIRQ_EOI_GMFN_V2 => return Err(Errno::ENOSYS),
            _ => return Err(Errno::ENOSYS),
        }
        DONE
    }
}

impl Call for PhysdevOpCompat {
    const NUMBER: Hypercall = Hypercall::PhysdevOpCompat;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let command = u32::from_le_bytes(bytes::read::<4>(cpu, arguments[0])?);
        let inner = [command.into(), arguments[0].wrapping_add(8), 0, 0, 0, 0];
        PhysdevOp::serve(vcpu, cpu, inner)
    }
}
