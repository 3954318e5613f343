//! Which memory operands share a look at the region of their address, where they are reached through views.
//!
//! A region is so large, and what surrounds its view as well, that whatever a pointer is used for with a constant
//! displacement lies there too: one look serves all that a block does with a pointer.

use super::values::{Origin, Values};
use super::{Access, Address, GROUPS, Group, GroupKind, Member, Plan, accesses, ends_groups};
use crate::classify::Action;
use iced_x86::{Instruction, InstructionInfoFactory, Register};

/// How far from the unknown part of its address what is looked at, and an operand, may lie. The distance between the two
/// then fits into a displacement, whatever the stack pointer is behind by, and is less than what surrounds a view.
const FAR: i64 = (1 << 30) - (1 << 20);

impl Plan {
    /// Plans for a block at the page `page` that reaches its operands through views, as far as `sees` says so of an
    /// instruction.
    pub(crate) fn for_views(
        instructions: &[(Instruction, Action)],
        page: u64,
        sees: impl Fn(&Instruction, Action) -> bool,
        info: &mut InstructionInfoFactory,
    ) -> Self {
        let seeing =
            instructions.iter().map(|&(ref instruction, action)| sees(instruction, action));
        let seeing: Vec<bool> = seeing.collect();
        let mut plan = Self {
            members: vec![[None; 2]; instructions.len()],
            pointers: vec![None; instructions.len()],
            ..Self::default()
        };
        let mut values = Values::new(page);
        let mut open = Vec::new();
        for (index, &(ref instruction, action)) in instructions.iter().enumerate() {
            if ends_groups(instructions, index) {
                values.forget_all();
                open.clear();
                continue;
            }
            if seeing[index] {
                for access in accesses(instruction, action, info).into_iter().flatten() {
                    plan.add(index, access, &values, &mut open, page);
                }
            }
            values.transfer(instruction, action, info);
        }
        plan.seeing = seeing;
        plan.drop_single();
        plan
    }

    /// Drops groups by an index with one member: that is reached without help.
    fn drop_single(&mut self) {
        let mut sizes = vec![0; self.groups.len()];
        for member in self.members.iter().flatten().flatten() {
            sizes[member.group] += 1;
        }
        let groups = &self.groups;
        let stays =
            |group: usize| sizes[group] > 1 || groups[group].address.index == Register::None;
        self.probes.retain(|&(_, group)| stays(group));
        for member in self.members.iter_mut().flatten() {
            *member = member.filter(|member| stays(member.group));
        }
    }

    /// Adds an access to the group of its pointer, which may be a new one.
    fn add(
        &mut self,
        index: usize,
        access: Access,
        values: &Values,
        open: &mut Vec<(Origin, i64, usize)>,
        page: u64,
    ) {
        let Some((origin, distance)) = values.origin(access.address) else { return };
        let pointer = origin.base.and_then(|unknown| u8::try_from(unknown).ok());
        let pointer = pointer.filter(|&number| usize::from(number) < values.registers.len());
        self.pointers[index] = self.pointers[index].or(pointer);
        if distance.abs() > FAR {
            return;
        }
        let known = open.iter().find(|&&(other, ..)| other == origin);
        let (from, group) = match known {
            Some(&(_, from, group)) => (from, group),
            None => {
                let Address { base, index: by, segment, displacement, .. } = access.address;
                // The group's address is the pointer itself.
                let (start, from) = match base {
                    Register::RIP => (page as i64, 0),
                    _ => (0, distance.wrapping_sub(displacement)),
                };
                let plain = base.is_gpr64() && by == Register::None && segment.is_none();
                let kind = if plain { GroupKind::Distance } else { GroupKind::Seen };
                if self.groups.len() == GROUPS || from.abs() > FAR {
                    return;
                }
                let address = match by {
                    Register::None => Address { segment, ..Address::at(base, start) },
                    _ => Address { displacement: 0, ..access.address },
                };
                self.groups.push(Group { address, last: index, kind });
                let group = self.groups.len() - 1;
                self.probes.push((index, group));
                open.push((origin, from, group));
                (from, group)
            }
        };
        self.groups[group].last = index;
        let offset = (distance - from) as i32;
        self.members[index][access.slot as usize] = Some(Member { group, offset });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::classify;
    use crate::plan::Slot;
    use iced_x86::{Decoder, DecoderOptions};

    fn plan(bytes: &[u8]) -> Plan {
        let decoder = Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE);
        let instructions: Vec<_> =
            decoder.into_iter().map(|instruction| (instruction, classify(&instruction))).collect();
        let sees = |_: &Instruction, action| action == Action::Copy;
        Plan::for_views(&instructions, 0x1000, sees, &mut InstructionInfoFactory::new())
    }

    #[test]
    fn a_pointer_is_looked_at_once() {
        // mov rax, [rbx]; add rbx, 0x10000; mov [rbx-8], rcx; mov rbx, rax; mov rdx, [rbx]
        let plan = plan(&[
            0x48, 0x8b, 0x03, 0x48, 0x81, 0xc3, 0, 0, 1, 0, 0x48, 0x89, 0x4b, 0xf8, 0x48, 0x89,
            0xc3, 0x48, 0x8b, 0x13,
        ]);
        assert_eq!(plan.groups.len(), 2);
        assert!(plan.groups.iter().all(|group| group.kind == GroupKind::Distance));
        assert_eq!([0, 2, 4].map(|index| plan.pointer(index)), [Some(3), Some(3), None]);
        assert_eq!(plan.groups[0].last, 2);
        assert_eq!(plan.groups[1].address, Address::at(Register::RBX, 0));
        assert_eq!(plan.probes_at(4).collect::<Vec<_>>(), [1]);
        assert!(!plan.spans(1));
    }

    #[test]
    fn what_has_no_pointer_in_a_register_is_seen_from_its_start() {
        // mov rax, [rip+0x100]; mov rcx, [rip+0x200]; mov rdx, fs:[8]; mov rdx, fs:[0x28]
        let plan = plan(&[
            0x48, 0x8b, 0x05, 0, 1, 0, 0, 0x48, 0x8b, 0x0d, 0, 2, 0, 0, 0x64, 0x48, 0x8b, 0x14,
            0x25, 8, 0, 0, 0, 0x64, 0x48, 0x8b, 0x14, 0x25, 0x28, 0, 0, 0,
        ]);
        assert!(plan.groups.iter().all(|group| group.kind == GroupKind::Seen));
        let members: Vec<_> =
            (0..4).filter_map(|index| plan.member(index, Slot::Operand)).collect();
        let found: Vec<_> = members.iter().map(|member| (member.group, member.offset)).collect();
        assert_eq!(found, [(0, 0x107), (0, 0x20e), (1, 8), (1, 0x28)]);
    }

    #[test]
    fn what_is_too_far_away_for_a_displacement_is_looked_at_anew() {
        // sub rbx, 0x40000000; mov eax, fs:[rbx]; add rbx, 0x7fffffff; inc rbx; mov eax, fs:[rbx]
        let plan = plan(&[
            0x48, 0x81, 0xeb, 0, 0, 0, 0x40, 0x64, 0x8b, 0x03, 0x48, 0x81, 0xc3, 0xff, 0xff, 0xff,
            0x7f, 0x48, 0xff, 0xc3, 0x64, 0x8b, 0x03,
        ]);
        let members = [1, 4].map(|index| plan.member(index, Slot::Operand));
        let near = |member: Option<crate::plan::Member>| member.is_none_or(|at| at.offset == 0);
        assert!(members.into_iter().all(near), "{members:?}");
    }

    #[test]
    fn some_instructions_are_left_to_probes() {
        // mov rax, [rbx]; push rax
        let plan = plan(&[0x48, 0x8b, 0x03, 0x50]);
        assert_eq!([plan.sees(0), plan.sees(1)], [true, false]);
        assert_eq!(plan.member(1, Slot::Stack), None);
    }

    #[test]
    fn indexed_operands_have_a_group_if_there_are_several() {
        // mov rax, [rbx+rcx*8]
        let single = plan(&[0x48, 0x8b, 0x04, 0xcb]);
        assert_eq!((single.probes.len(), single.member(0, Slot::Operand)), (0, None));
        // mov rax, [rbx+rcx*8]; inc rcx; mov rax, [rbx+rcx*8+16]
        let bytes = [0x48, 0x8b, 0x04, 0xcb, 0x48, 0xff, 0xc1, 0x48, 0x8b, 0x44, 0xcb, 16];
        let several = plan(&bytes);
        assert_eq!(several.probes.len(), 1);
        assert_eq!(several.member(2, Slot::Operand).map(|member| member.offset), Some(24));
    }
}
