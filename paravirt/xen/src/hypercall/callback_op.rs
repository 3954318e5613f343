//! `callback_op`, and the older calls that do parts of it: `set_callbacks`, `nmi_op`.

use super::{Arguments, Call, DONE, Outcome, is_canonical};
use crate::bytes;
use crate::vcpu::{Callback, TrapInfo, XenVcpu};
use ambos_vcpu::{GuestCpu, Request};
use ambos_xen_abi::callback::{
    MASK_EVENTS, NMI_REGISTER, NMI_UNREGISTER, REGISTER, TRAP_MASKS_EVENTS, UNREGISTER, kind,
};
use ambos_xen_abi::{Errno, Hypercall};
use std::sync::atomic::Ordering;

pub(super) struct CallbackOp;
pub(super) struct SetCallbacks;
pub(super) struct NmiOp;

/// Vector of the NMI.
const NMI: usize = 2;

impl XenVcpu {
    fn register(&mut self, which: u16, flags: u16, address: u64) -> Result<(), Errno> {
        if !is_canonical(address) {
            return Err(Errno::EINVAL);
        }
        let callback = Callback { address, masks_events: flags & MASK_EVENTS != 0 };
        match which {
            kind::EVENT => self.callbacks.event = address,
            kind::FAILSAFE => self.callbacks.failsafe = callback,
            kind::SYSCALL => self.callbacks.syscall = callback,
            kind::SYSCALL32 => self.callbacks.syscall32 = callback,
            kind::SYSENTER => self.callbacks.sysenter = callback,
            kind::NMI => {
                let selector = ambos_xen_abi::segment::FLAT_RING3_CS64;
                self.traps[NMI] = TrapInfo { flags: TRAP_MASKS_EVENTS, selector, address };
                if self.shared().nmi.load(Ordering::SeqCst) {
                    self.shared().attention.raise(Request::INTERRUPT);
                }
            }
            _ => return Err(Errno::ENOSYS),
        }
        Ok(())
    }
}

impl Call for CallbackOp {
    const NUMBER: Hypercall = Hypercall::CallbackOp;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [command, at, ..] = arguments;
        match command {
            REGISTER => {
                let request = bytes::read::<16>(cpu, at)?;
                let (which, flags) = (bytes::u16_at(&request, 0), bytes::u16_at(&request, 2));
                vcpu.register(which, flags, bytes::u64_at(&request, 8))?;
            }
            UNREGISTER => {
                let which = u16::from_le_bytes(bytes::read::<2>(cpu, at)?);
                match which {
                    kind::NMI => vcpu.traps[NMI] = TrapInfo::default(),
                    kind::EVENT
                    | kind::FAILSAFE
                    | kind::SYSCALL
                    | kind::SYSCALL32
                    | kind::SYSENTER => return Err(Errno::EINVAL),
                    _ => return Err(Errno::ENOSYS),
                }
            }
            _ => return Err(Errno::ENOSYS),
        }
        DONE
    }
}

impl Call for SetCallbacks {
    const NUMBER: Hypercall = Hypercall::SetCallbacks;

    fn serve(vcpu: &mut XenVcpu, _: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [event, failsafe, syscall, ..] = arguments;
        let failsafe_flags = u16::from(vcpu.callbacks.failsafe.masks_events);
        let syscall_flags = u16::from(vcpu.callbacks.syscall.masks_events);
        // Each is registered for itself: a bad one does not keep the others from it.
        let _ = vcpu.register(kind::EVENT, 0, event);
        let _ = vcpu.register(kind::FAILSAFE, failsafe_flags, failsafe);
        let _ = vcpu.register(kind::SYSCALL, syscall_flags, syscall);
        DONE
    }
}

impl Call for NmiOp {
    const NUMBER: Hypercall = Hypercall::NmiOp;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [command, at, ..] = arguments;
        match command {
            NMI_REGISTER => {
                let address = u64::from_le_bytes(bytes::read::<8>(cpu, at)?);
                vcpu.register(kind::NMI, 0, address)?;
            }
            NMI_UNREGISTER => vcpu.traps[NMI] = TrapInfo::default(),
            _ => return Err(Errno::ENOSYS),
        }
        DONE
    }
}
