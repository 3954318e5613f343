//! Stubs that look into the second level of a cache once the first has failed.
//!
//! The second levels are large and indexed by a product, so that what shares a slot in the first does not
//! in the second. A look costs some 30 cycles; an exit, some hundreds. What is found is copied to the first
//! level: its slot there was used when the entry was made, so whoever empties the first level knows it.

use crate::emit::{Code, Mem, reg};
use crate::layout::{self, SetLayout};
use ambos_interpret::mmu::{
    ENTRIES, JUMP_SPREAD_SHIFT, JUMPS, PAGE_SPREAD_SHIFT, SECOND_ENTRIES, SECOND_JUMPS, SETS,
    SPREAD,
};

/// The site of memory operands that neither level has: [`layout::FOUND`] says which operand.
pub(crate) const MISS: u32 = u32::MAX - 1;
/// Operand sizes that have stubs: powers of two up to 64.
const SIZES: usize = 7;

/// Addresses of the stubs.
#[derive(Debug, Clone)]
pub(crate) struct SecondLevel {
    /// By set, whether it writes, whether the address is in R11, and the size's binary logarithm.
    operands: [[[[u64; SIZES]; 2]; 2]; SETS],
    /// By set.
    jumps: [u64; SETS],
}

impl SecondLevel {
    /// Generates the stubs; `exit` is the way out.
    pub(crate) fn generate(code: &mut Code, sets: &[SetLayout; SETS], exit: u64) -> Self {
        let operands = sets.map(|set| {
            [(set.read, set.read_second), (set.write, set.write_second)].map(|caches| {
                [(reg::R10, reg::R11), (reg::R11, reg::R10)].map(|(first, second)| {
                    std::array::from_fn(|size| {
                        operand(code, caches, first, second, 1 << size, exit)
                    })
                })
            })
        });
        let jumps = sets.map(|set| jump(code, set.jumps, set.jumps_second, exit));
        Self { operands, jumps }
    }

    /// The stub for memory operands of these properties: it wants the linear address in R10 or, if
    /// `in_r11`, R11 and the place to go on at in the other. `None` if there is none for the size.
    pub(crate) fn operand(
        &self,
        set: usize,
        write: bool,
        in_r11: bool,
        size: usize,
    ) -> Option<u64> {
        if !size.is_power_of_two() {
            return None;
        }
        let sizes = &self.operands[set][usize::from(write)][usize::from(in_r11)];
        sizes.get(size.trailing_zeros() as usize).copied()
    }

    /// The stub for jumps to the linear address in R10. The site must have been noted.
    pub(crate) fn jump(&self, set: usize) -> u64 {
        self.jumps[set]
    }
}

fn operand(
    code: &mut Code,
    (first_level, cache): (i32, i32),
    first: u8,
    second: u8,
    size: i32,
    exit: u64,
) -> u64 {
    let start = code.here();
    code.store(Mem::Gs(layout::FOUND), second);
    code.rorx(second, first, 12);
    code.imul(second, SPREAD);
    code.shr(second, PAGE_SPREAD_SHIFT as u8 - 4);
    code.and32(second, ((SECOND_ENTRIES - 1) << 4) as u32);
    // xor first, [key]
    code.op(true, &[0x33], first, Mem::GsBase(second, cache));
    code.cmp(first, 0x1000 - size);
    let miss = code.jump_if(7, 0);
    code.store(Mem::Gs(layout::SPILLED_RAX), reg::RAX);
    code.store(Mem::Gs(layout::SAVED_RCX), reg::RCX);
    code.load(reg::RAX, Mem::GsBase(second, cache));
    code.load(second, Mem::GsBase(second, cache + 8));
    code.copy(reg::RCX, reg::RAX);
    code.shr(reg::RCX, 8);
    code.and32(reg::RCX, ((ENTRIES - 1) << 4) as u32);
    code.store(Mem::GsBase(reg::RCX, first_level), reg::RAX);
    code.store(Mem::GsBase(reg::RCX, first_level + 8), second);
    code.load(reg::RAX, Mem::Gs(layout::SPILLED_RAX));
    code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
    // jmp [found]
    code.op(false, &[0xff], 4, Mem::Gs(layout::FOUND));
    let here = code.here();
    code.bind(miss, here);
    code.op(true, &[0x33], first, Mem::GsBase(second, cache));
    code.op(false, &[0xc7], 0, Mem::Gs(layout::SITE));
    code.raw(&MISS.to_le_bytes());
    code.jump(exit);
    start
}

fn jump(code: &mut Code, first_level: i32, cache: i32, exit: u64) -> u64 {
    let start = code.here();
    let restore = |code: &mut Code| {
        // add al, 127; sahf
        code.raw(&[0x04, 127, 0x9e]);
        code.load(reg::RAX, Mem::Gs(layout::SAVED_RAX));
    };
    code.store(Mem::Gs(layout::SAVED_RAX), reg::RAX);
    // lahf; seto al
    code.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
    code.copy(reg::R11, reg::R10);
    code.imul(reg::R11, SPREAD);
    code.shr(reg::R11, JUMP_SPREAD_SHIFT as u8 - 4);
    code.and32(reg::R11, ((SECOND_JUMPS - 1) << 4) as u32);
    // add r10, [key]: zero if it is the negated address
    code.op(true, &[0x03], reg::R10, Mem::GsBase(reg::R11, cache));
    let miss = code.jump_if(5, 0);
    // sub r10, [key]
    code.op(true, &[0x2b], reg::R10, Mem::GsBase(reg::R11, cache));
    code.store(Mem::Gs(layout::SAVED_RCX), reg::RCX);
    code.load(reg::R11, Mem::GsBase(reg::R11, cache + 8));
    code.store(Mem::Gs(layout::FOUND), reg::R11);
    code.rorx(reg::RCX, reg::R10, 12);
    code.lea(reg::RCX, Mem::Sum(reg::RCX, reg::R10));
    code.imul(reg::RCX, 1 << 4);
    code.and32(reg::RCX, ((JUMPS - 1) << 4) as u32);
    code.store(Mem::GsBase(reg::RCX, first_level + 8), reg::R11);
    // neg r10, for the key and back
    code.raw(&[0x49, 0xf7, 0xda]);
    code.store(Mem::GsBase(reg::RCX, first_level), reg::R10);
    code.raw(&[0x49, 0xf7, 0xda]);
    code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
    restore(code);
    // jmp [found]
    code.op(false, &[0xff], 4, Mem::Gs(layout::FOUND));
    let here = code.here();
    code.bind(miss, here);
    // sub r10, [key]
    code.op(true, &[0x2b], reg::R10, Mem::GsBase(reg::R11, cache));
    restore(code);
    code.jump(exit);
    start
}
