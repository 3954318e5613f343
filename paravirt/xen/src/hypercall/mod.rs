//! Hypercalls: what is served, and how a call comes in and its result goes out.
//!
//! Each call is a type that implements [`Call`]; [`SERVED`] lists them. A call that is not in the list fails with
//! `ENOSYS` and goes to the list of unserved requests.

mod callback_op;
mod console_io;
mod descriptor;
mod event_channel_op;
mod grant_copy;
mod grant_map;
mod grant_table_op;
mod machine;
mod memory_op;
mod mmu_update;
mod mmuext_op;
mod multicall;
mod physdev_op;
mod sched_op;
mod segment_base;
mod stack_switch;
mod task_switch;
mod timer_op;
mod trap_table;
mod update_va_mapping;
mod vcpu_op;
mod version;
mod vm_assist;
mod xenpmu_op;

use crate::vcpu::{Flow, XenVcpu};
use ambos_intercept::Intercept;
use ambos_vcpu::GuestCpu;
use ambos_x86::gpr::{R8, R9, R10, R11, RAX, RCX, RDI, RDX, RSI};
use ambos_xen_abi::{Errno, Hypercall};

/// Arguments, in order.
pub(crate) type Arguments = [u64; 6];

/// How a call ends that does not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It returns a value.
    Value(u64),
    /// It returns a value, and the vCPU goes on in another way.
    Then(u64, Flow),
    /// It has set the registers itself, the result's as well.
    Returned(Flow),
    /// It is not finished: the guest issues it again with these arguments.
    Again(Arguments),
}

/// What a call returns.
pub(crate) type Outcome = Result<Answer, Errno>;

/// Success without a value.
pub(crate) const DONE: Outcome = Ok(Answer::Value(0));

/// One hypercall.
pub(crate) trait Call {
    /// Its number.
    const NUMBER: Hypercall;

    /// Serves it.
    ///
    /// # Errors
    ///
    /// What Xen returns.
    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome;
}

type Serve = fn(&mut XenVcpu, &mut dyn GuestCpu, Arguments) -> Outcome;

const fn served<C: Call>() -> (Hypercall, Serve) {
    (C::NUMBER, C::serve)
}

/// All calls that are served; `iret` is besides, because it returns nothing.
const SERVED: &[(Hypercall, Serve)] = &[
    served::<trap_table::SetTrapTable>(),
    served::<mmu_update::MmuUpdate>(),
    served::<descriptor::SetGdt>(),
    served::<stack_switch::StackSwitch>(),
    served::<callback_op::SetCallbacks>(),
    served::<task_switch::FpuTaskswitch>(),
    served::<sched_op::SchedOpCompat>(),
    served::<task_switch::SetDebugreg>(),
    served::<task_switch::GetDebugreg>(),
    served::<descriptor::UpdateDescriptor>(),
    served::<memory_op::MemoryOp>(),
    served::<multicall::Multicall>(),
    served::<update_va_mapping::UpdateVaMapping>(),
    served::<timer_op::SetTimerOp>(),
    served::<event_channel_op::EventChannelOpCompat>(),
    served::<version::XenVersion>(),
    served::<console_io::ConsoleIo>(),
    served::<physdev_op::PhysdevOpCompat>(),
    served::<grant_table_op::GrantTableOp>(),
    served::<vm_assist::VmAssist>(),
    served::<update_va_mapping::UpdateVaMappingOtherdomain>(),
    served::<vcpu_op::VcpuOp>(),
    served::<segment_base::SetSegmentBase>(),
    served::<mmuext_op::MmuextOp>(),
    served::<callback_op::NmiOp>(),
    served::<sched_op::SchedOp>(),
    served::<callback_op::CallbackOp>(),
    served::<event_channel_op::EventChannelOp>(),
    served::<physdev_op::PhysdevOp>(),
    served::<xenpmu_op::XenpmuOp>(),
    served::<machine::PlatformOp>(),
    served::<machine::Sysctl>(),
    served::<machine::Domctl>(),
];

/// The table by number.
const TABLE: [Option<Serve>; Hypercall::SLOTS] = {
    let mut table = [None; Hypercall::SLOTS];
    let mut index = 0;
    while index < SERVED.len() {
        table[SERVED[index].0 as usize] = Some(SERVED[index].1);
        index += 1;
    }
    table
};

impl XenVcpu {
    /// Serves the hypercall in the registers, with the instruction pointer after the instruction.
    pub(crate) fn hypercall(&mut self, cpu: &mut dyn GuestCpu) -> Flow {
        let gpr = cpu.gpr();
        let number = gpr[RAX];
        if number == Hypercall::Iret as u64 {
            self.ledger().count(Intercept::Hypercall(Hypercall::Iret as u8));
            return self.iret(cpu);
        }
        let arguments = [gpr[RDI], gpr[RSI], gpr[RDX], gpr[R10], gpr[R8], gpr[R9]];
        // What SYSCALL leaves there.
        let (rip, rflags) = (cpu.rip(), cpu.rflags());
        let gpr = cpu.gpr_mut();
        (gpr[RCX], gpr[R11]) = (rip, rflags);
        let counted = Intercept::Hypercall(number.min(Hypercall::SLOTS as u64 - 1) as u8);
        let ticket = self.ledger().start_often(counted);
        let outcome = self.serve(cpu, number, arguments);
        self.ledger().finish(ticket);
        let (result, flow) = match outcome {
            Ok(Answer::Value(value)) => (value, Flow::Guest),
            Ok(Answer::Then(value, flow)) => (value, flow),
            Ok(Answer::Returned(flow)) => return flow,
            Ok(Answer::Again([rdi, rsi, rdx, r10, r8, r9])) => {
                let gpr = cpu.gpr_mut();
                (gpr[RDI], gpr[RSI], gpr[RDX]) = (rdi, rsi, rdx);
                (gpr[R10], gpr[R8], gpr[R9]) = (r10, r8, r9);
                cpu.set_rip(rip.wrapping_sub(2));
                (number, Flow::Guest)
            }
            Err(error) => (error.result(), Flow::Guest),
        };
        cpu.gpr_mut()[RAX] = result;
        flow
    }

    /// Serves a call by number.
    pub(crate) fn serve(
        &mut self,
        cpu: &mut dyn GuestCpu,
        number: u64,
        arguments: Arguments,
    ) -> Outcome {
        let known = usize::try_from(number).ok().and_then(|number| *TABLE.get(number)?);
        match known {
            Some(serve) => serve(self, cpu, arguments),
            None => {
                let name = Hypercall::from_number(number).map_or_else(
                    || format!("hypercall {number}"),
                    |call| format!("hypercall {}", call.name()),
                );
                self.unserved(cpu, name)
            }
        }
    }

    /// Records what is not served and fails.
    pub(crate) fn unserved(&self, cpu: &dyn GuestCpu, what: String) -> Outcome {
        self.domain.unserved.record(what, cpu.rip(), &[0x0f, 0x05]);
        Err(Errno::ENOSYS)
    }

    /// Whether a long call should let the vCPU look up after `index` of its parts.
    pub(crate) fn should_pause(&self, index: u64) -> bool {
        index > 0 && index.is_multiple_of(32) && !self.shared().attention.pending().is_empty()
    }
}

/// Whether an address is canonical.
fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

#[cfg(test)]
mod grant_tests;
#[cfg(test)]
mod tests;
