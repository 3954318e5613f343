//! `grant_table_op`. The guest grants to the control domain, which grants nothing to it.

use super::mmu_update::is_self;
use super::{Arguments, Call, DONE, Outcome};
use crate::bytes;
use crate::domain::Shootdown;
use crate::layout::GRANT_FRAMES;
use crate::pages::Use;
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::grant::{op, status};
use ambos_xen_abi::{DomainId, Errno, Hypercall};
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
            op::SET_VERSION => match u32::from_le_bytes(bytes::read::<4>(cpu, at)?) {
                1 => {}
                2 => return Err(Errno::ENOSYS),
                _ => return Err(Errno::EINVAL),
            },
            op::GET_VERSION => {
                let domain = u16::from_le_bytes(bytes::read::<2>(cpu, at)?);
                if !is_self(domain.into()) {
                    return Err(Errno::ESRCH);
                }
                bytes::write(cpu, at.wrapping_add(4), &1u32.to_le_bytes())?;
            }
            op::MAP_GRANT_REF => vcpu.refuse_mappings(cpu, at, count)?,
            op::UNMAP_GRANT_REF => each(cpu, 24, 20, status::BAD_HANDLE)?,
            op::UNMAP_AND_REPLACE => each(cpu, 24, 20, status::BAD_HANDLE)?,
            op::COPY => vcpu.copy_granted(cpu, at, count)?,
            op::TRANSFER => each(cpu, 24, 20, status::GENERAL_ERROR)?,
            op::SWAP_GRANT_REF => vcpu.swap_grants(cpu, at, count)?,
            // Only layout 2 has status frames.
            op::GET_STATUS_FRAMES => each(cpu, 16, 8, status::GENERAL_ERROR)?,
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

impl XenVcpu {
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

    /// Nobody grants anything to the guest.
    fn refuse_mappings(
        &mut self,
        cpu: &mut dyn GuestCpu,
        at: u64,
        count: u64,
    ) -> Result<(), Errno> {
        const SIZE: u64 = 32;
        for index in 0..count {
            let at = at.wrapping_add(index * SIZE);
            let request = bytes::read::<{ SIZE as usize }>(cpu, at)?;
            let from = bytes::u16_at(&request, 16);
            let known = from == DomainId::CONTROL.0 || is_self(from.into());
            let code = if known { status::BAD_GNTREF } else { status::BAD_DOMAIN };
            bytes::write(cpu, at.wrapping_add(18), &code.to_le_bytes())?;
        }
        Ok(())
    }

    /// Copies between pages of the guest.
    fn copy_granted(&mut self, cpu: &mut dyn GuestCpu, at: u64, count: u64) -> Result<(), Errno> {
        const SIZE: u64 = 40;
        for index in 0..count {
            let at = at.wrapping_add(index * SIZE);
            let request = bytes::read::<{ SIZE as usize }>(cpu, at)?;
            let code = self.copy_once(cpu, &request);
            bytes::write(cpu, at.wrapping_add(36), &code.to_le_bytes())?;
        }
        Ok(())
    }

    fn copy_once(&mut self, cpu: &mut dyn GuestCpu, request: &[u8]) -> i16 {
        let end = |at: usize| {
            let (frame, domain) = (bytes::u64_at(request, at), bytes::u16_at(request, at + 8));
            (frame, domain, u64::from(bytes::u16_at(request, at + 10)))
        };
        let ((from, from_domain, from_offset), (to, to_domain, to_offset)) = (end(0), end(16));
        let length = u64::from(bytes::u16_at(request, 32));
        let flags = bytes::u16_at(request, 34);
        if !is_self(from_domain.into()) || !is_self(to_domain.into()) {
            return status::BAD_DOMAIN;
        }
        // By grant: there is none to copy from or to.
        if flags & 3 != 0 {
            return status::BAD_GNTREF;
        }
        if from_offset + length > 4096 || to_offset + length > 4096 {
            return status::BAD_COPY_ARG;
        }
        let domain = Arc::clone(&self.domain);
        let mut pages = domain.pages(cpu);
        if pages.reference(from).is_err() {
            return status::BAD_PAGE;
        }
        let mut forget = Shootdown { domain: &domain, own: self.id, cpu: &mut *cpu };
        let taken = pages.take(to, Use::Writable, &mut forget);
        if taken.is_ok() {
            let byte = |frame: u64, offset: u64| domain.ram.byte((frame << 12) + offset);
            for index in 0..length {
                use std::sync::atomic::Ordering::Relaxed;
                if let Some(source) = byte(from, from_offset + index)
                    && let Some(target) = byte(to, to_offset + index)
                {
                    target.store(source.load(Relaxed), Relaxed);
                }
            }
            pages.give(to);
        }
        pages.release(from);
        drop(pages);
        cpu.wrote_frame(to << 12);
        if taken.is_ok() { status::OKAY } else { status::BAD_PAGE }
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
