//! Requests that nobody serves, recorded with where the guest made them.
//!
//! Handlers and memory accesses only note what was asked for; the instruction's place is known where it
//! ends.

use crate::cpu::{Cpu, RIP};
use crate::decode::MAX_INSTRUCTION;
use ambos_hostcode::mem;
use ambos_vcpu::Platform;
use iced_x86::{Decoder, DecoderOptions};

impl Cpu {
    /// Notes that the current instruction asks for `what`, which nobody serves. The block ends after
    /// the instruction.
    #[cold]
    pub fn note_unserved(&mut self, what: impl Into<String>) {
        self.unserved.push(what.into());
        self.leave_block = true;
    }

    /// Notes what the platform says that an access of the current instruction asked for in vain.
    #[inline]
    pub fn note_access(&mut self, platform: &mut dyn Platform) {
        if let Some(what) = platform.take_unserved() {
            self.note_unserved(what);
        }
    }

    /// Records what the instruction at `offset` of the current block asked for; `None` if its place is
    /// not known any more.
    #[inline]
    pub(crate) fn record_unserved(&mut self, platform: &dyn Platform, offset: Option<u16>) {
        if !self.unserved.is_empty() {
            self.record_noted(platform, offset);
        }
    }

    #[cold]
    fn record_noted(&mut self, platform: &dyn Platform, offset: Option<u16>) {
        let (rip, (bytes, length)) = match offset {
            Some(offset) => {
                let rip = self.mask_rip(self.native.gpr[RIP].wrapping_add(u64::from(offset)));
                (rip, self.instruction_bytes(rip))
            }
            None => (0, Default::default()),
        };
        for what in std::mem::take(&mut self.unserved) {
            platform.unserved().record(what, rip, &bytes[..length]);
        }
    }

    /// The bytes of the instruction at `rip` as far as they lie in pages that code was just fetched
    /// from, and how many they are.
    fn instruction_bytes(&self, rip: u64) -> ([u8; MAX_INSTRUCTION], usize) {
        let mut bytes = [0; MAX_INSTRUCTION];
        let known = self.fetched_bytes(rip, &mut bytes);
        let bits = u32::from(self.mode.code_bits);
        let mut decoder = Decoder::new(bits, &bytes[..known], DecoderOptions::NONE);
        let length = decoder.decode().len();
        (bytes, length.min(known))
    }

    /// The code at `rip` for some ten instructions, as far as it lies in pages that code was fetched
    /// from lately.
    pub fn code_bytes(&self, rip: u64) -> Vec<u8> {
        let mut bytes = vec![0; 6 * MAX_INSTRUCTION];
        let known = self.fetched_bytes(rip, &mut bytes);
        bytes.truncate(known);
        bytes
    }

    /// Copies code from `rip` on, as far as it lies in pages that code was fetched from lately;
    /// returns how many bytes that are.
    fn fetched_bytes(&self, rip: u64, bytes: &mut [u8]) -> usize {
        let mut known = 0;
        while known < bytes.len() {
            let linear = self.code_linear(rip.wrapping_add(known as u64));
            let Some(page) = self.tlb.peek_fetch(self.mode.cpl == 3, linear) else { break };
            let offset = (linear & 0xfff) as usize;
            let length = (bytes.len() - known).min(0x1000 - offset);
            #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
            // SAFETY: fetch translations name mapped pages of guest RAM; the bytes end in the page.
            unsafe {
                mem::copy_from(page.host_page + offset, &mut bytes[known..known + length]);
            }
            known += length;
        }
        known
    }
}
