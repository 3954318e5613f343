//! Fetching code: from the instruction pointer to a decoded block.

use crate::blocks::{self, Block};
use crate::cpu::{Cpu, RIP, seg};
use crate::decode::{self, MAX_INSTRUCTION};
use crate::exit::{Exit, Fault};
use crate::mmu::Access;
use ambos_hostcode::mem;
use ambos_intercept::Intercept;
use ambos_vcpu::Platform;
use iced_x86::{Decoder, DecoderError, DecoderOptions};
use std::rc::Rc;

/// Most instructions in a block.
const MAX_BLOCK: usize = 64;
/// Bytes of code that a block is decoded from: what goes on behind them is another. Few blocks have as many, and copying
/// all up to the end of the page took a fifth of the time that decoding does.
const MOST_BYTES: usize = 256;

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
        let global = translation.global;
        self.tlb.insert_fetch(user, global, linear, gpa_page, host_page, ram_page);
        Ok(CodePage { gpa_page, host_page, ram_page })
    }

    /// Sees to it that writes to a page of code are noticed: only then may its bytes be read. Returns the code version that
    /// these are of.
    pub fn watch_page(&mut self, platform: &mut dyn Platform, page: CodePage) -> u32 {
        let (version, watch) = self.ram.page_flags().watch(page.ram_page);
        if let Some(watch) = watch {
            self.tlb.protect_host_page(page.host_page);
            platform.flush_others();
            // Others may have waited for this vCPU meanwhile.
            self.serve_flush();
            self.ram.page_flags().watched(watch);
        }
        version
    }

    fn decode_block(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        key: u64,
    ) -> Result<Rc<Block>, Exit> {
        if let Some(block) = self.known_crossing(platform, linear, key)? {
            return Ok(block);
        }
        platform.ledger().count(Intercept::Translation);
        let page = self.code_page(platform, linear)?;
        let version = self.watch_page(platform, page);
        let offset = (linear & 0xfff) as usize;
        let mut bytes = [0; MOST_BYTES];
        let bytes = &mut bytes[..MOST_BYTES.min(0x1000 - offset)];
        #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
        // SAFETY: `host_page` is a mapped page of guest RAM and the bytes end in it.
        unsafe {
            mem::copy_words_from(page.host_page + offset, bytes);
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
                DecoderError::NoMoreBytes => return self.decode_crossing(platform, linear, key),
                _ => {
                    ops.push(decode::undefined(self.mode, bytes, decoder.position()));
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

    /// The one instruction at `linear` whose bytes continue on the next page, if it was decoded
    /// before and its bytes are the same. Comparing them is what makes it current: no version does.
    fn known_crossing(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        key: u64,
    ) -> Result<Option<Rc<Block>>, Exit> {
        let Some((bytes, block)) = self.blocks.crossing(key) else { return Ok(None) };
        let mut now = [0; MAX_INSTRUCTION];
        let head = self.copy_head(platform, linear, &mut now)?;
        // While these are the same, the instruction goes on, so that the next page is fetched from.
        if now[..head] != bytes[..head] {
            return Ok(None);
        }
        self.copy_tail(platform, linear, &mut now[head..])?;
        Ok((now == bytes).then_some(block))
    }

    /// Decodes the one instruction at `linear` whose bytes continue on the next page.
    fn decode_crossing(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        key: u64,
    ) -> Result<Rc<Block>, Exit> {
        let mut bytes = [0; MAX_INSTRUCTION];
        let head = self.copy_head(platform, linear, &mut bytes)?;
        self.copy_tail(platform, linear, &mut bytes[head..])?;
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
            _ => decode::undefined(self.mode, &bytes, decoder.position()),
        };
        let length = op.end;
        Ok(self.blocks.insert_crossing(key, bytes, op, length))
    }

    /// Copies code from `linear` to the end of its page; returns how many bytes of an instruction
    /// that may be.
    fn copy_head(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        bytes: &mut [u8; MAX_INSTRUCTION],
    ) -> Result<usize, Exit> {
        let offset = (linear & 0xfff) as usize;
        let head = (0x1000 - offset).min(MAX_INSTRUCTION);
        let page = self.code_page(platform, linear)?;
        #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
        // SAFETY: the bytes are at the end of a mapped page of guest RAM.
        unsafe {
            mem::copy_words_from(page.host_page + offset, &mut bytes[..head]);
        }
        Ok(head)
    }

    /// Copies code from the beginning of the page after that of `linear`.
    fn copy_tail(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        tail: &mut [u8],
    ) -> Result<(), Exit> {
        if tail.is_empty() {
            return Ok(());
        }
        let next = (linear & !0xfff).wrapping_add(0x1000);
        let next = if self.is_64bit() { next } else { next & 0xffff_ffff };
        let page = self.code_page(platform, next)?;
        #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
        // SAFETY: the bytes are the first ones, fewer than 15, of a mapped page of guest RAM.
        unsafe {
            mem::copy_words_from(page.host_page, tail);
        }
        Ok(())
    }
}
