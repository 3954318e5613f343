//! Memory operands that are not, or only partly, accessible.
//!
//! Which exception an instruction raises then is for the processor to say: a pending x87 exception
//! or a misaligned operand comes before a page fault, and an instruction under a mask does not fault
//! for elements that the mask leaves out. So the instruction runs on the host with its operand on a
//! [stage](ambos_hostcode::stage) that is inaccessible in the same places.

use super::{MAX_OPERAND, MemoryUse, Thunk};
use crate::cpu::Cpu;
use crate::exit::{Exit, Fault, Step};
use crate::op::Op;
use ambos_hostcode::stage::Accessible;
use ambos_hostcode::{HostFault, mem};
use ambos_vcpu::Platform;

/// Runs a thunk whose operand has no legal or an unaligned address; touching it raises `fault`.
pub(super) fn inaccessible(cpu: &mut Cpu, op: &Op, thunk: &Thunk, fault: Fault) -> Step {
    let offset = (op.effective_address(cpu) & 0xfff) as usize;
    let operand = cpu.thunks.stage.place(offset, Accessible::Nothing, false);
    match cpu.execute(op, thunk, operand) {
        // A mask has left out everything.
        Ok(()) => Ok(()),
        Err(HostFault::Memory { .. }) => Err(fault.into()),
        Err(other) => Err(cpu.host_fault(other).into()),
    }
}

/// Runs a thunk with an operand at `linear` of which at least one page is inaccessible. `fault` is
/// what trying to access all of it raised.
pub(super) fn run(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
    thunk: &Thunk,
    memory: MemoryUse,
    linear: u64,
    fault: Fault,
) -> Step {
    let size = memory.size.min(MAX_OPERAND);
    let first = size.min(0x1000 - (linear & 0xfff) as usize);
    let second = linear.wrapping_add(first as u64);
    let first_fault = probe(cpu, platform, linear, memory.write)?;
    let second_fault =
        if first < size { probe(cpu, platform, second, memory.write)? } else { first_fault };
    let accessible = match (first_fault, second_fault) {
        (None, Some(_)) => Accessible::First,
        (Some(_), None) => Accessible::Second,
        (Some(_), Some(_)) => Accessible::Nothing,
        // Not the page's fault, or another vCPU has changed the page tables meanwhile.
        (None, None) => return Err(fault.into()),
    };
    // Masked stores differ between what cannot be accessed and what cannot be written.
    let guilty_page = if first_fault.is_some() { linear } else { second };
    let readable = memory.write && probe(cpu, platform, guilty_page, false)?.is_none();
    let operand = cpu.thunks.stage.place((linear & 0xfff) as usize, accessible, readable);
    let (at, start, length) = match accessible {
        Accessible::First => (linear, operand, first),
        Accessible::Second => (second, operand + first, size - first),
        Accessible::Nothing => (linear, operand, 0),
    };
    let mut bytes = [0; MAX_OPERAND];
    let part = &mut bytes[..length];
    cpu.load_bytes(platform, at, part)?;
    #[expect(unsafe_code, reason = "the stage is raw memory")]
    // SAFETY: the part lies in the accessible page of the stage.
    unsafe {
        mem::copy_to(start, part);
    }
    match cpu.execute(op, thunk, operand) {
        Ok(()) => {
            if memory.write && !part.is_empty() {
                #[expect(unsafe_code, reason = "the stage is raw memory")]
                // SAFETY: as above.
                unsafe {
                    mem::copy_from(start, part);
                }
                cpu.store_bytes(platform, at, part)?;
            }
            Ok(())
        }
        Err(HostFault::Memory { address }) => {
            let offset = address.wrapping_sub(operand);
            let guilty = if offset < first { first_fault } else { second_fault };
            if offset < size {
                cpu.fault_address = linear.wrapping_add(offset as u64);
            }
            Err(guilty.unwrap_or(fault).into())
        }
        Err(other) => Err(cpu.host_fault(other).into()),
    }
}

/// The fault that accessing the byte at `linear` raises, if any.
fn probe(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    linear: u64,
    write: bool,
) -> Result<Option<Fault>, Exit> {
    match cpu.probe(platform, linear, write) {
        Ok(()) => Ok(None),
        Err(Exit::Fault(fault)) => Ok(Some(fault)),
        Err(exit) => Err(exit),
    }
}
