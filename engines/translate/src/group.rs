//! Operands that share a probe: see [`crate::plan`].

use crate::build::Builder;
use crate::emit::{Mem, reg};
use crate::memory::Check;
use crate::plan::{Address, GroupKind, Member, Slot};
use iced_x86::{Instruction, Register};

/// The number of the stack pointer.
pub(crate) const RSP: usize = 4;

impl Builder<'_> {
    /// The group that an access of the current instruction is in.
    pub(crate) fn member(&self, slot: Slot) -> Option<Member> {
        self.plan.member(self.index, slot)
    }

    /// Where a member on the stack is, `displacement` bytes from what `base` points at, through a scratch register
    /// other than the one to avoid.
    pub(crate) fn reach(
        &mut self,
        member: Member,
        (base, displacement): (Register, i32),
        avoid: Option<usize>,
    ) -> Mem {
        match self.plan.groups[member.group].kind {
            GroupKind::Page(_) => Mem::Base(self.hold(member.group, avoid), member.offset),
            _ => self.reach_view(member, (base, displacement), avoid),
        }
    }

    /// Emits the probes that stand before the current instruction.
    pub(crate) fn probe_groups(&mut self, flags_live: bool) {
        let groups: Vec<usize> = self.plan.probes_at(self.index).collect();
        for number in groups {
            let group = self.plan.groups[number];
            let GroupKind::Page(page) = group.kind else {
                self.look_up_group(number, flags_live);
                continue;
            };
            let check = Check { size: page.span, write: page.write, flags_live, group: Some(page) };
            if self.locate_address(group.address, reg::R10, reg::R11, check).is_none() {
                // The plan has checked that its parts fit; were it wrong, members would go anywhere.
                self.failed = true;
                return;
            }
            self.holds(0, number);
            self.counters.groups += 1;
        }
    }

    /// Loads the operand of an instruction, a member of 64 bits, into R10.
    pub(crate) fn load_member(&mut self, instruction: &Instruction, member: Member) {
        let Some(Address { base, displacement, .. }) = Address::of(instruction) else {
            self.failed = true;
            return;
        };
        let from = self.reach(member, (base, displacement as i32), None);
        let used = self.member(Slot::Stack).is_some_and(|stack| stack.group == member.group);
        if !used && self.plan.groups[member.group].last == self.index {
            self.forget_group(member.group);
        }
        let to = self.take_scratch(0);
        self.note_access();
        self.code.load(to, from);
    }
}
