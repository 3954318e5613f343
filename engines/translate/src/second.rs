//! Stubs that look into the second level of a cache once the first has failed.
//!
//! The second levels are large and indexed by a product, so that what shares a slot in the first does not
//! in the second. A look costs some 30 cycles; an exit, some hundreds. What is found is copied to the first
//! level: its slot there was used when the entry was made, so whoever empties the first level knows it.

use crate::emit::{Code, INDEX_BITS, Mem, reg};
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

/// How far before the place where a probe for a group goes on it says how far in a page the group may begin: the operand
/// of its comparison, before a jump and the addition of what the first level, which is at this displacement, has.
pub(crate) fn limit(first_level: i32) -> u64 {
    let displacement = if i8::try_from(first_level + 8).is_ok() { 1 } else { 4 };
    4 + 6 + 4 + displacement
}

/// Where to go on with a group that has been found not to lie in one page before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor {
    /// With the host address of one that does.
    pub(crate) ready: u64,
    /// With one that does not.
    pub(crate) apart: u64,
}

impl Descriptor {
    const READY: i32 = 0;
    const APART: i32 = 4;

    /// The distances from the descriptor's own address.
    pub(crate) fn bytes(self, at: u64) -> [u8; 8] {
        let mut bytes = [0; 8];
        for (place, address) in [(Self::READY, self.ready), (Self::APART, self.apart)] {
            let distance = address.wrapping_sub(at) as i32;
            bytes[place as usize..][..4].copy_from_slice(&distance.to_le_bytes());
        }
        bytes
    }

    /// Goes to a stub with the descriptor, which is put behind the jump.
    pub(crate) fn lead_to(self, code: &mut Code, stub: u64) {
        code.note_found(0);
        let noted = code.bytes.len();
        code.jump_by_way(stub);
        let here = code.here();
        code.bytes[noted - 4..noted].copy_from_slice(&(here as u32).to_le_bytes());
        code.raw(&self.bytes(here));
    }
}

/// The ways into a stub that looks for an operand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OperandStub {
    /// With what the probe of the first level has left in both registers, and where to go on in the upper bits of the index
    /// and [`layout::WINDOW`].
    pub(crate) packed: u64,
    /// With what the probe has left, and where to go on in [`layout::FOUND`].
    pub(crate) probed: u64,
    /// With the linear address, of a group one that is known to lie in one page.
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

    /// The stub for memory operands of these properties: it wants the linear address in R10 or, if `in_r11`, R11. `None` if
    /// there is none for the size.
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

    /// The stub for groups of operands: it wants the linear address of the first byte in R10, and leaves the host address
    /// there. If `leads`, the place to go on at is that of a [`Descriptor`].
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
    let packed = code.here();
    code.store(Mem::Gs(layout::SPILLED_RAX), reg::RAX);
    // mov eax, second; shr eax, INDEX_BITS
    code.raw(&[0x44, 0x89, 0xc0 | (second & 7) << 3, 0xc1, 0xe8, INDEX_BITS as u8]);
    // add eax, dword ptr [window]
    code.op(false, &[0x03], reg::RAX, Mem::Gs(layout::WINDOW));
    // add rax, [upper half]
    code.op(true, &[0x03], reg::RAX, Mem::Gs(layout::UPPER_HALF));
    code.store(Mem::Gs(layout::FOUND), reg::RAX);
    code.load(reg::RAX, Mem::Gs(layout::SPILLED_RAX));
    code.and32(second, masks[0]);
    let probed = code.here();
    // The address again: xor first, [key]
    code.op(true, &[0x33], first, Mem::GsBase(second, first_level));
    if let Form::Group { leads } = form {
        look_at_limit(code, [first, second], limit(first_level), leads, exit);
    }
    let known = code.here();
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
    code.shr(reg::RCX, layout::PAGE_ROTATION);
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
    OperandStub { packed, probed, known }
}

/// Leaves, or goes on elsewhere, if the group at the linear address in `first` does not lie in one page.
fn look_at_limit(code: &mut Code, [first, second]: [u8; 2], limit: u64, leads: bool, exit: u64) {
    code.store(Mem::Gs(layout::SPILLED_RAX), reg::RAX);
    code.store(Mem::Gs(layout::SAVED_RCX), reg::RCX);
    if leads {
        code.load(second, Mem::Gs(layout::FOUND));
        // movsxd rax, dword ptr [ready]
        code.op(true, &[0x63], reg::RAX, Mem::Base(second, Descriptor::READY));
        code.lea(reg::RAX, Mem::Sum(reg::RAX, second));
        code.store(Mem::Gs(layout::FOUND), reg::RAX);
    } else {
        code.load(reg::RAX, Mem::Gs(layout::FOUND));
    }
    code.copy(reg::RCX, first);
    code.and32(reg::RCX, 0xfff);
    // cmp ecx, dword ptr [limit]
    code.op(false, &[0x3b], reg::RCX, Mem::Base(reg::RAX, -(limit as i32)));
    code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
    let inside = code.short_jump_if(6);
    if leads {
        code.op(true, &[0x63], reg::RAX, Mem::Base(second, Descriptor::APART));
        code.lea(second, Mem::Sum(reg::RAX, second));
        code.load(reg::RAX, Mem::Gs(layout::SPILLED_RAX));
        // jmp second
        code.raw(&[0x41, 0xff, 0xe0 | second & 7]);
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
        Descriptor { ready, apart }.lead_to(&mut code, at - 0x1000);
        let start = code.bytes.len() - 8;
        let word = |at: usize| u32::from_le_bytes(code.bytes[at..at + 4].try_into().unwrap());
        let descriptor = at + start as u64;
        assert_eq!(word(start - 5 - 4), descriptor as u32);
        let leads_to = |place: i32| {
            descriptor.wrapping_add_signed(i64::from(word(start + place as usize) as i32))
        };
        assert_eq!(leads_to(Descriptor::READY), ready);
        assert_eq!(leads_to(Descriptor::APART), apart);
    }
}
