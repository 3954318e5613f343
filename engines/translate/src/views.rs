//! Memory operands of user code that are reached through views: see [`ambos_interpret::mmu::Tlb`].
//!
//! Where all that a program has is at one distance, or the operand is on the stack, that distance is the base of FS, which
//! the entry stub loads: the operand is the guest's own with a prefix. Its pointer is checked before, by a read of the guard.
//! Else the linear address is looked up in a table of regions, and what is found there added to it. For any address that
//! leads into a view or to a fault, so nothing depends on a comparison but how fast it is.
//! What cannot be reached so faults on the host. For each access it is noted where the guest's state is then, which
//! costs nothing as long as nothing faults; who serves the fault has the page be seen, or makes up the state and
//! leaves the instruction to the interpreter.
//!
//! Why code reaches nothing of the host's but views, whatever is in the guest's registers:
//! - What is looked up is the value of a pointer, or a linear address, at any of 2^64. Bits 40 to 47 select the distance;
//!   with the bits above them zero, pointer plus distance lies in a zone of the bank or in the area where nothing is seen,
//!   each of which has 4 GiB that are never mapped on both sides. With other bits above, that sum has them as well, and
//!   its lower 48 bits are those of a user address of the host's, more than 4 GiB from their ends: no user memory is there
//!   (with paging of five levels it could be, but only for who asks for it), and it is not canonical on other hosts.
//! - Where the first of the usual distances is added without a look at the table, the guard is asked before, and faults
//!   unless that is the distance of the region that the same bits select. Its pages are closed before a bank's zones are
//!   given up, and opened once there are others.
//! - Nor is the guard asked about what lies around the code itself, where that is at the usual distance in all banks whose
//!   code has this distance only. The bank is made ready before it is decided which block runs; while it has no zones,
//!   the distance is one that leads beyond the addresses of user memory.
//! - An access lies at most 2 GiB away from what was looked up, and ends 64 bytes further on at most: a displacement is
//!   added only to the pointer that it belongs to (`plan::views` keeps pointer and operand within 2^30 each of the same
//!   unknown value; nothing is added to it but constants in between), or has been added before the look.
//! - A distance that code holds stays good for as long as the code can go on: zones are given up only in
//!   [`ambos_interpret::mmu::Tlb::prepare_view`], for another bank or another root, and whoever goes on after those has left
//!   the block. Tables lead nowhere from the time that the area for that is reserved, which is before there is any code.

use crate::build::{Builder, ColdKind, Source};
use crate::classify::{Action, class};
use crate::emit::{Mem, reg};
use crate::flags::FlagsIn;
use crate::group::RSP;
use crate::layout;
use crate::plan::{GroupKind, Member};
use crate::scratch::home_of;
use ambos_interpret::exec::native::Class;
use ambos_interpret::mmu::VIEW_REGIONS;
use iced_x86::{Instruction, Register};

/// Where the guest's state is while an access runs that may fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ViewState {
    /// The flags are those that were kept in memory.
    pub(crate) flags_kept: bool,
    /// R10 and R11 hold what the guest's do, and memory does not.
    pub(crate) homes: [bool; 2],
    /// What the stack pointer is behind by.
    pub(crate) behind: i16,
}

/// An access that may fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ViewSite {
    /// Offset of the host instruction in the block's code.
    pub(crate) host: u32,
    pub(crate) state: ViewState,
}

/// Which distance is tried first: see [`ambos_interpret::mmu::BankViews`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usual {
    Stack,
    Data,
    /// That of the stack, and there is no other that might be right.
    Certain,
}

impl Source<'_> {
    /// Whether an instruction of the block reaches its operands through views.
    pub(crate) fn sees(&self, instruction: &Instruction, action: Action) -> bool {
        self.views
            && match action {
                Action::Copy => {
                    !matches!(class(instruction), Class::X87 | Class::Mmx | Class::Wait)
                }
                Action::Push | Action::Pop | Action::Leave => true,
                Action::Call | Action::CallTo | Action::JumpTo | Action::Return => true,
                _ => false,
            }
    }
}

impl Builder<'_> {
    /// Looks up what to add to the linear address in `from` to be in a view; leaves it in `to`.
    ///
    /// What is found by the address takes some cycles until it is known. Where flags may be changed it is compared with
    /// what is usual: if that is right, which the processor predicts, nothing waits for it.
    pub(crate) fn look_up_view(&mut self, to: u8, from: u8, usual: Usual, flags_live: bool) {
        if usual == Usual::Certain {
            self.ask_guard(to, from);
            self.code.load(to, Mem::Gs(self.set.usual));
            return;
        }
        self.counters.looks += 1;
        self.code.pext(to, from, layout::VIEW_MASK);
        if flags_live && self.flags == FlagsIn::Host {
            self.code.load(to, Mem::GsTable(to, self.set.distances));
            return;
        }
        if flags_live {
            self.flags = FlagsIn::Memory;
        }
        let usual = usual as i32;
        let is_usual = self.set.is_usual + usual * VIEW_REGIONS as i32;
        // cmp to, byte ptr [is_usual + to]
        self.code.op(false, &[0x3a], to, Mem::GsBase(to, is_usual));
        let other = self.code.jump_if(5, 0);
        self.code.load(to, Mem::Gs(self.set.usual + usual * 8));
        let ready = self.code.here();
        let distances = self.set.distances;
        self.cold(other, 0, ColdKind::View { to, distances, ready });
    }

    /// Faults if the first of the usual distances is not right for the linear address in `from`. Changes `scratch`, but
    /// no flags, and nothing waits for it.
    fn ask_guard(&mut self, scratch: u8, from: u8) {
        self.counters.looks += 1;
        self.code.pext(scratch, from, layout::GUARD_MASK);
        self.note_access();
        // movzx scratch, byte ptr [guard + scratch]
        self.code.op(false, &[0x0f, 0xb6], scratch, Mem::GsBase(scratch, self.set.guard));
    }

    /// The same for an address computed from `base`, unless that is the instruction pointer and what lies around the code
    /// is known to be right.
    pub(crate) fn ask_guard_of(&mut self, base: Register, scratch: u8, from: u8) {
        if !(self.source.code_seen && base == Register::RIP) {
            self.ask_guard(scratch, from);
        }
    }

    /// Whether members of a group are at the usual distance, or fault.
    pub(crate) fn is_usual(&self, number: usize) -> bool {
        let group = &self.plan.groups[number];
        self.source.even || group.kind == GroupKind::Distance && group.address.base == Register::RSP
    }

    /// Looks up the view for a group of operands that begins at the current instruction.
    pub(crate) fn look_up_group(&mut self, number: usize, flags_live: bool) {
        let group = self.plan.groups[number];
        if group.kind == GroupKind::Distance {
            let base = group.address.base;
            let home = home_of(base);
            if let Some(home) = home {
                self.need(home);
            }
            let to = self.passing_scratch(home);
            if self.is_usual(number) {
                return self.ask_guard(to, base.number() as u8);
            }
            let usual = self.usual();
            self.look_up_view(to, base.number() as u8, usual, flags_live);
            self.holds(usize::from(to == reg::R11), number);
            return;
        }
        if !self.compute(group.address, reg::R10, reg::R11) {
            // The plan has checked that its parts fit; were it wrong, members would go anywhere.
            self.failed = true;
            return;
        }
        if self.is_usual(number) {
            self.ask_guard_of(group.address.base, reg::R11, reg::R10);
        } else {
            let usual = self.usual();
            self.look_up_view(reg::R11, reg::R10, usual, flags_live);
            self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
        }
        self.holds(0, number);
    }

    /// Which distance to try for the operand of the current instruction. If its pointer was in a register at the block's
    /// start, what that holds now, as the block is translated, is likely to be where it points later.
    pub(crate) fn usual(&self) -> Usual {
        let register = self.plan.pointer(self.index).map(usize::from);
        match register.and_then(|number| self.cpu.native.gpr.get(number)) {
            _ if self.source.even => Usual::Certain,
            Some(&linear) if self.cpu.tlb.is_seen_as_stack(linear) => Usual::Stack,
            _ => Usual::Data,
        }
    }

    /// Where a member of a group is: `displacement` bytes from what `base` points at. Not through the scratch
    /// register to avoid, which `base` may be.
    pub(crate) fn reach_view(
        &mut self,
        member: Member,
        (base, displacement): (Register, i32),
        avoid: Option<usize>,
    ) -> Mem {
        let usual = self.is_usual(member.group);
        if self.plan.groups[member.group].kind == GroupKind::Seen {
            let start = self.hold(member.group, avoid);
            return match usual {
                true => Mem::Fs(start, member.offset),
                false => Mem::Base(start, member.offset),
            };
        }
        let home = home_of(base);
        if let Some(home) = home {
            self.need(home);
        }
        let displacement = displacement + self.behind_of(base);
        if usual {
            return Mem::Fs(base.number() as u8, displacement);
        }
        let distance = self.hold(member.group, home.or(avoid));
        Mem::SumAt(base.number() as u8, distance, displacement)
    }

    /// What is missing from the host's register for the guest's.
    pub(crate) fn behind_of(&self, base: Register) -> i32 {
        if base.is_gpr() && base.number() == RSP { self.stack_behind } else { 0 }
    }

    /// Where the state is now.
    pub(crate) fn view_state(&self) -> ViewState {
        ViewState {
            flags_kept: self.flags == FlagsIn::Memory,
            homes: self.dirty_homes(),
            behind: self.stack_behind as i16,
        }
    }

    /// Notes that the next host instruction is an access that may fault, with the state in `state`.
    pub(crate) fn note_access_with(&mut self, state: ViewState) {
        if self.viewing {
            let host = self.code.bytes.len() as u32;
            self.built.views.push(ViewSite { host, state });
        }
    }

    /// Notes that the next host instruction is an access that may fault.
    pub(crate) fn note_access(&mut self) {
        self.note_access_with(self.view_state());
    }
}
