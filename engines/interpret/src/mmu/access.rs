//! Loads and stores at linear addresses.

use super::{Tlb, is_canonical};
use crate::cpu::Cpu;
use crate::exit::{Exit, Fault};
use ambos_hostcode::mem::{self, Cell};
use ambos_intercept::Intercept;
use ambos_memory::PageFlags;
use ambos_vcpu::Platform;
use ambos_x86::Vector;

/// What kind of memory access it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// Write, or read and write.
    pub write: bool,
    /// Instruction fetch.
    pub fetch: bool,
    /// Made in user mode.
    pub user: bool,
    /// Made by the processor itself (descriptor tables, TSS): SMAP cannot be lifted.
    pub implicit: bool,
}

/// Part of an access that lies in one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostRange {
    /// RAM, at this host address.
    Ram(usize),
    /// Not RAM, at this guest-physical address.
    Device(u64),
}

impl Cpu {
    /// The access that an instruction of the current mode makes.
    #[inline]
    fn data_access(&self, write: bool) -> Access {
        Access { write, user: self.mode.cpl == 3, ..Access::default() }
    }

    /// Loads from a linear address.
    ///
    /// # Errors
    ///
    /// The fault to deliver.
    #[inline(always)]
    pub fn load<W: Cell>(&mut self, platform: &mut dyn Platform, linear: u64) -> Result<W, Exit> {
        if linear & 0xfff <= 4096 - W::SIZE as u64
            && let Some(host) = self.tlb.lookup_read(self.mmu_index, linear)
        {
            #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
            // SAFETY: the TLB holds only mapped RAM pages and the access ends inside the page.
            return Ok(unsafe { W::load(host) });
        }
        self.load_slow(platform, linear, self.mmu_index, self.data_access(false))
    }

    /// Stores to a linear address.
    ///
    /// # Errors
    ///
    /// The fault to deliver.
    #[inline(always)]
    pub fn store<W: Cell>(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        value: W,
    ) -> Result<(), Exit> {
        if linear & 0xfff <= 4096 - W::SIZE as u64
            && let Some(host) = self.tlb.lookup_write(self.mmu_index, linear)
        {
            #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
            // SAFETY: the TLB holds only mapped, writable RAM pages and the access ends inside the
            // page.
            unsafe {
                W::store(host, value);
            }
            return Ok(());
        }
        self.store_slow(platform, linear, self.mmu_index, self.data_access(true), value)
    }

    /// Loads as the processor itself does for descriptor tables and task-state segments.
    ///
    /// # Errors
    ///
    /// The fault to deliver.
    pub fn load_system<W: Cell>(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
    ) -> Result<W, Exit> {
        let access = Access { implicit: true, ..Access::default() };
        self.load_slow(platform, linear, Tlb::SUPERVISOR, access)
    }

    /// Stores as the processor itself does for descriptor tables and task-state segments.
    ///
    /// # Errors
    ///
    /// The fault to deliver.
    pub fn store_system<W: Cell>(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        value: W,
    ) -> Result<(), Exit> {
        let access = Access { write: true, implicit: true, ..Access::default() };
        self.store_slow(platform, linear, Tlb::SUPERVISOR, access, value)
    }

    #[cold]
    #[inline(never)]
    fn load_slow<W: Cell>(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        set: usize,
        access: Access,
    ) -> Result<W, Exit> {
        let mut bytes = [0; 8];
        self.check_alignment(linear, W::SIZE, set)?;
        self.read_bytes(platform, linear, &mut bytes[..W::SIZE], set, access)?;
        Ok(W::from_u64(u64::from_le_bytes(bytes)))
    }

    #[cold]
    #[inline(never)]
    fn store_slow<W: Cell>(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        set: usize,
        access: Access,
        value: W,
    ) -> Result<(), Exit> {
        self.check_alignment(linear, W::SIZE, set)?;
        let bytes = value.to_u64().to_le_bytes();
        self.write_bytes(platform, linear, &bytes[..W::SIZE], set, access)
    }

    /// Checks the alignment of an access where the guest has enabled that.
    ///
    /// # Errors
    ///
    /// #AC, or #GP(0) for a non-canonical address, which is judged first.
    pub(crate) fn check_alignment(
        &self,
        linear: u64,
        size: usize,
        set: usize,
    ) -> Result<(), Fault> {
        let alignment = match size {
            1 | 2 | 4 | 8 => size,
            // Extended-precision and packed decimal operands.
            10 => 8,
            16 | 32 | 64 => 16,
            // x87 environments in their 16- and 32-bit layouts.
            14 | 94 => 2,
            28 | 108 => 4,
            _ => return Ok(()),
        };
        if set != Tlb::USER_ALIGNED || linear.is_multiple_of(alignment as u64) {
            return Ok(());
        }
        if self.long_mode() && !is_canonical(linear) {
            return Err(Fault::GP0);
        }
        Err(Fault { vector: Vector::AlignmentCheck, error: 0 })
    }

    /// Reads any number of bytes as the current mode; used by instructions with wide operands.
    ///
    /// # Errors
    ///
    /// The fault to deliver; nothing is read then.
    pub fn load_bytes(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        data: &mut [u8],
    ) -> Result<(), Exit> {
        let access = self.data_access(false);
        self.read_bytes(platform, linear, data, self.mmu_index, access)
    }

    /// Writes any number of bytes (at most two pages) as the current mode.
    ///
    /// # Errors
    ///
    /// The fault to deliver; nothing is written then.
    pub fn store_bytes(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        data: &[u8],
    ) -> Result<(), Exit> {
        let access = self.data_access(true);
        self.write_bytes(platform, linear, data, self.mmu_index, access)
    }

    fn read_bytes(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        data: &mut [u8],
        set: usize,
        access: Access,
    ) -> Result<(), Exit> {
        let mut done = 0;
        while done < data.len() {
            let at = self.wrap_linear(linear.wrapping_add(done as u64));
            let length = (data.len() - done).min(0x1000 - (at & 0xfff) as usize);
            let part = &mut data[done..done + length];
            match self.resolve(platform, at, length, set, access)? {
                #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
                // SAFETY: `resolve` returns mapped RAM and the part ends inside its page.
                HostRange::Ram(host) => unsafe {
                    match part.len() {
                        // Aligned accesses of these sizes are atomic on x86.
                        2 => part.copy_from_slice(&u16::load(host).to_le_bytes()),
                        4 => part.copy_from_slice(&u32::load(host).to_le_bytes()),
                        8 => part.copy_from_slice(&u64::load(host).to_le_bytes()),
                        _ => mem::copy_from(host, part),
                    }
                },
                HostRange::Device(gpa) => {
                    for (index, chunk) in part.chunks_mut(64).enumerate() {
                        platform.mmio_read(gpa + index as u64 * 64, chunk);
                        self.note_access(platform);
                    }
                }
            }
            done += length;
        }
        Ok(())
    }

    fn write_bytes(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        data: &[u8],
        set: usize,
        access: Access,
    ) -> Result<(), Exit> {
        let first = data.len().min(0x1000 - (linear & 0xfff) as usize);
        let (head, tail) = data.split_at(first);
        let head_at = self.resolve(platform, linear, head.len(), set, access)?;
        // Both pages are resolved before either is written: a fault must change nothing.
        let tail_at = if tail.is_empty() {
            None
        } else {
            let at = self.wrap_linear(linear.wrapping_add(first as u64));
            Some(self.resolve(platform, at, tail.len().min(0x1000), set, access)?)
        };
        for (at, part) in [(Some(head_at), head), (tail_at, tail)] {
            match at {
                #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
                // SAFETY: `resolve` returns mapped, writable RAM and the part ends inside its page.
                Some(HostRange::Ram(host)) => unsafe {
                    match *part {
                        [a, b] => u16::store(host, u16::from_le_bytes([a, b])),
                        [a, b, c, d] => u32::store(host, u32::from_le_bytes([a, b, c, d])),
                        [a, b, c, d, e, f, g, h] => {
                            u64::store(host, u64::from_le_bytes([a, b, c, d, e, f, g, h]));
                        }
                        _ => mem::copy_to(host, &part[..part.len().min(0x1000)]),
                    }
                },
                Some(HostRange::Device(gpa)) => {
                    for (index, chunk) in part.chunks(64).enumerate() {
                        platform.mmio_write(gpa + index as u64 * 64, chunk);
                        self.note_access(platform);
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Outside long mode linear addresses wrap at 4 GiB.
    #[inline]
    fn wrap_linear(&self, linear: u64) -> u64 {
        if self.long_mode() { linear } else { linear & 0xffff_ffff }
    }

    /// Finds what `length` bytes at `linear`, which must not cross a page, refer to, and enters the
    /// translation into the TLB where it may be there. If the access is a write to cached code,
    /// that code is dropped.
    ///
    /// # Errors
    ///
    /// The fault to deliver.
    pub fn resolve(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        length: usize,
        set: usize,
        access: Access,
    ) -> Result<HostRange, Exit> {
        let cached = match (access.write, access.implicit) {
            (false, _) => self.tlb.lookup_read(set, linear),
            (true, _) => self.tlb.lookup_write(set, linear),
        };
        if let Some(host) = cached {
            return Ok(HostRange::Ram(host));
        }
        let linear = self.wrap_linear(linear);
        let translation = self.translate(linear, access)?;
        platform.ledger().count(Intercept::TlbFill);
        let watched = self.note_data_breakpoints(linear, length, access.write);
        let Some((host_page, ram_page)) = self.ram.host_page(translation.gpa) else {
            return Ok(HostRange::Device(translation.gpa));
        };
        let host = host_page + (linear & 0xfff) as usize;
        self.ram.note_reached(ram_page);
        if translation.page_bits > 12 {
            self.tlb.note_large_page(linear, translation.page_bits);
        }
        if access.write || translation.write_ready {
            self.note_in_journal(host_page, set, linear);
        }
        if watched {
            if access.write {
                self.note_code_write(ram_page);
            }
            return Ok(HostRange::Ram(host));
        }
        if !access.write {
            self.tlb.insert(set, false, translation.global, linear, host_page);
        }
        if access.write || translation.write_ready {
            let code = self.ram.page_flags().get(ram_page) & PageFlags::CODE != 0;
            if code && access.write {
                self.note_code_write(ram_page);
            } else if !code {
                self.tlb.insert(set, true, translation.global, linear, host_page);
            }
        }
        Ok(HostRange::Ram(host))
    }

    /// Drops cached code of a RAM page that is about to be written to, or has just been.
    pub fn note_code_write(&mut self, ram_page: usize) {
        if self.ram.page_flags().get(ram_page) & PageFlags::CODE != 0 {
            self.blocks.written(&self.ram, ram_page);
            self.leave_block = true;
            // Bounded for those who never take them out.
            if self.code_writes.len() < 1024 {
                self.code_writes.push(ram_page);
            }
        }
    }

    /// Host addresses for reading and writing `size` bytes at `linear` in place, if they are RAM in
    /// one page; for locked and read-modify-write instructions.
    ///
    /// # Errors
    ///
    /// The fault to deliver.
    #[inline]
    pub fn writable_in_place(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        size: usize,
    ) -> Result<Option<usize>, Exit> {
        if linear & 0xfff > 4096 - size as u64 {
            return Ok(None);
        }
        if let Some(host) = self.tlb.lookup_write(self.mmu_index, linear) {
            return Ok(Some(host));
        }
        self.check_alignment(linear, size, self.mmu_index)?;
        self.writable_unchecked(platform, linear, size)
    }

    /// Like [`Cpu::writable_in_place`], of any alignment.
    ///
    /// # Errors
    ///
    /// The fault to deliver.
    pub fn writable_unchecked(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        size: usize,
    ) -> Result<Option<usize>, Exit> {
        if linear & 0xfff > 4096 - size as u64 {
            return Ok(None);
        }
        if let Some(host) = self.tlb.lookup_write(self.mmu_index, linear) {
            return Ok(Some(host));
        }
        let access = self.data_access(true);
        match self.resolve(platform, linear, size, self.mmu_index, access)? {
            HostRange::Ram(host) => Ok(Some(host)),
            HostRange::Device(_) => Ok(None),
        }
    }

    /// Like [`Cpu::writable_in_place`], for reading.
    ///
    /// # Errors
    ///
    /// The fault to deliver.
    #[inline]
    pub fn readable_in_place(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        size: usize,
    ) -> Result<Option<usize>, Exit> {
        if linear & 0xfff > 4096 - size as u64 {
            return Ok(None);
        }
        if let Some(host) = self.tlb.lookup_read(self.mmu_index, linear) {
            return Ok(Some(host));
        }
        let access = self.data_access(false);
        match self.resolve(platform, linear, size, self.mmu_index, access)? {
            HostRange::Ram(host) => Ok(Some(host)),
            HostRange::Device(_) => Ok(None),
        }
    }

    /// Checks that the byte at `linear` can be read or, with `write`, written.
    ///
    /// # Errors
    ///
    /// The fault that the access would raise.
    pub(crate) fn probe(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        write: bool,
    ) -> Result<(), Exit> {
        let access = self.data_access(write);
        self.resolve(platform, linear, 1, self.mmu_index, access).map(drop)
    }

    /// Checks that `size` bytes at `linear` (at most two pages) can be written, without writing.
    ///
    /// # Errors
    ///
    /// The fault that a write would raise.
    pub fn probe_write(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        size: usize,
    ) -> Result<(), Exit> {
        let access = self.data_access(true);
        self.resolve(platform, linear, 1, self.mmu_index, access)?;
        let last = linear.wrapping_add(size as u64 - 1);
        if last >> 12 != linear >> 12 {
            self.resolve(platform, last & !0xfff, 1, self.mmu_index, access)?;
        }
        Ok(())
    }

    /// Read, modify, write of one cell.
    ///
    /// # Errors
    ///
    /// The fault to deliver; `modify` has not been called then.
    #[inline(always)]
    pub fn modify<W: Cell>(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        modify: impl FnOnce(&mut Self, W) -> Option<W>,
    ) -> Result<(), Exit> {
        if let Some(host) = self.writable_in_place(platform, linear, W::SIZE)? {
            #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
            // SAFETY: `writable_in_place` returns mapped, writable RAM for `W::SIZE` bytes.
            unsafe {
                let old = W::load(host);
                if let Some(new) = modify(self, old) {
                    W::store(host, new);
                }
            }
            return Ok(());
        }
        self.check_alignment(linear, W::SIZE, self.mmu_index)?;
        self.probe_write(platform, linear, W::SIZE)?;
        let old = self.load::<W>(platform, linear)?;
        match modify(self, old) {
            Some(new) => self.store(platform, linear, new),
            None => Ok(()),
        }
    }

    /// Locked read, modify, write of one cell; `modify` may be called several times. Where the cell
    /// is not RAM in one page it is not atomic (a split lock, or a device).
    ///
    /// # Errors
    ///
    /// The fault to deliver.
    pub fn modify_locked<W: Cell>(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        mut modify: impl FnMut(&mut Self, W) -> Option<W>,
    ) -> Result<(), Exit> {
        let Some(host) = self.writable_in_place(platform, linear, W::SIZE)? else {
            return self.modify(platform, linear, modify);
        };
        #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
        // SAFETY: `writable_in_place` returns mapped, writable RAM for `W::SIZE` bytes.
        unsafe {
            let mut old = W::load(host);
            while let Some(new) = modify(self, old) {
                let held = W::compare_exchange(host, old, new);
                if held == old {
                    break;
                }
                old = held;
            }
        }
        Ok(())
    }

    /// Checks a 64-bit address that is about to be loaded into a base register.
    ///
    /// # Errors
    ///
    /// #GP(0) if it is not canonical.
    pub fn check_canonical(linear: u64) -> Result<(), Fault> {
        if is_canonical(linear) { Ok(()) } else { Err(Fault::GP0) }
    }
}
