//! Which memory operands of a block share one probe of the TLB.
//!
//! Operands whose addresses differ by a constant, such as the slots of a stack frame or the fields of a
//! structure, lie in one page more often than not. They form a group: one probe checks the whole range
//! of bytes that they span, and each then is a copied instruction relative to the host address that the
//! probe found. What is read and then written makes the group one that may be written. A range that crosses into another page, or whose page the TLB does not have, is left to a
//! second translation of the rest of the block, without groups; so a probe may stand earlier than its first
//! operand, where no flags are alive, and may check for operands that a branch then skips.
//!
//! Addresses are compared as values: each register holds a numbered unknown plus a constant, and the
//! numbers change when something else is written to the register.

use crate::classify::Action;
use crate::copy::names_high_byte;
use crate::scratch::home_of;
use ambos_interpret::cpu::seg;
use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use values::{Origin, Registers, Values};

mod values;
mod views;

/// Most groups in a block: each has a place for its host address.
pub(crate) const GROUPS: usize = 64;
/// Most bytes that a group spans. A range of that length crosses a page in one case of eight.
const SPAN: i64 = 512;
/// Clusters that an operand may still join.
const OPEN: usize = 12;

/// How the linear address of a memory operand comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    /// 64-bit registers, or none; RIP where `displacement` is the address itself.
    pub(crate) base: Register,
    pub(crate) index: Register,
    pub(crate) scale: u32,
    pub(crate) displacement: i64,
    /// Number of the segment whose base is added, if that is not flat.
    pub(crate) segment: Option<usize>,
    /// Only the low 32 bits of the sum count.
    pub(crate) narrow: bool,
}

impl Address {
    /// That of an instruction's memory operand, or `None` if it cannot be computed by LEA.
    pub(crate) fn of(instruction: &Instruction) -> Option<Self> {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        if base == Register::EIP {
            return None;
        }
        let narrow = base.size() == 4 || index.size() == 4;
        let full = |register: Register| match register {
            Register::None | Register::RIP => register,
            register => register.full_register(),
        };
        let displacement = instruction.memory_displacement64();
        Some(Self {
            base: full(base),
            index: full(index),
            scale: instruction.memory_index_scale(),
            displacement: if narrow { displacement as i32 as i64 } else { displacement as i64 },
            segment: match instruction.memory_segment() {
                Register::FS => Some(seg::FS),
                Register::GS => Some(seg::GS),
                _ => None,
            },
            narrow,
        })
    }

    /// `displacement` bytes from what a register points at.
    pub(crate) fn at(base: Register, displacement: i64) -> Self {
        Self { base, index: Register::None, scale: 1, displacement, segment: None, narrow: false }
    }
}

/// Which of an instruction's two accesses to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Its memory operand.
    Operand,
    /// The stack.
    Stack,
}

/// An access to memory that is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    /// Number of the group.
    pub(crate) group: usize,
    /// Offset from the group's first byte.
    pub(crate) offset: i32,
}

/// Accesses that share a probe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    /// The address of the first byte, where the probe stands.
    pub(crate) address: Address,
    /// Number of the instruction of the last member.
    pub(crate) last: usize,
    /// What the probe looks for.
    pub(crate) kind: GroupKind,
}

/// What a group's probe looks for, and what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupKind {
    /// The page, in the TLB: the host address of the first byte.
    Page(PageGroup),
    /// The view of the region: what to add to addresses in it.
    Distance,
    /// The same, already added to the address.
    Seen,
}

/// Of a group in one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageGroup {
    /// Bytes from the first to the last.
    pub(crate) span: usize,
    /// The page must be one that may be written.
    pub(crate) write: bool,
    /// Offset and bytes of the first member, if the probe stands right before it: then it faults where the
    /// probe does.
    pub(crate) first: Option<(i32, usize)>,
}

/// An access of an instruction.
#[derive(Debug, Clone, Copy)]
struct Access {
    slot: Slot,
    address: Address,
    size: usize,
    write: bool,
}

/// Accesses that may become a group.
#[derive(Debug, Clone)]
struct Cluster {
    origin: Origin,
    low: i64,
    high: i64,
    write: bool,
    /// The first member only reads what another one writes.
    read_first: bool,
    /// Branches before the first member.
    branches: usize,
    members: Vec<(usize, Slot, i64, usize)>,
}

impl Cluster {
    /// Whether one of the members has all of these bytes. What is read and then written is in a page that
    /// may be written more often than not; other writes behind a branch would let reads of pages fail that may not.
    fn reads(&self, low: i64, high: i64) -> bool {
        let mut members = self.members.iter();
        members.any(|&(_, _, from, size)| from <= low && high <= from + size as i64)
    }
}

/// The groups of a block.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) groups: Vec<Group>,
    /// Before which instruction which group is probed for, in order.
    probes: Vec<(usize, usize)>,
    members: Vec<[Option<Member>; 2]>,
    /// Which instructions reach their operands through views; none where there are none.
    seeing: Vec<bool>,
    /// The registers that held the pointers of their operands at the block's start, but for a constant.
    pointers: Vec<Option<u8>>,
}

impl Plan {
    /// The groups to probe for right before an instruction.
    pub(crate) fn probes_at(&self, instruction: usize) -> impl Iterator<Item = usize> + '_ {
        let start = self.probes.partition_point(|&(at, _)| at < instruction);
        let rest = self.probes.get(start..).unwrap_or_default().iter();
        rest.take_while(move |&&(at, _)| at == instruction).map(|&(_, group)| group)
    }

    /// Whether the page of some group has been probed for before or at an instruction and is used at it or later.
    pub(crate) fn spans(&self, instruction: usize) -> bool {
        let end = self.probes.partition_point(|&(at, _)| at <= instruction);
        self.probes[..end]
            .iter()
            .map(|&(_, group)| &self.groups[group])
            .any(|group| matches!(group.kind, GroupKind::Page(_)) && group.last >= instruction)
    }

    /// Whether an instruction reaches its operands through views.
    pub(crate) fn sees(&self, instruction: usize) -> bool {
        self.seeing.get(instruction).copied().unwrap_or(false)
    }

    /// The register that held the pointer of an instruction's operand at the block's start, but for a constant.
    pub(crate) fn pointer(&self, instruction: usize) -> Option<u8> {
        self.pointers.get(instruction).copied().flatten()
    }

    /// The group that an access of an instruction is in.
    pub(crate) fn member(&self, instruction: usize, slot: Slot) -> Option<Member> {
        self.members.get(instruction)?[slot as usize]
    }

    /// Plans for a block at the page `page`, given the flags that are alive before each instruction.
    pub(crate) fn new(
        instructions: &[(Instruction, Action)],
        live: &[u32],
        page: u64,
        info: &mut InstructionInfoFactory,
    ) -> Self {
        let mut planner = Planner {
            page,
            values: Values::new(page),
            branches: 0,
            before: Vec::with_capacity(instructions.len()),
            open: Vec::new(),
            closed: Vec::new(),
        };
        for (index, (instruction, action)) in instructions.iter().enumerate() {
            planner.before.push(planner.values.registers);
            if ends_groups(instructions, index) {
                planner.barrier();
            } else {
                planner.instruction(index, instruction, *action, info);
            }
        }
        planner.finish(instructions, live)
    }
}

/// The state of planning.
struct Planner {
    page: u64,
    values: Values,
    /// Conditional jumps so far.
    branches: usize,
    /// The registers before each instruction.
    before: Vec<Registers>,
    open: Vec<Cluster>,
    closed: Vec<Cluster>,
}

/// Whether nothing of what was known of addresses holds after an instruction. After STI that is so for
/// two: the state in which interrupts are held off must not reach another translation.
fn ends_groups(instructions: &[(Instruction, Action)], index: usize) -> bool {
    let (_, action) = instructions[index];
    let held_off = index > 0 && instructions[index - 1].0.mnemonic() == Mnemonic::Sti;
    held_off || matches!(action, Action::System | Action::Interpret)
}

impl Planner {
    fn barrier(&mut self) {
        self.closed.append(&mut self.open);
        self.values.forget_all();
    }

    fn instruction(
        &mut self,
        index: usize,
        instruction: &Instruction,
        action: Action,
        info: &mut InstructionInfoFactory,
    ) {
        for access in accesses(instruction, action, info).into_iter().flatten() {
            self.access(index, access);
        }
        self.branches += usize::from(action == Action::Branch);
        self.values.transfer(instruction, action, info);
    }

    fn access(&mut self, index: usize, access: Access) {
        let Some((origin, low)) = self.values.origin(access.address) else { return };
        let high = low + access.size as i64;
        let member = (index, access.slot, low, access.size);
        let branches = self.branches;
        let joined = self.open.iter_mut().rev().find(|cluster| {
            cluster.origin == origin
                && (cluster.write
                    || !access.write
                    || cluster.branches == branches
                    || cluster.reads(low, high))
                && cluster.high.max(high) - cluster.low.min(low) <= SPAN
        });
        if let Some(cluster) = joined {
            cluster.low = cluster.low.min(low);
            cluster.high = cluster.high.max(high);
            cluster.read_first |= !cluster.write && access.write;
            cluster.write |= access.write;
            cluster.members.push(member);
            return;
        }
        if self.open.len() == OPEN {
            let oldest = self.open.remove(0);
            self.closed.push(oldest);
        }
        let members = vec![member];
        let write = access.write;
        self.open.push(Cluster { origin, low, high, write, read_first: false, branches, members });
    }

    /// The address of a cluster's first byte before instruction `index`, if registers hold what it is
    /// made of there.
    fn address(&self, cluster: &Cluster, index: usize) -> Option<Address> {
        let registers = &self.before[index];
        let holder = |unknown: u32| {
            let number = registers.iter().position(|value| value.unknown == unknown)?;
            Some((Register::RAX + number as u32, registers[number].constant))
        };
        let Origin { base, index, segment, page } = cluster.origin;
        let mut address = Address::at(Register::None, cluster.low);
        address.segment = segment;
        if page {
            address.base = Register::RIP;
            address.displacement = self.page.wrapping_add(cluster.low as u64) as i64;
            return Some(address);
        }
        if let Some(base) = base {
            let (register, constant) = holder(base)?;
            address.base = register;
            address.displacement = address.displacement.wrapping_sub(constant);
        }
        if let Some((index, scale)) = index {
            let (register, constant) = holder(index)?;
            if register == Register::RSP {
                return None;
            }
            address.index = register;
            address.scale = scale;
            let scaled = constant.wrapping_mul(i64::from(scale));
            address.displacement = address.displacement.wrapping_sub(scaled);
        }
        i32::try_from(address.displacement).ok()?;
        Some(address)
    }

    fn finish(mut self, instructions: &[(Instruction, Action)], live: &[u32]) -> Plan {
        self.closed.append(&mut self.open);
        let mut plan = Plan { members: vec![[None; 2]; instructions.len()], ..Plan::default() };
        for cluster in &self.closed {
            let &[(begin, slot, low, size), ..] = cluster.members.as_slice() else { continue };
            if plan.groups.len() == GROUPS {
                break;
            }
            // Backwards from the first member to where no flags are alive.
            let mut at = Some(begin);
            while let Some(place) = at {
                if live[place] == 0 && self.address(cluster, place).is_some() {
                    break;
                }
                // What a branch decides is often whether a pointer may be used at all; not so the
                // stack pointer.
                at = place.checked_sub(1).filter(|&before| {
                    !ends_groups(instructions, before)
                        && (cluster.origin.is_stack() || instructions[before].1 != Action::Branch)
                });
            }
            let alone = cluster.members.len() == 1;
            // One access alone gains only what saving flags costs.
            if alone && (live[begin] == 0 || at.is_none()) {
                continue;
            }
            let at = at.unwrap_or(begin);
            let Some(address) = self.address(cluster, at) else { continue };
            // The stack comes after the operand.
            let is_first = at == begin
                && !cluster.read_first
                && (slot == Slot::Operand || instructions[begin].0.op0_kind() != OpKind::Memory);
            let group = plan.groups.len();
            plan.groups.push(Group {
                address,
                last: cluster.members.last().map_or(begin, |member| member.0),
                kind: GroupKind::Page(PageGroup {
                    span: (cluster.high - cluster.low) as usize,
                    write: cluster.write,
                    first: is_first.then_some(((low - cluster.low) as i32, size)),
                }),
            });
            plan.probes.push((at, group));
            for &(index, slot, low, _) in &cluster.members {
                let offset = (low - cluster.low) as i32;
                plan.members[index][slot as usize] = Some(Member { group, offset });
            }
        }
        plan.probes.sort_unstable();
        plan
    }
}

/// The accesses of an instruction that may be in a group.
fn accesses(
    instruction: &Instruction,
    action: Action,
    info: &mut InstructionInfoFactory,
) -> [Option<Access>; 2] {
    const WORD: usize = 8;
    let stack = |displacement, write| {
        let address = Address::at(Register::RSP, displacement);
        Some(Access { slot: Slot::Stack, address, size: WORD, write })
    };
    let loaded = || {
        if instruction.op0_kind() != OpKind::Memory {
            return None;
        }
        let address = Address::of(instruction)?;
        Some(Access { slot: Slot::Operand, address, size: WORD, write: false })
    };
    match action {
        Action::Copy => [copied(instruction, info), None],
        Action::Push => [loaded(), stack(-8, true)],
        Action::Pop => [None, stack(0, false)],
        Action::Leave => {
            let address = Address::at(Register::RBP, 0);
            [None, Some(Access { slot: Slot::Stack, address, size: WORD, write: false })]
        }
        Action::Call => [None, stack(-8, true)],
        Action::CallTo => [loaded(), stack(-8, true)],
        Action::JumpTo => [loaded(), None],
        Action::Return => [None, stack(0, false)],
        _ => [None, None],
    }
}

/// The memory operand of a copied instruction.
fn copied(instruction: &Instruction, info: &mut InstructionInfoFactory) -> Option<Access> {
    let memory =
        (0..instruction.op_count()).find(|&index| instruction.op_kind(index) == OpKind::Memory)?;
    // What is masked out does not fault.
    let masked = instruction.op_mask() != Register::None
        || matches!(
            instruction.mnemonic(),
            Mnemonic::Vmaskmovps
                | Mnemonic::Vmaskmovpd
                | Mnemonic::Vpmaskmovd
                | Mnemonic::Vpmaskmovq
        );
    let homed = (0..instruction.op_count())
        .filter(|&index| instruction.op_kind(index) == OpKind::Register)
        .filter_map(|index| home_of(instruction.op_register(index)));
    let homes = homed.fold([false; 2], |mut homes, home| {
        homes[home] = true;
        homes
    });
    if masked || homes == [true, true] || names_high_byte(instruction) {
        return None;
    }
    let write = writes_memory(info.info(instruction).op_access(memory));
    let size = instruction.memory_size().size();
    let address = Address::of(instruction)?;
    (size != 0).then_some(Access { slot: Slot::Operand, address, size, write })
}

/// Whether memory that is accessed so must be one that may be written.
pub(crate) fn writes_memory(access: OpAccess) -> bool {
    !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess | OpAccess::None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::classify;
    use iced_x86::{Decoder, DecoderOptions};

    fn plan(bytes: &[u8], live: &[u32]) -> Plan {
        let decoder = Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE);
        let instructions: Vec<_> =
            decoder.into_iter().map(|instruction| (instruction, classify(&instruction))).collect();
        assert_eq!(instructions.len(), live.len());
        Plan::new(&instructions, live, 0x1000, &mut InstructionInfoFactory::new())
    }

    /// Whether the first group is one of a page that is written, and its first member.
    fn page(plan: &Plan) -> (bool, Option<(i32, usize)>) {
        match plan.groups[0].kind {
            GroupKind::Page(PageGroup { write, first, .. }) => (write, first),
            _ => panic!("operands of a page"),
        }
    }

    #[test]
    fn pushes_and_slots_of_a_frame_are_one_group() {
        // push rbp; mov rbp, rsp; push rbx; sub rsp, 16; mov [rsp], rax; mov rcx, [rbp-16]
        let bytes = [
            0x55, 0x48, 0x89, 0xe5, 0x53, 0x48, 0x83, 0xec, 0x10, 0x48, 0x89, 0x04, 0x24, 0x48,
            0x8b, 0x4d, 0xf0,
        ];
        let plan = plan(&bytes, &[0; 6]);
        assert_eq!(plan.groups.len(), 1);
        let group = plan.groups[0];
        let page = PageGroup { span: 32, write: true, first: Some((24, 8)) };
        assert_eq!((group.kind, group.last), (GroupKind::Page(page), 5));
        assert_eq!(group.address, Address::at(Register::RSP, -32));
        let offset = |index, slot| plan.member(index, slot).map(|member| member.offset);
        assert_eq!(offset(0, Slot::Stack), Some(24));
        assert_eq!(offset(2, Slot::Stack), Some(16));
        assert_eq!(offset(4, Slot::Operand), Some(0));
        assert_eq!(offset(5, Slot::Operand), Some(8));
        assert_eq!(plan.probes_at(0).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn a_changed_register_is_another_address() {
        // mov rax, [rbx]; mov rbx, [rax]; mov rcx, [rbx]
        let plan = plan(&[0x48, 0x8b, 0x03, 0x48, 0x8b, 0x18, 0x48, 0x8b, 0x0b], &[0; 3]);
        assert!(plan.groups.is_empty());
    }

    #[test]
    fn writes_join_reads_if_nothing_branches_in_between() {
        // mov rax, [rbx]; mov [rbx+8], rax; mov rcx, [rbx+16]
        let read = [0x48, 0x8b, 0x03];
        let rest = [0x48, 0x89, 0x43, 0x08, 0x48, 0x8b, 0x4b, 0x10];
        let joined = plan(&[&read[..], &rest].concat(), &[0; 3]);
        assert_eq!(joined.groups.len(), 1);
        // The read must not fault as a write.
        assert_eq!(page(&joined), (true, None));
        assert!(joined.member(0, Slot::Operand).is_some());
        // With jz in between the page may be one that is never written.
        let apart = plan(&[&read[..], &[0x74, 0x10], &rest].concat(), &[0; 4]);
        assert_eq!(apart.groups.len(), 1);
        assert_eq!(apart.member(0, Slot::Operand), None);
        assert_eq!(apart.probes_at(2).count(), 1);
    }

    #[test]
    fn what_is_read_and_then_written_is_one_group() {
        // mov rax, [rbx]; add rbx, 8; mov [rbx-8], rax
        let bytes = [0x48, 0x8b, 0x03, 0x48, 0x83, 0xc3, 0x08, 0x48, 0x89, 0x43, 0xf8];
        let plan = plan(&bytes, &[0; 3]);
        assert_eq!(plan.groups.len(), 1);
        // The read must not fault as a write.
        assert_eq!(page(&plan), (true, None));
        assert!(plan.member(0, Slot::Operand).is_some());
        assert!(plan.member(2, Slot::Operand).is_some());
    }

    #[test]
    fn probes_stand_where_no_flags_are_alive() {
        // cmp rax, rcx; mov rdx, [rbx]
        let bytes = [0x48, 0x39, 0xc8, 0x48, 0x8b, 0x13];
        let plan = plan(&bytes, &[0, 1]);
        assert_eq!(plan.probes_at(0).count(), 1);
        assert_eq!(page(&plan), (false, None));
        // mov rbx, rcx; mov rdx, [rbx]: the address is there before.
        let copied = super::tests::plan(&[0x48, 0x89, 0xcb, 0x48, 0x8b, 0x13], &[0, 1]);
        assert_eq!(copied.groups[0].address, Address::at(Register::RCX, 0));
    }

    #[test]
    fn system_instructions_end_groups() {
        // mov rax, [rbx]; cli; mov rcx, [rbx]
        let plan = plan(&[0x48, 0x8b, 0x03, 0xfa, 0x48, 0x8b, 0x0b], &[0; 3]);
        assert!(plan.groups.is_empty());
    }
}
