//! Running one translated block alone, so that someone can look at what it did.

use crate::dispatch::Translator;
use crate::gather::PEEK;
use crate::liveness;
use crate::records::Part;
use ambos_hostcode::signals;
use ambos_interpret::Cpu;
use ambos_interpret::cpu::RIP;
use ambos_vcpu::{Platform, Stop};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use std::ops::Range;

/// Whether an instruction gives another result each time.
pub(crate) fn is_unsteady(mnemonic: Mnemonic) -> bool {
    matches!(mnemonic, Mnemonic::Rdtsc | Mnemonic::Rdtscp | Mnemonic::Rdrand | Mnemonic::Rdseed)
}

/// The state after an instruction that the interpreter ran in a block.
#[derive(Debug, Clone, Copy)]
pub struct Interpreted {
    /// Its linear address.
    pub rip: u64,
    /// General-purpose registers after it.
    pub gpr: [u64; 16],
    /// Flags after it.
    pub rflags: u64,
}

/// Notes of the run of one block.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Linear address of the last instruction that was begun.
    pub(crate) last: Option<u64>,
    /// It went on elsewhere.
    pub(crate) left: bool,
    interpreted: Vec<Interpreted>,
}

/// What the run of one block did.
#[derive(Debug)]
pub struct Apart {
    /// Number of the block, for [`Translator::explain`].
    pub block: u32,
    /// Linear address of the last instruction that was begun; `None` if there was none.
    pub last: Option<u64>,
    /// How many instructions that is from the block's start.
    pub instructions: usize,
    /// Whether it came to an end of the block.
    pub complete: bool,
    /// The arithmetic flags that the rest of the block needs; `None` where code elsewhere decides.
    pub needed: Option<u64>,
    /// What the interpreter ran in the block.
    pub interpreted: Vec<Interpreted>,
    /// Why the vCPU stops, if it does.
    pub stop: Option<Stop>,
}

/// The instructions of all blocks, where these run apart: where they are in their pages, and which flags are needed before
/// each.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    offsets: Vec<u16>,
    live: Vec<u8>,
    /// By block, how many there are up to its end, and the flags needed there if that is known from code beyond it.
    ends: Vec<(usize, Option<u8>)>,
}

impl Steps {
    /// Adds the next block.
    pub(crate) fn add(&mut self, parts: &[Part], live_after: Option<u8>) {
        for part in parts.iter().filter(|part| !part.after) {
            self.offsets.push(part.guest);
            self.live.push(part.live);
        }
        self.ends.push((self.offsets.len(), live_after));
    }

    fn range(&self, block: u32) -> Range<usize> {
        let block = block as usize;
        let end = |block: usize| self.ends.get(block).map_or(0, |&(end, _)| end);
        block.checked_sub(1).map_or(0, end)..end(block)
    }

    /// Offsets in its page of a block's instructions.
    pub(crate) fn offsets(&self, block: u32) -> &[u16] {
        self.offsets.get(self.range(block)).unwrap_or_default()
    }

    /// Flags needed after the first `count` instructions of a block, as far as it was translated with more in view.
    fn live_after(&self, block: u32, count: usize) -> Option<u8> {
        match self.live.get(self.range(block))?.get(count) {
            Some(&live) => Some(live),
            None => self.ends.get(block as usize)?.1,
        }
    }

    /// Bytes in use.
    pub(crate) fn size(&self) -> usize {
        size_of_val(&self.offsets[..]) + self.live.len() + size_of_val(&self.ends[..])
    }
}

impl Translator {
    /// The vCPU that the translator works for.
    pub fn cpu(&mut self) -> &mut Cpu {
        &mut self.head.cpu
    }

    /// The bytes of 64-bit code at `rip`, to the end of its page or for one instruction on the border,
    /// as far as pages that code was fetched from lately have them.
    pub fn code_bytes(&self, rip: u64) -> Vec<u8> {
        self.head.cpu.code_bytes(rip)
    }

    /// Prepares for the next step of a run whose blocks run apart: the block to give to
    /// [`Translator::run_apart`], or an error when something else was done instead, with why the vCPU
    /// stops if it does.
    pub fn next_apart(&mut self, platform: &mut dyn Platform) -> Result<u32, Option<Stop>> {
        if signals::prepare_thread().is_err() {
            return Err(self.head.cpu.run_block(platform, usize::MAX));
        }
        if !self.undisturbed() {
            if let Some(stop) = self.head.cpu.look_up(platform) {
                return Err(Some(stop));
            }
            if self.head.cpu.slow {
                return Err(self.head.cpu.step_slowly(platform));
            }
        }
        self.keep_current();
        match self.find(platform) {
            Some(block) => Ok(block),
            None => Err(self.head.cpu.run_block(platform, usize::MAX)),
        }
    }

    /// Notes that the interpreter ran the instruction at `rip`, unless it faulted or has more to do;
    /// `events` are those counted before it.
    pub(crate) fn note_interpreted(&mut self, rip: u64, events: u64) {
        if self.options.apart && self.head.cpu.events == events {
            let mut gpr = [0; 16];
            gpr.copy_from_slice(&self.head.cpu.native.gpr[..16]);
            let rflags = self.head.cpu.native.rflags;
            self.run.interpreted.push(Interpreted { rip, gpr, rflags });
        }
    }

    /// Runs the block `block`, which [`Translator::next_apart`] named, to its end or to where the
    /// dispatcher is needed. The translator was made with [`crate::Options::apart`].
    pub fn run_apart(&mut self, platform: &mut dyn Platform, block: u32) -> Apart {
        self.run = Run::default();
        let start = self.head.cpu.native.gpr[RIP];
        let offsets = self.cache.steps.offsets(block).to_vec();
        let stop = self.run_translated(platform, block);
        let Run { last, left, interpreted } = std::mem::take(&mut self.run);
        let index = last.and_then(|last| {
            offsets.iter().position(|&offset| start & !0xfff | u64::from(offset) == last)
        });
        let instructions = index.map_or(0, |index| index + 1);
        let complete = left || instructions == offsets.len();
        let known = !left && block < self.cache.len();
        let needed = known.then(|| self.cache.steps.live_after(block, instructions)).flatten();
        let needed = needed.map(|live| Self::flags(u32::from(live)));
        Apart { block, last, instructions, complete, needed, interpreted, stop }
    }

    /// The guest's code (offsets in its page) and the host's code (address and bytes) of a block.
    pub fn explain(&self, block: u32) -> Option<(Vec<u16>, u64, Vec<u8>)> {
        let known = self.cache.known_block(block)?;
        let (records, start) = (known.records(), known.start);
        let length = records.clone().end() - start;
        let bytes = self.arena.bytes(start as usize, length as usize)?;
        Some((records.guest_offsets().collect(), start, bytes))
    }

    /// The arithmetic flags that blocks which end at the code `bytes` keep.
    pub fn needed_flags(bytes: &[u8]) -> u64 {
        let instructions = Decoder::new(64, bytes, DecoderOptions::NONE).into_iter().take(PEEK);
        let steady: Vec<_> = instructions.take_while(|next| !next.is_invalid()).collect();
        let needed = liveness::at_start(steady.iter());
        Self::flags(needed)
    }

    /// The bits of RFLAGS that a set of [`iced_x86::RflagsBits`] names, as far as they are arithmetic.
    pub fn flags(bits: u32) -> u64 {
        use iced_x86::RflagsBits as Bit;
        let table = [
            (Bit::CF, 1),
            (Bit::PF, 4),
            (Bit::AF, 0x10),
            (Bit::ZF, 0x40),
            (Bit::SF, 0x80),
            (Bit::OF, 0x800),
        ];
        let named = table.iter().filter(|(bit, _)| bits & bit != 0);
        named.fold(0, |flags, (_, flag)| flags | flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_of_their_block() {
        let mut steps = Steps::default();
        let part =
            |guest, live, after| Part { host: 0, guest, length: 1, live, goes_on: true, after };
        steps.add(&[part(8, 1, false), part(8, 1, true), part(9, 2, false)], Some(3));
        steps.add(&[part(4, 5, false)], None);
        assert_eq!([0, 1, 2].map(|block| steps.offsets(block)), [&[8, 9][..], &[4], &[]]);
        assert_eq!([0, 1, 2].map(|count| steps.live_after(0, count)), [Some(1), Some(2), Some(3)]);
        assert_eq!([0, 1].map(|count| steps.live_after(1, count)), [Some(5), None]);
        assert_eq!(steps.live_after(2, 0), None);
    }
}
