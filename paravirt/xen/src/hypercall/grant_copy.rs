//! Copies between pages, which are named by their frames or by grants.

use super::grant_table_op::status_of;
use super::mmu_update::is_self;
use crate::bytes;
use crate::domain::{Domain, Shootdown};
use crate::grants::GrantTable;
use crate::pages::{Pages, Use};
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::grant::{V1_PER_FRAME, status};
use ambos_xen_abi::{DomainId, Errno};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes of an operation.
const SIZE: u64 = 40;
/// The source is a grant.
const SOURCE_GRANT: u16 = 1;
/// The destination is one.
const DESTINATION_GRANT: u16 = 2;

/// One end of a copy, as the guest names it.
struct End {
    /// A frame or the number of a grant.
    number: u64,
    domain: u16,
    offset: u64,
    granted: bool,
    write: bool,
}

/// One end while the copy lasts.
struct Held {
    frame: u64,
    /// Number of the grant.
    grant: Option<u32>,
    write: bool,
}

impl End {
    fn check_domain(&self) -> Result<(), i16> {
        if !self.granted && DomainId(self.domain) != DomainId::SELF {
            return Err(status::PERMISSION_DENIED);
        }
        if is_self(self.domain.into()) {
            return Ok(());
        }
        if DomainId(self.domain) != DomainId::CONTROL {
            return Err(status::BAD_DOMAIN);
        }
        // It has a table but grants nothing.
        let exists = self.number & 0xffff_ffff < V1_PER_FRAME;
        Err(if exists { status::GENERAL_ERROR } else { status::BAD_GNTREF })
    }

    fn hold(
        &self,
        length: u64,
        table: &mut GrantTable,
        pages: &mut Pages,
        forget: &mut Shootdown<'_>,
    ) -> Result<Held, i16> {
        let write = self.write;
        let within = |offset: u64, size: u64| {
            self.offset >= offset && self.offset + length <= offset.saturating_add(size).min(4096)
        };
        if !within(0, 4096) {
            return Err(status::BAD_COPY_ARG);
        }
        if self.granted {
            let reference = self.number as u32;
            let begun = table.begin(pages, reference, Domain::ID, write);
            let (frame, offset, size) = begun.map_err(status_of)?;
            let held = Held { frame, grant: Some(reference), write };
            if !within(offset, size) {
                held.release(table, pages);
                return Err(status::BAD_COPY_ARG);
            }
            return Ok(held);
        }
        let taken = match write {
            true => pages.take(self.number, Use::Writable, forget),
            false => pages.reference(self.number),
        };
        taken.map_err(|_| status::BAD_PAGE)?;
        Ok(Held { frame: self.number, grant: None, write })
    }
}

impl Held {
    fn release(self, table: &mut GrantTable, pages: &mut Pages) {
        match self.grant {
            Some(reference) => table.end(pages, reference, self.write),
            None if self.write => pages.give(self.frame),
            None => pages.release(self.frame),
        }
    }
}

impl XenVcpu {
    /// `copy`.
    pub(super) fn copy_granted(
        &mut self,
        cpu: &mut dyn GuestCpu,
        at: u64,
        count: u64,
    ) -> Result<(), Errno> {
        for index in 0..count {
            let at = at.wrapping_add(index * SIZE);
            let request = bytes::read::<{ SIZE as usize }>(cpu, at)?;
            let code = self.copy_once(cpu, &request).err().unwrap_or(status::OKAY);
            bytes::write(cpu, at.wrapping_add(36), &code.to_le_bytes())?;
        }
        Ok(())
    }

    fn copy_once(&mut self, cpu: &mut dyn GuestCpu, request: &[u8]) -> Result<(), i16> {
        let length = u64::from(bytes::u16_at(request, 32));
        let flags = bytes::u16_at(request, 34);
        let end = |at: usize, grant: u16, write: bool| End {
            number: bytes::u64_at(request, at),
            domain: bytes::u16_at(request, at + 8),
            offset: bytes::u16_at(request, at + 10).into(),
            granted: flags & grant != 0,
            write,
        };
        let (from, to) = (end(0, SOURCE_GRANT, false), end(16, DESTINATION_GRANT, true));
        from.check_domain()?;
        to.check_domain()?;
        let domain = Arc::clone(&self.domain);
        let mut table = domain.grants(cpu);
        let mut pages = domain.pages(cpu);
        let mut forget = Shootdown { domain: &domain, own: self.id, cpu: &mut *cpu };
        let source = from.hold(length, &mut table, &mut pages, &mut forget)?;
        let target = match to.hold(length, &mut table, &mut pages, &mut forget) {
            Ok(target) => target,
            Err(code) => {
                source.release(&mut table, &mut pages);
                return Err(code);
            }
        };
        let written = target.frame << 12;
        for index in 0..length {
            let byte = |frame: u64, offset: u64| domain.ram.byte((frame << 12) + offset + index);
            if let Some(source) = byte(source.frame, from.offset)
                && let Some(target) = byte(target.frame, to.offset)
            {
                target.store(source.load(Relaxed), Relaxed);
            }
        }
        target.release(&mut table, &mut pages);
        source.release(&mut table, &mut pages);
        drop((pages, table));
        cpu.wrote_frame(written);
        Ok(())
    }
}
