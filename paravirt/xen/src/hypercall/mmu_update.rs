//! `mmu_update`: changes of page tables and of the machine-to-physical table, many at once.

use super::{Answer, Arguments, Call, Outcome};
use crate::bytes;
use crate::domain::{Domain, Shootdown};
use crate::pages::update::Mode;
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::mmu::{
    MACHPHYS_UPDATE, NORMAL_PT_UPDATE, PT_UPDATE_NO_TRANSLATE, PT_UPDATE_PRESERVE_AD,
    UPDATE_PREEMPTED, UPDATE_SIZE,
};
use ambos_xen_abi::{DomainId, Errno, Hypercall};

pub(super) struct MmuUpdate;

/// Whether a domain argument names the calling domain.
pub(super) fn is_self(domain: u64) -> bool {
    let domain = DomainId(domain as u16);
    domain == DomainId::SELF || domain == Domain::ID
}

impl Call for MmuUpdate {
    const NUMBER: Hypercall = Hypercall::MmuUpdate;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [requests, count, done_at, foreign, ..] = arguments;
        let (count, already) = progress(cpu, count, done_at)?;
        let tables = foreign as u32 >> 16;
        if tables != 0 && !is_self(u64::from(tables) - 1) || !is_self(foreign) {
            return Err(Errno::ESRCH);
        }
        let mut result = Ok(());
        let mut done = 0;
        let mut pause = false;
        let mut request = [0; UPDATE_SIZE as usize];
        while done < count {
            pause = vcpu.should_pause(done);
            if pause {
                break;
            }
            let at = requests.wrapping_add(done * UPDATE_SIZE);
            result = bytes::read_into(cpu, at, &mut request).and_then(|()| {
                let (target, value) = (bytes::u64_at(&request, 0), bytes::u64_at(&request, 8));
                update(vcpu, cpu, target, value)
            });
            if result.is_err() {
                break;
            }
            done += 1;
        }
        report(cpu, done_at, already + done)?;
        result?;
        if pause {
            let next = requests.wrapping_add(done * UPDATE_SIZE);
            return Ok(Answer::Again([
                next,
                (count - done) | UPDATE_PREEMPTED,
                done_at,
                foreign,
                0,
                0,
            ]));
        }
        Ok(Answer::Value(0))
    }
}

/// How many requests there are, and how many were served before a pause.
pub(super) fn progress(
    cpu: &mut dyn GuestCpu,
    count: u64,
    done_at: u64,
) -> Result<(u64, u64), Errno> {
    let count = count & 0xffff_ffff;
    if count & UPDATE_PREEMPTED == 0 {
        return Ok((count, 0));
    }
    let done = if done_at == 0 { 0 } else { u32::from_le_bytes(bytes::read::<4>(cpu, done_at)?) };
    Ok((count & !UPDATE_PREEMPTED, done.into()))
}

/// Tells how many requests were served.
pub(super) fn report(cpu: &mut dyn GuestCpu, done_at: u64, done: u64) -> Result<(), Errno> {
    if done_at == 0 {
        return Ok(());
    }
    bytes::write(cpu, done_at, &(done as u32).to_le_bytes())
}

fn update(vcpu: &XenVcpu, cpu: &mut dyn GuestCpu, target: u64, value: u64) -> Result<(), Errno> {
    let domain = &*vcpu.domain;
    let command = target & 7;
    let at = target & !7;
    let mode = match command {
        NORMAL_PT_UPDATE | PT_UPDATE_NO_TRANSLATE => Mode::Set,
        PT_UPDATE_PRESERVE_AD => Mode::KeepAccessedDirty,
        MACHPHYS_UPDATE => {
            let pages = domain.pages(cpu);
            if !pages.belongs_to_guest(at >> 12) {
                return Err(Errno::EINVAL);
            }
            pages.set_physical(at >> 12, value);
            return Ok(());
        }
        _ => return Err(Errno::ENOSYS),
    };
    let mut pages = domain.pages(cpu);
    let mut forget = Shootdown { domain, own: vcpu.id, cpu: &mut *cpu };
    pages.update(at, value, mode, &mut forget)
}
