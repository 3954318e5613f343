//! `console_io`: the emergency console.

use super::{Answer, Arguments, Call, Outcome};
use crate::bytes;
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::{Errno, Hypercall};

pub(super) struct ConsoleIo;

const WRITE: u64 = 0;
const READ: u64 = 1;
/// Most bytes printed at once.
const LIMIT: u64 = 4096;

impl Call for ConsoleIo {
    const NUMBER: Hypercall = Hypercall::ConsoleIo;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [command, count, at, ..] = arguments;
        let count = count & 0xffff_ffff;
        // The interface's counts are signed.
        if count > i32::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        match command & 0xffff_ffff {
            WRITE => {
                let part = count.min(LIMIT);
                let mut text = vec![0; part as usize];
                bytes::read_into(cpu, at, &mut text)?;
                vcpu.away(cpu, |domain| domain.host.print(&text));
                if part < count {
                    return Ok(Answer::Again([command, count - part, at + part, 0, 0, 0]));
                }
                Ok(Answer::Value(0))
            }
            // Nobody types there.
            READ => Ok(Answer::Value(0)),
            _ => Err(Errno::ENOSYS),
        }
    }
}
