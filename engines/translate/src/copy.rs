//! Instructions that are copied, their memory operands rewritten.

use crate::build::{Builder, Done};
use crate::classify::{class, raises};
use crate::emit::{Mem, reg};
use crate::layout;
use crate::memory::Operand;
use crate::plan::{Address, GroupKind, Member, Slot, writes_memory};
use crate::scratch::home_of;
use iced_x86::{Instruction, OpAccess, OpKind, Register};

/// Whether an operand is AH, CH, DH or BH, which no instruction with a REX prefix can name.
pub(crate) fn names_high_byte(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|index| {
        instruction.op_kind(index) == OpKind::Register
            && matches!(
                instruction.op_register(index),
                Register::AH | Register::CH | Register::DH | Register::BH
            )
    })
}

/// The instruction with its memory operand at `base` plus `displacement`, both of FS's segment if `segment` is that.
fn with_base(
    instruction: &Instruction,
    segment: Register,
    base: Register,
    displacement: i32,
) -> Instruction {
    let mut copy = *instruction;
    copy.set_segment_prefix(segment);
    copy.set_memory_base(base);
    copy.set_memory_index(Register::None);
    copy.set_memory_index_scale(1);
    copy.set_memory_displacement64(i64::from(displacement) as u64);
    copy.set_memory_displ_size(u32::from(displacement != 0));
    copy
}

fn iced(register: u8) -> Register {
    Register::RAX + u32::from(register)
}

/// What an instruction does to R10 and R11.
#[derive(Debug, Clone, Copy, Default)]
struct Homed {
    /// Named as an operand.
    named: [bool; 2],
    /// Read, be it for an address, and written.
    read: [bool; 2],
    written: [bool; 2],
}

impl Homed {
    fn each(which: [bool; 2]) -> impl Iterator<Item = usize> {
        (0..2).filter(move |&home| which[home])
    }
}

impl Builder<'_> {
    fn homed(&mut self, instruction: &Instruction) -> Homed {
        let mut homed = Homed::default();
        for index in 0..instruction.op_count() {
            if instruction.op_kind(index) == OpKind::Register
                && let Some(home) = home_of(instruction.op_register(index))
            {
                homed.named[home] = true;
            }
        }
        for used in self.info.info(instruction).used_registers() {
            let Some(home) = home_of(used.register()) else { continue };
            let partial = used.register().size() < 4;
            match used.access() {
                OpAccess::Read | OpAccess::CondRead => homed.read[home] = true,
                OpAccess::Write => {
                    homed.written[home] = true;
                    homed.read[home] |= partial;
                }
                _ => (homed.read[home], homed.written[home]) = (true, true),
            }
        }
        homed
    }

    pub(crate) fn copy(&mut self, instruction: &Instruction, flags_live: bool) -> Done {
        let class = class(instruction);
        if self.cpu.check_class(class).is_err() {
            return Done::Refused;
        }
        self.hold_x87(class, flags_live);
        let raises = raises(instruction);
        // Of an access to what is seen it is noted where the state is.
        let memory =
            (0..instruction.op_count()).find(|&index| instruction.op_kind(index) == OpKind::Memory);
        let may_fault = raises && !(memory.is_some() && self.viewing);
        let homed = self.homed(instruction);
        let Some(memory) = memory else {
            Homed::each(homed.read).for_each(|home| self.need(home));
            if may_fault {
                self.flush();
            }
            Homed::each(homed.written).for_each(|home| self.release(home));
            self.prepare_flags(instruction, may_fault, self.idle());
            if !self.emit_current(instruction) {
                return Done::Refused;
            }
            Homed::each(homed.written).for_each(|home| self.written(home));
            return Done::Next;
        };
        if let Some(member) = self.member(Slot::Operand) {
            if !self.viewing {
                return self.copy_member(instruction, homed, member, may_fault);
            }
            if let Some(done) = self.copy_seen(instruction, homed, member) {
                return done;
            }
        }
        let size = instruction.memory_size().size();
        let write = writes_memory(self.info.info(instruction).op_access(memory));
        let operand = Operand { size, write, flags_live };
        let Homed { named, written, .. } = homed;
        if named == [true, true] || names_high_byte(instruction) {
            // A register of the guest's is in use: it must not fault.
            self.viewing = false;
            return self.copy_through_displaced(instruction, operand, homed, raises);
        }
        let (first, second, home) = match named {
            [true, _] => (reg::R11, reg::R10, Some(0)),
            [false, true] => (reg::R10, reg::R11, Some(1)),
            [false, false] => (reg::R10, reg::R11, None),
        };
        if self.viewing && self.source.even {
            return self.copy_at_usual(instruction, (first, second), homed);
        }
        let Some(place) = self.locate(instruction, first, second, operand) else {
            return Done::Refused;
        };
        let state = self.view_state();
        let mut copy = with_base(instruction, Register::None, iced(first), 0);
        match home {
            Some(home) => {
                self.code.lea(first, place);
                // The operand's access counts, not that of an address the register was part of.
                let only_written = written[home] && !self.reads_operand(instruction, home);
                if !only_written {
                    self.code.load(second, Mem::Gs(layout::gpr(second)));
                }
                self.reloaded(home, written[home]);
            }
            None => match place {
                Mem::Base(base, offset) => {
                    copy = with_base(instruction, Register::None, iced(base), offset);
                }
                _ => copy.set_memory_index(iced(second)),
            },
        }
        self.prepare_flags(instruction, may_fault, None);
        self.note_access_with(state);
        if self.code.instruction(&copy) { Done::Next } else { Done::Refused }
    }

    /// A copy whose operand is seen, through the pointer that the guest has; `None`, with nothing lost, if there are
    /// too few registers for that.
    fn copy_seen(
        &mut self,
        instruction: &Instruction,
        homed: Homed,
        member: Member,
    ) -> Option<Done> {
        let address = Address::of(instruction)?;
        let home = (0..2).find(|&home| homed.named[home]);
        let by_pointer = self.plan.groups[member.group].kind == GroupKind::Distance;
        if by_pointer
            && let (Some(home), Some(pointer)) = (home, home_of(address.base))
            && home != pointer
            && !self.is_usual(member.group)
        {
            return None;
        }
        if let Some(home) = home
            && (!homed.written[home] || self.reads_operand(instruction, home))
        {
            self.need(home);
        }
        let place = (address.base, address.displacement as i32);
        let none = Register::None;
        let (segment, base, index, displacement) = match self.reach_view(member, place, home) {
            Mem::SumAt(base, index, displacement) => (none, base, iced(index), displacement),
            Mem::Base(base, displacement) => (none, base, none, displacement),
            Mem::Fs(base, displacement) => (Register::FS, base, none, displacement),
            _ => return None,
        };
        let state = self.view_state();
        if let Some(home) = home {
            self.release(home);
        }
        self.prepare_flags(instruction, false, self.idle());
        let mut copy = with_base(instruction, segment, iced(base), displacement);
        copy.set_memory_index(index);
        self.note_access_with(state);
        if !self.code.instruction(&copy) {
            return Some(Done::Refused);
        }
        if let Some(home) = home
            && homed.written[home]
        {
            self.written(home);
        }
        Some(Done::Next)
    }

    /// A copy whose operand is seen at the usual distance, and in no group: `first` and `second` are the scratch
    /// registers, of which the instruction names the second at most.
    fn copy_at_usual(
        &mut self,
        instruction: &Instruction,
        (first, second): (u8, u8),
        homed: Homed,
    ) -> Done {
        let Some(address) = Address::of(instruction) else { return Done::Refused };
        if !self.compute(address, first, second) {
            return Done::Refused;
        }
        self.ask_guard_of(address.base, second, first);
        let state = self.view_state();
        let home = (0..2).find(|&home| homed.named[home]);
        if let Some(home) = home {
            if !homed.written[home] || self.reads_operand(instruction, home) {
                self.code.load(second, Mem::Gs(layout::gpr(second)));
            }
            self.reloaded(home, homed.written[home]);
        }
        self.prepare_flags(instruction, false, home.is_none().then_some(second));
        self.note_access_with(state);
        match self.code.instruction(&with_base(instruction, Register::FS, iced(first), 0)) {
            true => Done::Next,
            false => Done::Refused,
        }
    }

    /// A copy whose operand is in a group.
    fn copy_member(
        &mut self,
        instruction: &Instruction,
        homed: Homed,
        member: Member,
        may_fault: bool,
    ) -> Done {
        let home = (0..2).find(|&home| homed.named[home]);
        if let Some(home) = home
            && (!homed.written[home] || self.reads_operand(instruction, home))
        {
            self.need(home);
        }
        if may_fault {
            self.flush();
        }
        // What the group has found is where members are relative to.
        self.failed |= !matches!(self.plan.groups[member.group].kind, GroupKind::Page(_));
        let base = self.hold(member.group, home);
        if let Some(home) = home {
            self.release(home);
        }
        self.prepare_flags(instruction, may_fault, self.idle());
        if !self.code.instruction(&with_base(
            instruction,
            Register::None,
            iced(base),
            member.offset,
        )) {
            return Done::Refused;
        }
        if let Some(home) = home
            && homed.written[home]
        {
            self.written(home);
        }
        Done::Next
    }

    /// A copy whose operand neither R10 nor R11 can reach: a register that the instruction does not
    /// use holds the address meanwhile.
    fn copy_through_displaced(
        &mut self,
        instruction: &Instruction,
        operand: Operand,
        homed: Homed,
        may_fault: bool,
    ) -> Done {
        let used = self.info.info(instruction).used_registers();
        let free = [Register::RSI, Register::RDI, Register::RBX, Register::RBP]
            .into_iter()
            .find(|&free| !used.iter().any(|used| used.register().full_register() == free));
        let Some(free) = free else { return Done::Refused };
        let Some(place) = self.locate(instruction, reg::R10, reg::R11, operand) else {
            return Done::Refused;
        };
        self.code.lea(reg::R10, place);
        let number = free.number() as u8;
        self.code.store(Mem::Gs(layout::WAITING), number);
        self.code.copy(number, reg::R10);
        Homed::each(homed.named).for_each(|home| self.need(home));
        self.prepare_flags(instruction, may_fault, None);
        if !self.code.instruction(&with_base(instruction, Register::None, free, 0)) {
            return Done::Refused;
        }
        self.code.load(number, Mem::Gs(layout::WAITING));
        for home in Homed::each(homed.named).filter(|&home| homed.written[home]) {
            self.written(home);
        }
        Done::Next
    }

    /// Whether a homed register operand is read: always, but for plain writes of all its bits.
    fn reads_operand(&mut self, instruction: &Instruction, home: usize) -> bool {
        let info = self.info.info(instruction);
        (0..instruction.op_count()).any(|index| {
            instruction.op_kind(index) == OpKind::Register
                && home_of(instruction.op_register(index)) == Some(home)
                && (info.op_access(index) != OpAccess::Write
                    || instruction.op_register(index).size() < 4)
        })
    }

    /// LEA: copied, unless it names the instruction pointer.
    pub(crate) fn address_of(&mut self, instruction: &Instruction) -> Done {
        let to = instruction.op0_register();
        if instruction.memory_base() == Register::EIP {
            return Done::Refused;
        }
        let rip = instruction.memory_base() == Register::RIP;
        for register in [instruction.memory_base(), instruction.memory_index()] {
            if let Some(home) = home_of(register) {
                self.need(home);
            }
        }
        let home = home_of(to);
        if let Some(home) = home {
            if to.size() < 4 {
                self.need(home);
            }
            self.release(home);
        }
        if rip {
            let number = to.number() as u8;
            if to.size() != 8 {
                return Done::Refused;
            }
            let target = instruction.memory_displacement64();
            if self.source.absolute {
                self.code.constant(number, target);
            } else {
                let Ok(away) = i32::try_from(target.wrapping_sub(self.page_base()) as i64) else {
                    return Done::Refused;
                };
                self.code.load(number, Mem::Gs(layout::CODE_BASE));
                self.code.lea(number, Mem::Base(number, away));
            }
        } else if !self.emit_current(instruction) {
            return Done::Refused;
        }
        if let Some(home) = home {
            self.written(home);
        }
        Done::Next
    }
}
