//! Page walks (SDM vol. 3A, chapter 4).

use super::{Access, is_canonical};
use crate::cpu::Cpu;
use crate::exit::Fault;
use ambos_hostcode::mem::Cell;
use ambos_vcpu::PHYSICAL_BITS;
use ambos_x86::exception::page_fault;
use ambos_x86::{Cr0, Cr4, Efer, RFlags, Vector, paging};

/// Where a linear address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Guest-physical address.
    pub gpa: u64,
    /// A write needs no further walk: the page is writable for this access and already dirty.
    pub write_ready: bool,
    /// Bits of an offset within the page: 12, or more for larger pages.
    pub page_bits: u32,
    /// The page is mapped alike in every address space.
    pub global: bool,
}

/// One paging mode's shape.
struct Shape {
    levels: u32,
    entry_bytes: u64,
    index_bits: u32,
    /// Bits that must be zero in every present entry, large or not.
    reserved: u64,
}

impl Shape {
    const LEGACY: Self = Self { levels: 2, entry_bytes: 4, index_bits: 10, reserved: 0 };
    const PAE: Self = Self {
        levels: 3,
        entry_bytes: 8,
        index_bits: 9,
        reserved: paging::address_bits_from(PHYSICAL_BITS) | paging::PAE_RESERVED,
    };
    const LONG: Self = Self {
        levels: 4,
        entry_bytes: 8,
        index_bits: 9,
        reserved: paging::address_bits_from(PHYSICAL_BITS),
    };
}

impl Cpu {
    /// Translates `linear` for `access`, setting accessed and dirty bits.
    ///
    /// # Errors
    ///
    /// #PF, with the address noted for CR2; #GP(0) for a non-canonical address.
    pub fn translate(&mut self, linear: u64, access: Access) -> Result<Translation, Fault> {
        if self.long_mode() && !is_canonical(linear) {
            return Err(Fault::GP0);
        }
        if !self.cr0().contains(Cr0::PG) {
            return Ok(Translation {
                gpa: linear & 0xffff_ffff,
                write_ready: true,
                page_bits: 12,
                global: false,
            });
        }
        self.walk(linear, access).map_err(|error| {
            self.fault_address = linear;
            Fault { vector: Vector::PageFault, error }
        })
    }

    fn walk(&mut self, linear: u64, access: Access) -> Result<Translation, u32> {
        let (cr0, cr4, efer) = (self.cr0(), self.cr4(), self.efer());
        let nx_enabled = efer.contains(Efer::NXE);
        let code = |bits: u32| -> u32 {
            let fetch = access.fetch && (nx_enabled || cr4.contains(Cr4::SMEP));
            bits | if access.write { page_fault::WRITE } else { 0 }
                | if access.user { page_fault::USER } else { 0 }
                | if fetch { page_fault::FETCH } else { 0 }
        };
        let shape = if self.long_mode() {
            Shape::LONG
        } else if cr4.contains(Cr4::PAE) {
            Shape::PAE
        } else {
            Shape::LEGACY
        };
        let legacy = shape.entry_bytes == 4;
        let reserved = shape.reserved | if nx_enabled { 0 } else { paging::NO_EXECUTE };
        let mut table = match shape.levels {
            4 => self.control.cr3 & paging::ADDRESS_MASK,
            3 => self.control.cr3 & 0xffff_ffe0,
            _ => self.control.cr3 & 0xffff_f000,
        };
        let (mut writable, mut user, mut no_execute) = (true, true, false);
        let mut level = shape.levels;
        loop {
            level -= 1;
            let shift = 12 + level * shape.index_bits;
            let index = linear >> shift & ((1 << shape.index_bits) - 1);
            // The PAE directory-pointer table has four entries.
            let index = if shape.levels == 3 && level == 2 { index & 3 } else { index };
            let address = table + index * shape.entry_bytes;
            let entry = self.read_entry(address, shape.entry_bytes).ok_or_else(|| code(0))?;
            if entry & paging::PRESENT == 0 {
                return Err(code(0));
            }
            let pae_pointer = shape.levels == 3 && level == 2;
            let reserved = reserved | if pae_pointer { paging::PAE_POINTER_RESERVED } else { 0 };
            if entry & reserved != 0 {
                return Err(code(page_fault::PRESENT | page_fault::RESERVED));
            }
            let large = level > 0
                && !pae_pointer
                && entry & paging::PAGE_SIZE != 0
                && (!legacy || cr4.contains(Cr4::PSE));
            if large && level > 2 {
                return Err(code(page_fault::PRESENT | page_fault::RESERVED));
            }
            if !pae_pointer {
                writable &= entry & paging::WRITE != 0;
                user &= entry & paging::USER != 0;
                no_execute |= entry & paging::NO_EXECUTE != 0;
            }
            if level > 0 && !large {
                if !pae_pointer && entry & paging::ACCESSED == 0 {
                    self.set_entry_bits(address, shape.entry_bytes, entry, paging::ACCESSED);
                }
                table = entry & paging::ADDRESS_MASK;
                continue;
            }
            let page_bits = 12 + level * shape.index_bits;
            let offset_mask = (1u64 << page_bits) - 1;
            // Address bits below the page's size are reserved, but for the PAT bit (12); 4 MiB pages
            // have more address bits there.
            let below = if legacy { paging::PSE36_RESERVED } else { offset_mask & !0x1fff };
            if large && entry & below != 0 {
                return Err(code(page_fault::PRESENT | page_fault::RESERVED));
            }
            let key = if shape.levels == 4 && user && cr4.contains(Cr4::PKE) {
                self.native.vector.pkru >> ((entry >> 59 & 15) * 2) & 3
            } else {
                0
            };
            self.check(access, writable, user, no_execute, cr0, cr4)
                .map_err(|()| code(page_fault::PRESENT))?;
            let key_denies = key & 1 != 0
                || key & 2 != 0 && access.write && (access.user || cr0.contains(Cr0::WP));
            if key_denies && !access.fetch {
                return Err(code(page_fault::PRESENT | page_fault::PROTECTION_KEY));
            }
            let wanted = paging::ACCESSED | if access.write { paging::DIRTY } else { 0 };
            if entry & wanted != wanted {
                self.set_entry_bits(address, shape.entry_bytes, entry, wanted);
            }
            let frame = if legacy && large {
                // 4 MiB pages with address bits 32–39 in entry bits 13–20 (PSE-36).
                (entry & 0xffc0_0000) | (entry >> 13 & 0xff) << 32
            } else {
                entry & paging::ADDRESS_MASK & !offset_mask
            };
            let dirty = access.write || entry & paging::DIRTY != 0;
            let write_access = Access { write: true, fetch: false, ..access };
            let write_ready = dirty
                && key & 2 == 0
                && self.check(write_access, writable, user, no_execute, cr0, cr4).is_ok();
            let gpa = frame | linear & offset_mask;
            let global = cr4.contains(Cr4::PGE) && entry & paging::GLOBAL != 0;
            return Ok(Translation { gpa, write_ready, page_bits, global });
        }
    }

    /// Permissions (SDM vol. 3A, 4.6).
    fn check(
        &self,
        access: Access,
        writable: bool,
        user: bool,
        no_execute: bool,
        cr0: Cr0,
        cr4: Cr4,
    ) -> Result<(), ()> {
        let allowed = if access.user {
            user && (writable || !access.write)
        } else {
            let write_ok = writable || !access.write || !cr0.contains(Cr0::WP);
            let smep_ok = !(access.fetch && user && cr4.contains(Cr4::SMEP));
            let lifted = self.native.rflags & RFlags::AC.bits() != 0 && !access.implicit;
            let smap_ok = access.fetch || !user || !cr4.contains(Cr4::SMAP) || lifted;
            write_ok && smep_ok && smap_ok
        };
        if allowed && !(access.fetch && no_execute) { Ok(()) } else { Err(()) }
    }

    /// Whether the directory-pointer table of PAE paging at `cr3` may be used: reserved bits of it are
    /// found when it comes into use (SDM vol. 3A, 4.4.1).
    pub fn pae_pointers_are_valid(&self, cr3: u64) -> bool {
        let reserved = Shape::PAE.reserved | paging::PAE_POINTER_RESERVED;
        (0..4).all(|index| {
            let entry = self.read_entry((cr3 & 0xffff_ffe0) + index * 8, 8).unwrap_or(0);
            entry & paging::PRESENT == 0 || entry & reserved == 0
        })
    }

    fn read_entry(&self, address: u64, bytes: u64) -> Option<u64> {
        let (page, _) = self.ram.host_page(address)?;
        let at = page + (address & 0xfff) as usize;
        #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
        // SAFETY: `at` is an aligned entry inside a page of guest RAM, mapped while `ram` lives.
        unsafe {
            Some(if bytes == 8 { u64::load(at) } else { u64::from(u32::load(at)) })
        }
    }

    /// Sets bits in a paging-structure entry unless another CPU changed it meanwhile (then the
    /// next walk sees the change).
    fn set_entry_bits(&mut self, address: u64, bytes: u64, entry: u64, bits: u64) {
        let Some((page, ram_page)) = self.ram.host_page(address) else { return };
        let at = page + (address & 0xfff) as usize;
        #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
        // SAFETY: as in `read_entry`; guest RAM is never borrowed by Rust code.
        unsafe {
            if bytes == 8 {
                u64::compare_exchange(at, entry, entry | bits);
            } else {
                u32::compare_exchange(at, entry as u32, (entry | bits) as u32);
            }
        }
        self.note_code_write(ram_page);
    }
}
