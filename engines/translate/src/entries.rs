//! The entries of blocks, and how they look whether something wants attention.

use crate::build::{Builder, ColdKind};
use crate::classify::{Action, class};
use crate::dispatch::Translator;
use crate::emit::{Code, Mem, reg};
use crate::flags::FlagsIn;
use crate::layout;
use crate::liveness;
use crate::plan::Slot;
use crate::second;
use crate::vectors;
use ambos_hostcode::arena::Region;
use ambos_interpret::exec::native::Class;
use iced_x86::{Instruction, OpKind};

/// What the entries need off the straight path.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Head {
    /// The block needs flags.
    needs_flags: bool,
    /// It begins with the flags in memory: entries from the same page save them.
    saved: bool,
    /// Displacement of the jump that is taken on the straight path if something wants attention.
    poll: Option<u64>,
}

impl Builder<'_> {
    /// The entries of a block with these instructions, which need these flags.
    ///
    /// Whoever jumps through a cache has looked whether something wants attention; whoever goes back in the
    /// page has not.
    pub(crate) fn head(&mut self, instructions: &[(Instruction, Action)], needed: &[u32]) {
        let live = needed.first().copied().unwrap_or(liveness::ALL);
        let saved = live != 0 && self.saves_first(instructions, needed);
        let loops = live == 0 && self.loops(instructions);
        self.vectors_at = vectors::place(instructions, needed, loops);
        self.loops_with_vectors = loops && self.vectors_at == Some(0);
        self.head = Head { needs_flags: live != 0, saved, poll: None };
        if self.source.absolute {
            self.built.entries.arrived = self.code.here();
            if live == 0 || saved {
                // Room for a jump in place of this entry alone.
                self.code.raw(&[0x0f, 0x1f, 0x44, 0, 0]);
            }
        } else {
            let back = -((self.source.linear & 0xfff) as i32);
            self.code.lea(reg::R11, Mem::Base(reg::R10, back));
            self.built.entries.arrived = self.code.here();
            self.code.store(Mem::Gs(layout::CODE_BASE), reg::R11);
        }
        if loops && !self.loops_with_vectors {
            self.built.entries.polling = Some(self.code.here());
            self.head.poll = Some(self.poll_gate());
        }
        self.built.entries.far = self.code.here();
        if saved {
            self.flags = FlagsIn::Memory;
        } else if live != 0 {
            self.load_kept_flags(Some(reg::R11));
        }
        self.built.entries.body = self.code.here();
    }

    /// Whether a block leads back to its start.
    fn loops(&self, instructions: &[(Instruction, Action)]) -> bool {
        instructions.iter().any(|&(ref instruction, action)| {
            matches!(action, Action::Branch | Action::Jump)
                && instruction.near_branch_target() == self.source.linear
        })
    }

    /// Behind the look for the vector state at the start of a block: who comes from the same page, and from where the state
    /// is held, need not look again.
    pub(crate) fn begin_ready(&mut self) {
        if self.loops_with_vectors {
            let over = self.code.short_jump();
            self.built.entries.polling = Some(self.code.here());
            self.head.poll = Some(self.poll_gate());
            self.code.land(over);
        }
        self.built.entries.ready = Some(self.code.here());
    }

    /// Whether a block that needs flags saves them, for a probe or where it goes to another page, before an
    /// instruction wants them.
    fn saves_first(&self, instructions: &[(Instruction, Action)], needed: &[u32]) -> bool {
        if self.source.narrow {
            return false;
        }
        for (index, &(ref instruction, action)) in instructions.iter().enumerate() {
            if needed[index] == 0 {
                return false;
            }
            let sees = self.plan.sees(index);
            if !self.source.views && self.plan.probes_at(index).next().is_some() {
                return true;
            }
            let probed = |slot| !sees && self.plan.member(index, slot).is_none();
            let in_memory = (0..instruction.op_count())
                .any(|operand| instruction.op_kind(operand) == OpKind::Memory);
            let target = instruction.near_branch_target().wrapping_sub(self.page_base());
            match action {
                Action::Skip | Action::Address => {}
                Action::Copy if in_memory && probed(Slot::Operand) => return true,
                Action::Copy => {
                    if instruction.rflags_read() | instruction.rflags_modified() != 0
                        || class(instruction) != Class::General
                    {
                        return false;
                    }
                }
                Action::Push | Action::Pop | Action::Leave => {
                    if probed(Slot::Stack) || in_memory && probed(Slot::Operand) {
                        return true;
                    }
                }
                Action::Jump => return self.source.inside(target).is_none(),
                Action::Call => return probed(Slot::Stack) || self.source.inside(target).is_none(),
                Action::JumpTo | Action::CallTo | Action::Return => return true,
                Action::Branch | Action::System | Action::Interpret => return false,
            }
        }
        let next = instructions.last().map_or(0, |(last, _)| last.next_ip());
        self.source.inside(next.wrapping_sub(self.page_base())).is_none()
    }

    /// What belongs to the entries off the straight path.
    pub(crate) fn cold_head(&mut self) {
        let Head { needs_flags, saved, poll } = self.head;
        if let Some(poll) = poll {
            let here = self.code.here();
            self.cold.bind(poll, here);
            leave_before(self.code, self.source.block, self.stubs.before);
        }
        self.built.entries.needs_flags = needs_flags;
        self.built.entries.saves_flags = saved;
        if saved {
            let body = self.built.entries.body;
            self.built.entries.body = self.code.here();
            self.flags = FlagsIn::Host;
            self.keep_flags(reg::R11);
            self.code.jump(body);
        }
    }

    /// Leaves at `site` if something wants attention. Changes R10.
    pub(crate) fn poll(&mut self, site: u32) {
        let displacement = self.poll_with_flags();
        self.cold(displacement, site, ColdKind::Leave);
    }

    /// Looks whether something wants attention; returns the displacement of the jump that is taken then. Changes
    /// flags.
    pub(crate) fn poll_gate(&mut self) -> u64 {
        poll_gate(self.code, self.source.gate)
    }

    /// The same without changing flags.
    fn poll_with_flags(&mut self) -> u64 {
        poll_with_flags(self.code, self.source.gate)
    }
}

/// See [`Builder::poll_gate`].
fn poll_gate(code: &mut Code, gate: u32) -> u64 {
    // cmp dword ptr [gate], 0
    code.op(false, &[0x83], 7, Mem::Low(gate));
    code.raw(&[0]);
    code.jump_if(4, 0)
}

/// See [`Builder::poll_with_flags`].
fn poll_with_flags(code: &mut Code, gate: u32) -> u64 {
    code.store(Mem::Gs(layout::SAVED_RCX), reg::RCX);
    // mov ecx, [gate]
    code.op(false, &[0x8b], reg::RCX, Mem::Low(gate));
    code.lea(reg::RCX, Mem::Base(reg::RCX, -(second::OPEN as i32)));
    // jrcxz over the two instructions that leave
    code.raw(&[0xe3, 14]);
    let here = code.here();
    code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
    let displacement = code.jump(0);
    debug_assert_eq!(code.here() - here, 14);
    code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
    displacement
}

/// Leaves before the first instruction of a block, with the flags in the host's.
fn leave_before(code: &mut Code, block: u32, stub: u64) {
    code.constant(reg::R11, block.into());
    code.jump(stub);
}

impl Translator {
    /// The entry of a block from a later place in the same page, which looks whether something wants attention. Most
    /// blocks are never entered so: it is made when the first such jump is linked. `None` if there was no room for it, so
    /// that all code has been dropped.
    pub(crate) fn polling_entry(&mut self, number: u32, held: bool) -> Option<u64> {
        if let Some(entry) = self.cache.polling(number, held) {
            return Some(entry);
        }
        let entries = self.cache.block(number).entries();
        let [_, code] = &mut self.code.0;
        code.start(self.arena.next(Region::Cold) as u64);
        let entry = code.here();
        let displacement = match entries.needs_flags {
            true => poll_with_flags(code, self.gate),
            false => poll_gate(code, self.gate),
        };
        code.jump(entries.body);
        let leave = code.here();
        code.bind(displacement, leave);
        leave_before(code, number, self.stubs.before);
        if self.arena.push(Region::Cold, &code.bytes).is_none() {
            self.flush();
            return None;
        }
        self.statistics.host_bytes += code.bytes.len() as u64;
        self.cache.set_polling(number, entry);
        Some(entry)
    }
}
