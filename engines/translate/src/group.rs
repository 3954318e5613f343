//! Operands that share a probe: see [`crate::plan`].

use crate::build::Builder;
use crate::emit::{Mem, reg};
use crate::memory::Check;
use crate::plan::{Member, Slot};

impl Builder<'_> {
    /// The group that an access of the current instruction is in.
    pub(crate) fn member(&self, slot: Slot) -> Option<Member> {
        self.plan.member(self.index, slot)
    }

    /// Where a member is, through a scratch register other than the one to avoid.
    pub(crate) fn reach(&mut self, member: Member, avoid: Option<usize>) -> Mem {
        Mem::Base(self.hold(member.group, avoid), member.offset)
    }

    /// Emits the probes that stand before the current instruction.
    pub(crate) fn probe_groups(&mut self, flags_live: bool) {
        let groups: Vec<usize> = self.plan.probes_at(self.index).collect();
        for number in groups {
            let group = self.plan.groups[number];
            let check =
                Check { size: group.span, write: group.write, flags_live, group: Some(group) };
            if !self.locate_address(group.address, reg::R10, reg::R11, check) {
                // The plan has checked that its parts fit; were it wrong, members would go anywhere.
                self.failed = true;
                return;
            }
            self.holds(0, number);
            self.counters.groups += 1;
        }
    }

    /// Loads a member of 64 bits into R10.
    pub(crate) fn load_member(&mut self, member: Member) {
        let from = self.reach(member, Some(0));
        let to = self.take_scratch(0);
        self.code.load(to, from);
    }
}
