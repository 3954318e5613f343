//! How memory operands are reached: an inline probe of the software TLB.
//!
//! The probe needs the operand's linear address in one scratch register and a second one to work
//! with. It leaves the offset in the page in the first and the host address of the page in the
//! second, so that `[first + second]` is the operand. The comparison covers the page and
//! that the operand does not cross into the next one: of the exclusive or of address and tag nothing may
//! remain but an offset that leaves room for the operand.

use crate::build::{Builder, ColdKind};
use crate::emit::{Mem, reg};
use crate::layout;
use crate::site::Kind;
use ambos_interpret::mmu::ENTRIES;

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

/// A probe that the first level of the TLB may fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColdProbe {
    /// The address is in R11, not R10.
    in_r11: bool,
    /// The first level.
    cache: i32,
    /// Where to go on.
    ready: u64,
    size: usize,
    write: bool,
    set: usize,
}

impl Builder<'_> {
    /// Emits the probe for the linear address in `first`.
    pub(crate) fn probe(&mut self, first: u8, second: u8, operand: Operand) {
        let Operand { size, write, flags_live } = operand;
        let cache = if write { self.set.write } else { self.set.read };
        if flags_live {
            self.counters.flag_saves += 1;
            self.code.store(Mem::Gs(layout::SAVED_RAX), reg::RAX);
            // lahf; seto al
            self.code.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
        }
        let retry = self.code.here();
        self.code.rorx(second, first, 8);
        self.code.and32(second, ((ENTRIES - 1) << 4) as u32);
        self.code.op(true, &[0x33], first, Mem::GsBase(second, cache));
        self.code.cmp(first, 0x1000 - size as i32);
        let miss = self.code.jump_if(7, 0);
        self.code.load(second, Mem::GsBase(second, cache + 8));
        let ready = self.code.here();
        if flags_live {
            // add al, 127; sahf
            self.code.raw(&[0x04, 127, 0x9e]);
            self.code.load(reg::RAX, Mem::Gs(layout::SAVED_RAX));
        }
        let in_r11 = first == reg::R11;
        let kind =
            Kind::Miss { in_r11, size: size as u8, write, flags_in_rax: flags_live, retry, ready };
        let site = self.site(kind);
        let cold = ColdProbe { in_r11, cache, ready, size, write, set: self.set_number };
        self.cold(miss, site, ColdKind::Probe(cold));
    }

    /// Emits what a probe does off the straight path.
    pub(crate) fn cold_probe(&mut self, site: u32, probe: ColdProbe) {
        let ColdProbe { in_r11, cache, ready, size, write, set } = probe;
        let (first, second) = if in_r11 { (reg::R11, reg::R10) } else { (reg::R10, reg::R11) };
        // The address again.
        self.code.op(true, &[0x33], first, Mem::GsBase(second, cache));
        match self.stubs.second.operand(set, write, in_r11, size) {
            Some(stub) => {
                self.code.address(second, ready);
                self.code.jump(stub);
            }
            None => self.leave_at(site),
        }
    }
}
