//! `multicall`: several calls at once.

use super::{Answer, Arguments, Call, Outcome};
use crate::bytes;
use crate::vcpu::{Flow, XenVcpu};
use ambos_intercept::Intercept;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::{Errno, Hypercall};

pub(super) struct Multicall;

/// Bytes of an entry: call, result, six arguments.
const ENTRY: u64 = 64;
const RESULT: u64 = 8;
const ARGUMENTS: u64 = 16;

impl Call for Multicall {
    const NUMBER: Hypercall = Hypercall::Multicall;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [entries, count, ..] = arguments;
        let count = count & 0xffff_ffff;
        let mut flow = Flow::Guest;
        let mut entry = [0; ENTRY as usize];
        for index in 0..count {
            let at = entries.wrapping_add(index * ENTRY);
            if vcpu.should_pause(index) {
                return Ok(Answer::Again([at, count - index, 0, 0, 0, 0]));
            }
            bytes::read_into(cpu, at, &mut entry)?;
            let number = bytes::u64_at(&entry, 0);
            let arguments = std::array::from_fn(|argument| {
                bytes::u64_at(&entry, ARGUMENTS as usize + argument * 8)
            });
            if number == Hypercall::Iret as u64 {
                // It ends the list: what follows would run in the mode that it returns to.
                vcpu.ledger().count(Intercept::Hypercall(Hypercall::Iret as u8));
                return Ok(Answer::Returned(vcpu.iret(cpu)));
            }
            let outcome = if number == Hypercall::Multicall as u64 {
                Err(Errno::ENOSYS)
            } else {
                let row = number.min(Hypercall::SLOTS as u64 - 1) as u8;
                vcpu.ledger().count(Intercept::Hypercall(row));
                vcpu.serve(cpu, number, arguments)
            };
            let result = match outcome {
                Ok(Answer::Value(value)) => value,
                // Only `iret` does, which was dealt with.
                Ok(Answer::Returned(next)) => return Ok(Answer::Returned(next)),
                Ok(Answer::Then(value, next)) => {
                    flow = next;
                    value
                }
                Ok(Answer::Again(left)) => {
                    // The entry says what is left of it; the rest of the list follows.
                    let left: Vec<u8> = left.iter().flat_map(|word| word.to_le_bytes()).collect();
                    bytes::write(cpu, at.wrapping_add(ARGUMENTS), &left)?;
                    return Ok(Answer::Again([at, count - index, 0, 0, 0, 0]));
                }
                Err(error) => error.result(),
            };
            bytes::write(cpu, at.wrapping_add(RESULT), &result.to_le_bytes())?;
        }
        Ok(if flow == Flow::Guest { Answer::Value(0) } else { Answer::Then(0, flow) })
    }
}
