//! Stubs that look into the second level of a cache once the first has failed.
//!
//! The second levels are large and indexed by a product, so that what shares a slot in the first does not
//! in the second. A look costs some 30 cycles; an exit, some hundreds. What is found is copied to the first
//! level: its slot there was used when the entry was made, so whoever empties the first level knows it.

use crate::emit::{Code, Mem, reg};
use crate::layout::{self, SetLayout};
use ambos_interpret::mmu::{
    JUMP_SPREAD_SHIFT, JUMPS, PAGE_SPREAD_SHIFT, SECOND_JUMPS, SETS, SPREAD,
};

/// The site of memory operands that neither level has: [`layout::FOUND`] says which operand.
pub(crate) const MISS: u32 = u32::MAX - 1;
/// The site of groups of memory operands that do not lie in one page: [`layout::FOUND`] says which.
pub(crate) const APART: u32 = u32::MAX - 3;
/// The site of jumps to the address of the barred slot, whose code looks up.
pub(crate) const BARRED: u32 = u32::MAX - 2;
/// What rotates a linear address right so that [`OPEN`] leaves the place of its slot in a first level of
/// jumps.
pub(crate) const JUMP_ROTATION: u8 = 64 - 3;
/// The gate's value while nothing wants attention. It takes part in finding the slot: with a closed gate that is
/// the barred one.
pub(crate) const OPEN: u32 = ((JUMPS - 1) << 4) as u32;
/// Operand sizes that have stubs: powers of two up to 64.
const SIZES: usize = 7;

/// What the stub for a group of operands is to know, in the code cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor {
    /// Bytes that the group spans.
    pub(crate) size: usize,
    /// Where to go on with its host address.
    pub(crate) ready: u64,
    /// Where to go on if it does not lie in one page: else the stub leaves then.
    pub(crate) apart: Option<u64>,
}

impl Descriptor {
    const READY: i32 = 2;
    const APART: i32 = 6;

    /// How far in a page the group may begin, and the lower halves of the addresses.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut bytes = (0x1000 - self.size as u16).to_le_bytes().to_vec();
        for address in [self.ready].into_iter().chain(self.apart) {
            bytes.extend((address as u32).to_le_bytes());
        }
        bytes
    }

    /// Goes to a stub with the descriptor, which is put behind the jump.
    pub(crate) fn lead_to(self, code: &mut Code, stub: u64) {
        code.note_found(0);
        let noted = code.bytes.len();
        code.jump_by_way(stub);
        let here = code.here() as u32;
        code.bytes[noted - 4..noted].copy_from_slice(&here.to_le_bytes());
        code.raw(&self.bytes());
    }
}

/// The ways into a stub that looks for an operand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OperandStub {
    /// With what the probe of the first level has left in both registers.
    pub(crate) probed: u64,
    /// With the linear address.
    pub(crate) known: u64,
}

/// Addresses of the stubs.
#[derive(Debug, Clone)]
pub(crate) struct SecondLevel {
    /// By set, whether it writes, whether the address is in R11, and the size's binary logarithm.
    operands: [[[[OperandStub; SIZES]; 2]; 2]; SETS],
    /// By set, whether it writes, and whether the descriptor says where to go on with a group taken apart.
    groups: [[[OperandStub; 2]; 2]; SETS],
    /// By set.
    jumps: [u64; SETS],
    /// The code of the barred slot.
    pub(crate) barred: u64,
}

impl SecondLevel {
    /// Generates the stubs; `exit` is the way out.
    pub(crate) fn generate(
        code: &mut Code,
        sets: &[SetLayout; SETS],
        gate: u32,
        exit: u64,
    ) -> Self {
        let operands = sets.map(|set| {
            [(set.read, set.read_second), (set.write, set.write_second)].map(|caches| {
                [(reg::R10, reg::R11), (reg::R11, reg::R10)].map(|(first, second)| {
                    std::array::from_fn(|size| {
                        operand(
                            code,
                            (caches, set.page_masks),
                            first,
                            second,
                            Form::Operand(1 << size),
                            exit,
                        )
                    })
                })
            })
        });
        let groups = sets.map(|set| {
            [(set.read, set.read_second), (set.write, set.write_second)].map(|caches| {
                [false, true].map(|leads| {
                    let form = Form::Group { leads };
                    operand(code, (caches, set.page_masks), reg::R10, reg::R11, form, exit)
                })
            })
        });
        let jumps = sets.map(|set| jump(code, set.jumps, set.jumps_second, gate, exit));
        let barred = code.here();
        code.note_site(BARRED);
        code.jump(exit);
        Self { operands, groups, jumps, barred }
    }

    /// The stub for memory operands of these properties: it wants the linear address in R10 or, if `in_r11`, R11, and in
    /// [`layout::FOUND`] the place to go on at. `None` if there is none for the size.
    pub(crate) fn operand(
        &self,
        set: usize,
        write: bool,
        in_r11: bool,
        size: usize,
    ) -> Option<OperandStub> {
        if !size.is_power_of_two() {
            return None;
        }
        let sizes = &self.operands[set][usize::from(write)][usize::from(in_r11)];
        sizes.get(size.trailing_zeros() as usize).copied()
    }

    /// The stub for groups of operands: it wants the linear address of the first byte in R10 and in [`layout::FOUND`] the
    /// address of a [`Descriptor`], and leaves the host address in R10. `leads` if the descriptor says where to go on with
    /// a group that does not lie in one page.
    pub(crate) fn group(&self, set: usize, write: bool, leads: bool) -> OperandStub {
        self.groups[set][usize::from(write)][usize::from(leads)]
    }

    /// The stub for jumps to the linear address in R10, the flags being kept in memory, of the site whose number
    /// is in R11.
    pub(crate) fn jump(&self, set: usize) -> u64 {
        self.jumps[set]
    }
}

/// What a stub looks for and what it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// All bytes of an operand: the offset in the page and the page's host address.
    Operand(i32),
    /// The first byte of a group: its host address.
    Group { leads: bool },
}

fn operand(
    code: &mut Code,
    ((first_level, cache), masks): ((i32, i32), [u32; 2]),
    first: u8,
    second: u8,
    form: Form,
    exit: u64,
) -> OperandStub {
    let size = match form {
        Form::Operand(size) => size,
        Form::Group { .. } => 1,
    };
    let probed = code.here();
    // The address again: xor first, [key]
    code.op(true, &[0x33], first, Mem::GsBase(second, first_level));
    let known = code.here();
    if let Form::Group { leads } = form {
        read_descriptor(code, first, second, leads, exit);
    }
    code.rorx(second, first, 12);
    code.imul(second, SPREAD);
    code.shr(second, PAGE_SPREAD_SHIFT as u8 - 4);
    code.and32(second, masks[1]);
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
    code.and32(reg::RCX, masks[0]);
    code.store(Mem::GsBase(reg::RCX, first_level), reg::RAX);
    code.store(Mem::GsBase(reg::RCX, first_level + 8), second);
    code.load(reg::RAX, Mem::Gs(layout::SPILLED_RAX));
    code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
    if matches!(form, Form::Group { .. }) {
        code.lea(first, Mem::Sum(first, second));
    }
    // jmp [found]
    code.op(false, &[0xff], 4, Mem::Gs(layout::FOUND));
    let here = code.here();
    code.bind(miss, here);
    code.op(true, &[0x33], first, Mem::GsBase(second, cache));
    code.note_site(MISS);
    code.jump(exit);
    OperandStub { probed, known }
}

/// Notes where to go on after the group at the linear address in `first`, whose descriptor was noted there; leaves, or
/// goes on elsewhere, if that does not lie in one page.
fn read_descriptor(code: &mut Code, first: u8, second: u8, leads: bool, exit: u64) {
    code.load(second, Mem::Gs(layout::FOUND));
    code.store(Mem::Gs(layout::SPILLED_RAX), reg::RAX);
    // mov eax, dword ptr [ready]
    code.op(false, &[0x8b], reg::RAX, Mem::Base(second, Descriptor::READY));
    // mov dword ptr [found], eax
    code.op(false, &[0x89], reg::RAX, Mem::Gs(layout::FOUND));
    code.copy(reg::RAX, first);
    code.and32(reg::RAX, 0xfff);
    // cmp ax, word ptr [limit]
    code.raw(&[0x66]);
    code.op(false, &[0x3b], reg::RAX, Mem::Base(second, 0));
    let inside = code.short_jump_if(6);
    if leads {
        code.op(false, &[0x8b], reg::RAX, Mem::Base(second, Descriptor::APART));
        code.op(false, &[0x89], reg::RAX, Mem::Gs(layout::FOUND));
        code.load(reg::RAX, Mem::Gs(layout::SPILLED_RAX));
        // jmp [found]
        code.op(false, &[0xff], 4, Mem::Gs(layout::FOUND));
    } else {
        code.load(reg::RAX, Mem::Gs(layout::SPILLED_RAX));
        code.note_site(APART);
        code.jump(exit);
    }
    code.land(inside);
    code.load(reg::RAX, Mem::Gs(layout::SPILLED_RAX));
}

/// The flags are kept in memory and need not survive; the site's number is in R11.
fn jump(code: &mut Code, first_level: i32, cache: i32, gate: u32, exit: u64) -> u64 {
    let start = code.here();
    code.name_site(reg::R11);
    // cmp dword ptr [gate], 0
    code.op(false, &[0x83], 7, Mem::Low(gate));
    code.raw(&[0]);
    let closed = code.jump_if(4, 0);
    code.copy(reg::R11, reg::R10);
    code.imul(reg::R11, SPREAD);
    code.shr(reg::R11, JUMP_SPREAD_SHIFT as u8 - 4);
    code.and32(reg::R11, ((SECOND_JUMPS - 1) << 4) as u32);
    code.compare(Mem::GsBase(reg::R11, cache), reg::R10);
    let miss = code.jump_if(5, 0);
    code.load(reg::R11, Mem::GsBase(reg::R11, cache + 8));
    code.store(Mem::Gs(layout::SAVED_RCX), reg::RCX);
    code.rorx(reg::RCX, reg::R10, JUMP_ROTATION);
    code.and32(reg::RCX, OPEN);
    // jrcxz over the stores: the barred slot stays as it is
    code.raw(&[0xe3, 0]);
    let barred = code.bytes.len();
    code.store(Mem::GsBase(reg::RCX, first_level), reg::R10);
    code.store(Mem::GsBase(reg::RCX, first_level + 8), reg::R11);
    code.land(barred);
    code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
    code.store(Mem::Gs(layout::FOUND), reg::R11);
    // jmp [found]
    code.op(false, &[0xff], 4, Mem::Gs(layout::FOUND));
    let here = code.here();
    code.bind(miss, here);
    code.bind(closed, here);
    code.jump(exit);
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_follow_what_leads_to_them() {
        let (at, ready, apart) = (0x7000_0000_1000, 0x7000_0000_0123, 0x7000_0100_0000_u64);
        let mut code = Code::new();
        code.start(at);
        let descriptor = Descriptor { size: 0x18, ready, apart: Some(apart) };
        descriptor.lead_to(&mut code, at - 0x1000);
        let bytes = descriptor.bytes();
        let start = code.bytes.len() - bytes.len();
        assert_eq!(code.bytes[start..], bytes);
        let word = |at: usize| u32::from_le_bytes(code.bytes[at..at + 4].try_into().unwrap());
        assert_eq!(word(start - 5 - 4), at as u32 + start as u32);
        assert_eq!(u16::from_le_bytes([bytes[0], bytes[1]]), 0xfe8);
        assert_eq!(word(start + Descriptor::READY as usize), ready as u32);
        assert_eq!(word(start + Descriptor::APART as usize), apart as u32);
    }
}
