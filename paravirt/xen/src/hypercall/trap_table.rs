//! `set_trap_table`: the guest's handlers of exceptions and software interrupts.

use super::{Answer, Arguments, Call, DONE, Outcome};
use crate::bytes;
use crate::vcpu::{TrapInfo, XenVcpu};
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::callback::TRAP_INFO_SIZE;
use ambos_xen_abi::{Errno, Hypercall};

pub(super) struct SetTrapTable;

impl Call for SetTrapTable {
    const NUMBER: Hypercall = Hypercall::SetTrapTable;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let mut at = arguments[0];
        if at == 0 {
            vcpu.traps.fill(TrapInfo::default());
            return DONE;
        }
        for index in 0.. {
            if vcpu.should_pause(index) {
                return Ok(Answer::Again([at, 0, 0, 0, 0, 0]));
            }
            let entry = bytes::read::<{ TRAP_INFO_SIZE as usize }>(cpu, at)?;
            let address = bytes::u64_at(&entry, 8);
            if address == 0 {
                break;
            }
            if !super::is_canonical(address) {
                return Err(Errno::EINVAL);
            }
            vcpu.traps[usize::from(entry[0])] =
                TrapInfo { flags: entry[1], selector: bytes::u16_at(&entry, 2) | 3, address };
            at = at.wrapping_add(TRAP_INFO_SIZE);
        }
        DONE
    }
}
