//! How memory operands are reached: an inline probe of the software TLB.
//!
//! The probe needs the operand's linear address in one scratch register and a second one to work
//! with. It leaves the offset in the page in the first and the host address of the page in the
//! second, so that `[first + second]` is the operand; for a group of operands, their sum in the first. If the address is
//! known while the block is built, so is the offset, and the first holds nothing. The comparison covers the page and
//! that the operand does not cross into the next one: of the exclusive or of address and tag nothing may
//! remain but an offset that leaves room for the operand.

use crate::build::{Builder, ColdKind};
use crate::emit::{Mem, reg};
use crate::layout;
use crate::plan::{Address, PageGroup};
use crate::scratch::home_of;
use crate::second;
use crate::site::{GroupSite, Kind};
use iced_x86::{Code as Op, Instruction, MemoryOperand, Register};

/// What an instruction does with a memory operand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand {
    /// Bytes.
    pub(crate) size: usize,
    /// It is written, perhaps after being read.
    pub(crate) write: bool,
    /// The flags hold something that is still needed.
    pub(crate) flags_live: bool,
}

/// What a probe looks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Check {
    /// Bytes.
    pub(crate) size: usize,
    /// They may be written.
    pub(crate) write: bool,
    /// The flags hold something that is still needed.
    pub(crate) flags_live: bool,
    /// It is done for a group of operands.
    pub(crate) group: Option<PageGroup>,
}

/// A probe that the first level of the TLB may fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColdProbe {
    /// The address is in R11, not R10.
    in_r11: bool,
    /// The first level.
    cache: i32,
    /// The address, if it is known and not in a register.
    known: Option<u64>,
    /// Where to go on.
    ready: u64,
    set: usize,
    check: Check,
}

impl Builder<'_> {
    /// Computes the linear address of the memory operand into `first`; frees both scratch
    /// registers. `false` if that cannot be done.
    pub(crate) fn linear(&mut self, instruction: &Instruction, first: u8, second: u8) -> bool {
        let Some(address) = Address::of(instruction) else { return false };
        self.compute(address, first, second)
    }

    /// Computes a linear address into `first`; frees both scratch registers. `false` if that
    /// cannot be done.
    pub(crate) fn compute(&mut self, address: Address, first: u8, second: u8) -> bool {
        let Address { base, index, scale, displacement, segment, narrow } = address;
        for register in [base, index] {
            if let Some(home) = home_of(register) {
                self.need(home);
            }
        }
        self.free_scratch();
        if base == Register::RIP {
            let target = displacement as u64;
            if self.source.absolute {
                self.code.constant(first, target);
            } else {
                let Ok(away) = i32::try_from(target.wrapping_sub(self.page_base()) as i64) else {
                    return false;
                };
                self.code.load(first, Mem::Gs(layout::CODE_BASE));
                if away != 0 {
                    self.code.lea(first, Mem::Base(first, away));
                }
            }
        } else if base == Register::None && index == Register::None {
            match (segment, i32::try_from(displacement)) {
                (Some(number), Ok(displacement)) if !self.source.narrow => {
                    self.code.load(first, Mem::Gs(layout::segment_base(number)));
                    if displacement != 0 {
                        self.code.lea(first, Mem::Base(first, displacement));
                    }
                    return true;
                }
                _ => self.code.constant(first, displacement as u64),
            }
        } else if index == Register::None && displacement == 0 && !narrow {
            // Unlike LEA this takes no time.
            self.code.copy(first, base.number() as u8);
        } else {
            let memory =
                MemoryOperand::new(base, index, scale, displacement, 1, false, Register::None);
            let (code, to) = if narrow {
                (Op::Lea_r32_m, Register::EAX + u32::from(first))
            } else {
                (Op::Lea_r64_m, Register::RAX + u32::from(first))
            };
            let Ok(lea) = Instruction::with2(code, to, memory) else { return false };
            if !self.code.instruction(&lea) {
                return false;
            }
        }
        if let Some(number) = segment {
            self.code.load(second, Mem::Gs(layout::segment_base(number)));
            self.code.op(!self.source.narrow, &[0x8d], first, Mem::Sum(first, second));
        }
        true
    }

    /// Computes the linear address of the memory operand and emits its probe; frees both scratch registers
    /// before. Where the operand then is, unless that cannot be done.
    pub(crate) fn locate(
        &mut self,
        instruction: &Instruction,
        first: u8,
        second: u8,
        operand: Operand,
    ) -> Option<Mem> {
        let address = Address::of(instruction)?;
        let Operand { size, write, flags_live } = operand;
        self.locate_address(address, first, second, Check { size, write, flags_live, group: None })
    }

    /// The same for any address and check.
    pub(crate) fn locate_address(
        &mut self,
        address: Address,
        first: u8,
        second: u8,
        check: Check,
    ) -> Option<Mem> {
        if let Some(linear) = self.known(address, check.size).filter(|_| !self.viewing) {
            self.free_scratch();
            return Some(self.check_known(linear, first, second, check));
        }
        if !self.compute(address, first, second) {
            return None;
        }
        self.check(first, second, check);
        Some(match check.group {
            Some(_) => Mem::Base(first, 0),
            None => Mem::Sum(first, second),
        })
    }

    /// An address that is known while the block is built, if its place in the TLB then is as well and the
    /// operand does not cross into the next page.
    fn known(&self, address: Address, size: usize) -> Option<u64> {
        let Address { base, index, segment, displacement, narrow, .. } = address;
        let fixed = match base {
            Register::RIP => self.source.absolute,
            Register::None => index == Register::None && !narrow,
            _ => false,
        };
        let linear = displacement as u64;
        let inside = (linear & 0xfff) as usize + size <= 0x1000;
        let small = i32::try_from(displacement).is_ok();
        (fixed && segment.is_none() && inside && small).then_some(linear)
    }

    /// Emits the probe for a known linear address: with the slot known there is nothing to compute. Where the operand then
    /// is.
    fn check_known(&mut self, linear: u64, first: u8, second: u8, check: Check) -> Mem {
        let cache = if check.write { self.set.write } else { self.set.read };
        let entry =
            cache + ((linear >> layout::PAGE_ROTATION) as u32 & self.set.page_masks[0]) as i32;
        self.counters.probes += 1;
        if check.flags_live {
            self.keep_flags(second);
        }
        let retry = self.code.here();
        // cmp qword ptr [entry], page
        self.code.op(true, &[0x81], 7, Mem::Gs(entry));
        self.code.raw(&((linear & !0xfff) as i32).to_le_bytes());
        let miss = self.code.jump_if(5, 0);
        let offset = (linear & 0xfff) as i32;
        let place = if check.group.is_some() {
            self.code.load(first, Mem::Gs(entry + 8));
            self.code.lea(first, Mem::Base(first, offset));
            Mem::Base(first, 0)
        } else {
            self.code.load(second, Mem::Gs(entry + 8));
            Mem::Base(second, offset)
        };
        self.end_check(first, cache, Some(linear), [miss, retry], check);
        place
    }

    /// Emits the probe for the operand whose linear address is in `first`.
    pub(crate) fn probe(&mut self, first: u8, second: u8, operand: Operand) {
        let Operand { size, write, flags_live } = operand;
        self.check(first, second, Check { size, write, flags_live, group: None });
    }

    /// Emits the probe for the linear address in `first`. For a group that is left with the host address.
    pub(crate) fn check(&mut self, first: u8, second: u8, check: Check) {
        let Check { size, write, flags_live, .. } = check;
        if self.viewing {
            let usual = self.usual();
            return self.look_up_view(second, first, usual, flags_live);
        }
        let cache = if write { self.set.write } else { self.set.read };
        self.counters.probes += 1;
        if flags_live {
            self.keep_flags(second);
        }
        let retry = self.code.here();
        self.code.rorx(second, first, layout::PAGE_ROTATION);
        self.code.and32(second, self.set.page_masks[0]);
        self.code.op(true, &[0x33], first, Mem::GsBase(second, cache));
        self.code.cmp(first, 0x1000 - size as i32);
        let miss = self.code.jump_if(7, 0);
        match check.group {
            Some(_) => {
                self.code.op(true, &[0x03], first, Mem::GsBase(second, cache + 8));
                debug_assert_eq!(self.code.here() - miss, second::limit(cache) - 4 - 2);
            }
            None => self.code.load(second, Mem::GsBase(second, cache + 8)),
        }
        self.end_check(first, cache, None, [miss, retry], check);
    }

    /// Ends a probe: the displacement of the jump that is taken if it fails, and where to try again, are
    /// given.
    fn end_check(
        &mut self,
        first: u8,
        cache: i32,
        known: Option<u64>,
        [miss, retry]: [u64; 2],
        check: Check,
    ) {
        let Check { size, write, flags_live, group } = check;
        let ready = self.code.here();
        if self.eager_flags {
            self.want_flags(None);
        }
        let in_r11 = first == reg::R11;
        let flags_kept = flags_live;
        let kind = match group {
            None => {
                let (size, spanned) = (size as u8, self.plan.spans(self.index));
                Kind::Miss { in_r11, size, write, flags_kept, spanned, retry, ready }
            }
            Some(PageGroup { first, .. }) => {
                let patch = miss;
                let group = GroupSite { first, patch, write, flags_kept, retry, ready };
                Kind::Group(group)
            }
        };
        let site = self.site(kind);
        let set = self.set_number;
        let cold = ColdProbe { in_r11, cache, known, ready, set, check };
        self.cold(miss, site, ColdKind::Probe(cold));
    }

    /// Emits what a probe does off the straight path.
    pub(crate) fn cold_probe(&mut self, site: u32, probe: ColdProbe) {
        let ColdProbe { in_r11, cache, known, ready, set, check } = probe;
        let (first, second) = if in_r11 { (reg::R11, reg::R10) } else { (reg::R10, reg::R11) };
        let stubs = &self.stubs.second;
        let stub = match check.group {
            Some(_) => Some(stubs.group(set, check.write, false)),
            None => stubs.operand(set, check.write, in_r11, check.size),
        };
        match (stub, known) {
            (Some(stub), None) => self.code.jump_to_go_on(second, stub.packed, ready),
            (Some(stub), Some(linear)) => {
                self.code.constant(first, linear);
                self.code.note_found(ready);
                self.code.jump_by_way(stub.known);
            }
            (None, known) => {
                match known {
                    Some(linear) => self.code.constant(first, linear),
                    // The address again.
                    None => self.code.op(true, &[0x33], first, Mem::GsBase(second, cache)),
                }
                self.leave_with_scratch(site);
            }
        }
    }
}
