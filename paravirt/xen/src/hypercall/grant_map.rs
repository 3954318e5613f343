//! Mapping of grants. Nobody but the guest itself grants anything to it.
//!
//! A mapping has two halves that keep each other from harm: a use of the grant, which its handle stands for, and an
//! entry of a page table like any other, with a reference and a use of its own.

use super::grant_table_op::status_of;
use crate::bytes;
use crate::domain::{Domain, Shootdown};
use crate::grants::Mapping;
use crate::pages::update::Mode;
use crate::pages::{Pages, Use, entry};
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_x86::paging::{ACCESSED, DIRTY, PRESENT, USER, WRITE};
use ambos_xen_abi::grant::{V1_PER_FRAME, map, status};
use ambos_xen_abi::{DomainId, Errno};
use std::sync::Arc;

/// Bytes of an operation that maps.
const MAP_SIZE: u64 = 32;
/// Bytes of one that unmaps, by itself or to put another mapping there.
const UNMAP_SIZE: u64 = 24;
/// Bits of an entry that are the guest's.
const AVAILABLE: u64 = 0xe00;

/// The entry of a level-1 table that maps a grant.
fn entry_of(frame: u64, flags: u32) -> u64 {
    let mut entry = frame << 12 | PRESENT | ACCESSED | DIRTY;
    if flags & map::READONLY == 0 {
        entry |= WRITE;
    }
    if flags & map::APPLICATION != 0 {
        entry |= USER;
    }
    entry | u64::from(flags >> map::AVAILABLE_SHIFT) << 9 & AVAILABLE
}

impl XenVcpu {
    /// `map_grant_ref`.
    pub(super) fn map_grants(
        &mut self,
        cpu: &mut dyn GuestCpu,
        at: u64,
        count: u64,
    ) -> Result<(), Errno> {
        let mut done = Ok(());
        for index in 0..count {
            let at = at.wrapping_add(index * MAP_SIZE);
            done = bytes::read::<{ MAP_SIZE as usize }>(cpu, at).and_then(|request| {
                let mapped = self.map_grant(cpu, &request);
                let (code, handle, bus) = match mapped {
                    Ok((handle, frame)) => (status::OKAY, handle, frame << 12),
                    Err(code) => (code, bytes::u32_at(&request, 20), bytes::u64_at(&request, 24)),
                };
                let mut answer = [0; 14];
                answer[..2].copy_from_slice(&code.to_le_bytes());
                answer[2..6].copy_from_slice(&handle.to_le_bytes());
                answer[6..].copy_from_slice(&bus.to_le_bytes());
                bytes::write(cpu, at.wrapping_add(18), &answer)
            });
            if done.is_err() {
                break;
            }
        }
        // What was mapped there before must be forgotten.
        self.flush(cpu, None, Some(u64::MAX));
        done
    }

    fn map_grant(&mut self, cpu: &mut dyn GuestCpu, request: &[u8]) -> Result<(u32, u64), i16> {
        let (address, flags) = (bytes::u64_at(request, 0), bytes::u32_at(request, 8));
        let (reference, from) = (bytes::u32_at(request, 12), DomainId(bytes::u16_at(request, 16)));
        if flags & (map::HOST | map::DEVICE) == 0 {
            return Err(status::BAD_GNTREF);
        }
        match from {
            Domain::ID => {}
            DomainId::CONTROL if u64::from(reference) < V1_PER_FRAME => {
                return Err(status::GENERAL_ERROR);
            }
            DomainId::CONTROL => return Err(status::BAD_GNTREF),
            _ => return Err(status::BAD_DOMAIN),
        }
        let domain = Arc::clone(&self.domain);
        let mut table = domain.grants(cpu);
        let mut pages = domain.pages(cpu);
        if !table.mappings.has_room() {
            return Err(status::NO_DEVICE_SPACE);
        }
        let write = flags & map::READONLY == 0;
        let frame =
            table.begin_whole(&mut pages, reference, Domain::ID, write).map_err(status_of)?;
        if flags & map::HOST != 0 {
            let place = self.entry_for(&pages, address, flags);
            let mut forget = Shootdown { domain: &domain, own: self.id, cpu: &mut *cpu };
            let value = entry_of(frame, flags);
            let written = place.map(|at| pages.update_entry(at, value, 1, Mode::Set, &mut forget));
            if written != Some(Ok(())) {
                table.end(&mut pages, reference, write);
                return Err(status::GENERAL_ERROR);
            }
        }
        Ok((table.mappings.add(Mapping { reference, frame, flags }), frame))
    }

    /// The address of the level-1 entry that a mapping means.
    fn entry_for(&self, pages: &Pages, address: u64, flags: u32) -> Option<u64> {
        let at = match flags & map::CONTAINS_PTE {
            0 => pages.leaf_address(self.kernel_root, address)?,
            _ => Some(address).filter(|address| address.is_multiple_of(8))?,
        };
        let found = pages.frame(at >> 12)?;
        (found.usage == Use::Table(1) && found.uses > 0).then_some(at)
    }

    /// `unmap_grant_ref` and, where `replace`, `unmap_and_replace`.
    pub(super) fn unmap_grants(
        &mut self,
        cpu: &mut dyn GuestCpu,
        at: u64,
        count: u64,
        replace: bool,
    ) -> Result<(), Errno> {
        let mut done = Ok(());
        for index in 0..count {
            let at = at.wrapping_add(index * UNMAP_SIZE);
            done = bytes::read::<{ UNMAP_SIZE as usize }>(cpu, at).and_then(|request| {
                let code = self.unmap_grant(cpu, &request, replace).err().unwrap_or(status::OKAY);
                bytes::write(cpu, at.wrapping_add(20), &code.to_le_bytes())
            });
            if done.is_err() {
                break;
            }
        }
        self.flush(cpu, None, Some(u64::MAX));
        done
    }

    fn unmap_grant(
        &mut self,
        cpu: &mut dyn GuestCpu,
        request: &[u8],
        replace: bool,
    ) -> Result<(), i16> {
        let (address, second) = (bytes::u64_at(request, 0), bytes::u64_at(request, 8));
        let handle = bytes::u32_at(request, 16);
        let domain = Arc::clone(&self.domain);
        let mut table = domain.grants(cpu);
        let mut pages = domain.pages(cpu);
        let mut mapping = table.mappings.get(handle).ok_or(status::BAD_HANDLE)?;
        let before = mapping.flags;
        if !replace && second != 0 && before & map::DEVICE != 0 {
            if second != mapping.frame << 12 {
                return Err(status::GENERAL_ERROR);
            }
            mapping.flags &= !map::DEVICE;
        }
        if address != 0 && before & map::HOST != 0 {
            let mut forget = Shootdown { domain: &domain, own: self.id, cpu: &mut *cpu };
            let from = if replace { second } else { 0 };
            self.replace_entry(&mut pages, &mapping, address, from, &mut forget)?;
            mapping.flags &= !map::HOST;
        }
        table.mappings.set(handle, mapping);
        if mapping.flags & (map::HOST | map::DEVICE) == 0 {
            table.end(&mut pages, mapping.reference, mapping.writes());
        }
        Ok(())
    }

    /// Takes the entry at `address` away that maps a grant, and puts the one that maps `from` there, unless that
    /// is zero.
    fn replace_entry(
        &self,
        pages: &mut Pages,
        mapping: &Mapping,
        address: u64,
        from: u64,
        forget: &mut Shootdown<'_>,
    ) -> Result<(), i16> {
        let failed = status::GENERAL_ERROR;
        if from != 0 && mapping.flags & map::CONTAINS_PTE != 0 {
            return Err(failed);
        }
        let at = self.entry_for(pages, address, mapping.flags).ok_or(failed)?;
        let (now, expected) = (pages.ram().load_word(at), entry_of(mapping.frame, mapping.flags));
        if entry::frame(now) != mapping.frame || (now ^ expected) & (PRESENT | WRITE) != 0 {
            return Err(failed);
        }
        if from == 0 {
            return pages.update_entry(at, 0, 1, Mode::Set, forget).map_err(|_| failed);
        }
        let source = self.entry_for(pages, from, 0).filter(|source| *source != at).ok_or(failed)?;
        let moved = pages.ram().load_word(source);
        pages
            .update_entry(at, moved, 1, Mode::Set, forget)
            .and_then(|()| pages.update_entry(source, 0, 1, Mode::Set, forget))
            .map_err(|_| failed)
    }
}
