//! `grant_table_op`: the table itself. The guest grants to the control domain, which grants nothing to it, and to itself.

use super::mmu_update::is_self;
use super::{Arguments, Call, DONE, Outcome};
use crate::bytes;
use crate::grants::{GrantRefusal, Version};
use crate::layout::GRANT_FRAMES;
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::grant::{op, status};
use ambos_xen_abi::{Errno, Hypercall};
use std::sync::Arc;

pub(super) struct GrantTableOp;

/// Most operations of one call, each of which copies a page at most.
const LIMIT: u64 = 4096;

impl Call for GrantTableOp {
    const NUMBER: Hypercall = Hypercall::GrantTableOp;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [command, at, count, ..] = arguments;
        let count = count & 0xffff_ffff;
        if count > LIMIT {
            return Err(Errno::EINVAL);
        }
        let each = |cpu: &mut dyn GuestCpu, size: u64, field: u64, value: i16| {
            (0..count).try_for_each(|index| {
                let at = at.wrapping_add(index * size + field);
                bytes::write(cpu, at, &value.to_le_bytes())
            })
        };
        match command & 0xffff_ffff {
            op::SETUP_TABLE => vcpu.setup_grants(cpu, at, count)?,
            op::QUERY_SIZE => vcpu.grant_size(cpu, at, count)?,
            op::SET_VERSION => return vcpu.set_grant_version(cpu, at),
            op::GET_VERSION => {
                let domain = u16::from_le_bytes(bytes::read::<2>(cpu, at)?);
                if !is_self(domain.into()) {
                    return Err(Errno::ESRCH);
                }
                let version = vcpu.domain.grants(cpu).version();
                bytes::write(cpu, at.wrapping_add(4), &version.to_le_bytes())?;
            }
            op::MAP_GRANT_REF => vcpu.map_grants(cpu, at, count)?,
            op::UNMAP_GRANT_REF => vcpu.unmap_grants(cpu, at, count, false)?,
            op::UNMAP_AND_REPLACE => vcpu.unmap_grants(cpu, at, count, true)?,
            op::COPY => vcpu.copy_granted(cpu, at, count)?,
            // Nobody has offered to take a page.
            op::TRANSFER => each(cpu, 24, 16, status::GENERAL_ERROR)?,
            op::SWAP_GRANT_REF => vcpu.swap_grants(cpu, at, count)?,
            op::GET_STATUS_FRAMES => vcpu.grant_status_frames(cpu, at, count)?,
            op::DUMP_TABLE => return Err(Errno::ENOSYS),
            op::CACHE_FLUSH => return Err(Errno::EOPNOTSUPP),
            _ => return Err(Errno::ENOSYS),
        }
        DONE
    }
}

fn domain_status(domain: u16) -> i16 {
    if is_self(domain.into()) { status::OKAY } else { status::BAD_DOMAIN }
}

/// What a refusal is called in the structures.
pub(super) fn status_of(refusal: GrantRefusal) -> i16 {
    match refusal {
        GrantRefusal::BadReference => status::BAD_GNTREF,
        GrantRefusal::NotGranted | GrantRefusal::Denied => status::GENERAL_ERROR,
        GrantRefusal::BadPage => status::BAD_PAGE,
    }
}

impl XenVcpu {
    /// `set_version`, which tells the layout that the table has afterwards.
    fn set_grant_version(&mut self, cpu: &mut dyn GuestCpu, at: u64) -> Outcome {
        let version = match u32::from_le_bytes(bytes::read::<4>(cpu, at)?) {
            1 => Ok(Version::One),
            2 => Ok(Version::Two),
            _ => Err(Errno::EINVAL),
        };
        let domain = Arc::clone(&self.domain);
        let mut table = domain.grants(cpu);
        let done = version.and_then(|version| {
            let pages = domain.pages(cpu);
            table.set_version(&domain.ram, &pages, version)
        });
        let now = table.version();
        drop(table);
        bytes::write(cpu, at, &now.to_le_bytes())?;
        done?;
        DONE
    }

    fn grant_status_frames(
        &mut self,
        cpu: &mut dyn GuestCpu,
        at: u64,
        count: u64,
    ) -> Result<(), Errno> {
        if count != 1 {
            return Err(Errno::EINVAL);
        }
        let request = bytes::read::<16>(cpu, at)?;
        let (wanted, list) = (bytes::u32_at(&request, 0), bytes::u64_at(&request, 8));
        let mut code = domain_status(bytes::u16_at(&request, 4));
        let frames = self.domain.grants(cpu).status_frames();
        if code == status::OKAY && u64::from(wanted) > frames.end - frames.start {
            code = status::GENERAL_ERROR;
        }
        if code == status::OKAY {
            for (number, index) in frames.take(wanted as usize).zip(0..) {
                bytes::write(cpu, list.wrapping_add(index * 8), &number.to_le_bytes())?;
            }
        }
        bytes::write(cpu, at.wrapping_add(6), &code.to_le_bytes())
    }

    fn setup_grants(&mut self, cpu: &mut dyn GuestCpu, at: u64, count: u64) -> Result<(), Errno> {
        if count != 1 {
            return Err(Errno::EINVAL);
        }
        let request = bytes::read::<24>(cpu, at)?;
        let (frames, list) = (bytes::u32_at(&request, 4), bytes::u64_at(&request, 16));
        let mut code = domain_status(bytes::u16_at(&request, 0));
        let mut numbers = Vec::new();
        if code == status::OKAY {
            let mut table = self.domain.grants(cpu);
            if table.grow(frames.into()) {
                numbers.extend((0..frames.into()).filter_map(|index| table.frame(index)));
            } else {
                code = status::GENERAL_ERROR;
            }
        }
        for (number, index) in numbers.into_iter().zip(0..) {
            bytes::write(cpu, list.wrapping_add(index * 8), &number.to_le_bytes())?;
        }
        bytes::write(cpu, at.wrapping_add(8), &code.to_le_bytes())
    }

    fn grant_size(&mut self, cpu: &mut dyn GuestCpu, at: u64, count: u64) -> Result<(), Errno> {
        if count != 1 {
            return Err(Errno::EINVAL);
        }
        let domain = u16::from_le_bytes(bytes::read::<2>(cpu, at)?);
        let frames = self.domain.grants(cpu).frames as u32;
        let mut answer = [0; 12];
        answer[..4].copy_from_slice(&frames.to_le_bytes());
        answer[4..8].copy_from_slice(&(GRANT_FRAMES as u32).to_le_bytes());
        answer[8..10].copy_from_slice(&domain_status(domain).to_le_bytes());
        bytes::write(cpu, at.wrapping_add(4), &answer[..10])
    }

    fn swap_grants(&mut self, cpu: &mut dyn GuestCpu, at: u64, count: u64) -> Result<(), Errno> {
        const SIZE: u64 = 12;
        for index in 0..count {
            let at = at.wrapping_add(index * SIZE);
            let request = bytes::read::<8>(cpu, at)?;
            let (one, other) = (bytes::u32_at(&request, 0), bytes::u32_at(&request, 4));
            let done = self.domain.grants(cpu).swap(&self.domain.ram, one, other);
            let code = if done { status::OKAY } else { status::BAD_GNTREF };
            bytes::write(cpu, at.wrapping_add(8), &code.to_le_bytes())?;
        }
        Ok(())
    }
}
