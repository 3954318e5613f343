//! Fetching code: from the instruction pointer to a decoded block.

use crate::blocks::{self, Block, BlockCache};
use crate::cpu::{Cpu, RIP, seg};
use crate::decode::{self, MAX_INSTRUCTION};
use crate::exit::{Exit, Fault};
use crate::mmu::Access;
use ambos_hostcode::mem;
use ambos_intercept::Intercept;
use ambos_memory::PageFlags;
use ambos_vcpu::Platform;
use iced_x86::{Decoder, DecoderError, DecoderOptions};
use std::rc::Rc;

/// Most instructions in a block.
const MAX_BLOCK: usize = 64;

/// One page of code.
#[derive(Debug, Clone, Copy)]
pub struct CodePage {
    /// Guest-physical address.
    pub gpa_page: u64,
    /// Host address.
    pub host_page: usize,
    /// Page number within RAM.
    pub ram_page: usize,
}

impl Cpu {
    /// The block at the instruction pointer.
    ///
    /// # Errors
    ///
    /// The fault of the fetch: #PF, #GP, or #UD where code lies outside RAM.
    #[inline]
    pub fn fetch(&mut self, platform: &mut dyn Platform) -> Result<Rc<Block>, Exit> {
        let rip = self.native.gpr[RIP];
        let linear = self.code_linear(rip);
        if !self.is_64bit() && rip > u64::from(self.segments[seg::CS].limit) {
            return Err(Fault::GP0.into());
        }
        let user = self.mode.cpl == 3;
        let (page, ram_page) = match self.tlb.lookup_fetch(user, linear) {
            Some(entry) => (entry.gpa_page, entry.ram_page),
            None => {
                let page = self.code_page(platform, linear)?;
                (page.gpa_page, page.ram_page)
            }
        };
        let key = blocks::key(page | linear & 0xfff, self.mode.key());
        let version = self.ram.page_flags().version(ram_page);
        match self.blocks.get(key, version) {
            Some(block) => Ok(block),
            None => self.decode_block(platform, linear, key),
        }
    }

    /// The linear address of an offset in the code segment.
    #[inline]
    pub fn code_linear(&self, rip: u64) -> u64 {
        if self.is_64bit() {
            rip
        } else {
            self.segments[seg::CS].base.wrapping_add(rip) & 0xffff_ffff
        }
    }

    /// The page that code at `linear` is fetched from.
    ///
    /// # Errors
    ///
    /// The fault of the fetch.
    pub fn code_page(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
    ) -> Result<CodePage, Exit> {
        let user = self.mode.cpl == 3;
        if let Some(entry) = self.tlb.lookup_fetch(user, linear) {
            let (gpa_page, host_page, ram_page) = (entry.gpa_page, entry.host_page, entry.ram_page);
            return Ok(CodePage { gpa_page, host_page, ram_page });
        }
        let access = Access { fetch: true, user, ..Access::default() };
        let translation = self.translate(linear, access)?;
        platform.ledger().count(Intercept::TlbFill);
        let gpa_page = translation.gpa & !0xfff;
        let Some((host_page, ram_page)) = self.ram.host_page(gpa_page) else {
            let what = format!("instruction fetch from device memory at {:#x}", translation.gpa);
            self.note_unserved(what);
            return Err(Fault::UD.into());
        };
        if translation.page_bits > 12 {
            self.tlb.note_large_page(linear, translation.page_bits);
        }
        self.tlb.insert_fetch(user, linear, gpa_page, host_page, ram_page);
        Ok(CodePage { gpa_page, host_page, ram_page })
    }

    fn decode_block(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        key: u64,
    ) -> Result<Rc<Block>, Exit> {
        platform.ledger().count(Intercept::Translation);
        let page = self.code_page(platform, linear)?;
        // From here on writes to the page are noticed; only then may its bytes be read.
        if self.ram.page_flags().set(page.ram_page, PageFlags::CODE) & PageFlags::CODE == 0 {
            self.tlb.protect_host_page(page.host_page);
            platform.flush_others();
            // Others may have waited for this vCPU meanwhile.
            self.serve_flush();
        }
        let version = self.ram.page_flags().version(page.ram_page);
        let offset = (linear & 0xfff) as usize;
        let mut bytes = [0; 0x1000];
        let bytes = &mut bytes[offset..];
        #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
        // SAFETY: `host_page` is a mapped page of guest RAM and the bytes end at its end.
        unsafe {
            mem::copy_from(page.host_page + offset, bytes);
        }
        let rip = self.native.gpr[RIP];
        let bits = u32::from(self.mode.code_bits);
        let mut decoder = Decoder::with_ip(bits, bytes, rip, DecoderOptions::NONE);
        let mut ops = Vec::with_capacity(8);
        let mut length = 0;
        while ops.len() < MAX_BLOCK {
            let instruction = decoder.decode();
            let start = decoder.position() - instruction.len();
            match decoder.last_error() {
                DecoderError::None => {}
                _ if !ops.is_empty() => break,
                DecoderError::NoMoreBytes => return self.decode_crossing(platform, linear),
                _ => {
                    ops.push(decode::undefined(self.mode, decoder.position()));
                    length = 1;
                    break;
                }
            }
            let op = decode::lower(self, &instruction, &bytes[start..decoder.position()], start);
            length = decoder.position() as u16;
            let last = op.ends_block;
            ops.push(op.op);
            if last {
                break;
            }
        }
        Ok(self.blocks.insert(key, page.ram_page, version, ops, length))
    }

    /// Decodes the one instruction at `linear` whose bytes continue on the next page. It is decoded
    /// each time it runs.
    fn decode_crossing(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
    ) -> Result<Rc<Block>, Exit> {
        let mut bytes = [0; MAX_INSTRUCTION];
        let first = 0x1000 - (linear & 0xfff) as usize;
        let page = self.code_page(platform, linear)?;
        let next = if self.is_64bit() {
            (linear & !0xfff).wrapping_add(0x1000)
        } else {
            (linear & !0xfff).wrapping_add(0x1000) & 0xffff_ffff
        };
        let (head, tail) = bytes.split_at_mut(first.min(MAX_INSTRUCTION));
        #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
        // SAFETY: the bytes are the last `first` of a mapped page of guest RAM.
        unsafe {
            mem::copy_from(page.host_page + (linear & 0xfff) as usize, head);
        }
        if !tail.is_empty() {
            let page = self.code_page(platform, next)?;
            #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
            // SAFETY: the bytes are the first ones, fewer than 15, of a mapped page of guest RAM.
            unsafe {
                mem::copy_from(page.host_page, tail);
            }
        }
        let rip = self.native.gpr[RIP];
        let bits = u32::from(self.mode.code_bits);
        let mut decoder = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let op = match decoder.last_error() {
            DecoderError::None => {
                decode::lower(self, &instruction, &bytes[..instruction.len()], 0).op
            }
            // More than fifteen bytes.
            DecoderError::NoMoreBytes => return Err(Fault::GP0.into()),
            _ => decode::undefined(self.mode, decoder.position()),
        };
        let length = op.end;
        Ok(BlockCache::temporary(vec![op], length))
    }
}
