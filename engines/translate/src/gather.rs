//! Which instructions make up a block.
//!
//! A block follows the guest's code through jumps to later places in the page (where code goes back, something
//! must look whether attention is wanted) and through conditional jumps, as the interpreter saw them go. A loop that leads back to the block's start is unrolled: operands that its turns step
//! through share probes, and turns go without looking for what wants attention.

use crate::apart;
use crate::build::{NoBlock, Source};
use crate::classify::Action;
use crate::liveness;
use iced_x86::{DecoderError, FlowControl, Instruction};

/// Most instructions in a block.
const MAX_BLOCK: usize = 128;
/// Instructions after which a block ends with the next conditional jump: what follows one is another block as
/// well, sooner or later.
const LONG_BLOCK: usize = 40;
/// Most conditional jumps that one turn of a block goes on after.
const MAX_BRANCHES: usize = 6;
/// Most jumps that one turn of a block follows.
const MAX_JUMPS: usize = 4;
/// Most instructions of an unrolled loop.
const MAX_UNROLLED: usize = 96;
/// Most turns of a loop in its block.
const MAX_TURNS: usize = 4;
/// Instructions looked at beyond a block for the life of flags.
pub(crate) const PEEK: usize = 6;

impl Source<'_> {
    pub(crate) fn page_base(&self) -> u64 {
        self.linear & !0xfff
    }

    /// Whether the instruction at an offset in the page goes on in the next one.
    fn straddles(&self, offset: u64) -> bool {
        const LONGEST: u64 = 15;
        if offset <= 0x1000 - LONGEST {
            return false;
        }
        let bytes = &self.page[offset as usize..0x1000];
        let mut decoder = self.decoder(bytes, 0);
        let _ = decoder.decode();
        decoder.last_error() == DecoderError::NoMoreBytes
    }

    /// The offset of `target`, which is relative to the page, if a jump there can be linked. A straddling
    /// instruction depends on where the next page is mapped, as code in other pages does.
    pub(crate) fn inside(&self, target: u64) -> Option<u16> {
        u16::try_from(target).ok().filter(|&inside| inside < 0x1000 && !self.straddles(target))
    }

    /// Flags needed by the code at a linear address, if it lies in the same page.
    pub(crate) fn peek(&self, linear: u64) -> u32 {
        if linear & !0xfff != self.page_base() {
            return liveness::ALL;
        }
        let bytes = &self.page[(linear & 0xfff) as usize..];
        let decoder = self.decoder(bytes, linear);
        let next: Vec<_> = decoder
            .into_iter()
            .take(PEEK)
            .take_while(|instruction| {
                let mut form = *instruction;
                !instruction.is_invalid() && self.classify(&mut form) != Action::Interpret
            })
            .collect();
        liveness::at_start(next.iter())
    }

    /// The instructions of the block, and what is done with each.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub(crate) fn gather(&self) -> Result<Vec<(Instruction, Action)>, NoBlock> {
        let start = (self.linear & 0xfff) as usize;
        let mut decoder = self.decoder(&self.page[start..], self.linear);
        let mut instructions = Vec::with_capacity(16);
        let straddling = self.page.len() > 0x1000;
        let most = if straddling { 1 } else { MAX_BLOCK };
        let (mut branches, mut jumps, mut turns) = (0, 0, 1);
        // The last instruction as it was, if it is a jump that has been followed.
        let mut open = None;
        while instructions.len() < most && decoder.can_decode() {
            let mut instruction = decoder.decode();
            if instruction.is_invalid() {
                break;
            }
            let action = match self.classify(&mut instruction) {
                Action::Copy if self.apart && apart::is_unsteady(instruction.mnemonic()) => {
                    Action::Interpret
                }
                action => action,
            };
            branches += usize::from(action == Action::Branch);
            let ends = action == Action::Branch
                && (branches > MAX_BRANCHES || turns == 1 && instructions.len() >= LONG_BLOCK);
            if !ends && matches!(action, Action::Branch | Action::Jump) && self.follows() {
                let target = instruction.near_branch_target();
                let turn = (instructions.len() + 1) / turns;
                if target == self.linear
                    && turns < MAX_TURNS
                    && instructions.len() + 1 + turn <= MAX_UNROLLED
                {
                    turns += 1;
                    (branches, jumps) = (0, 0);
                    instructions.push(followed(instruction, action));
                    open = None;
                    decoder = self.decoder(&self.page[start..], self.linear);
                    continue;
                }
                let inside = self.inside(target.wrapping_sub(self.page_base()));
                if let Some(inside) = inside
                    && instructions.len() + 1 < most
                    && self.follows_to(&instructions, &instruction, action, inside, (jumps, turns))
                {
                    jumps += 1;
                    instructions.push(followed(instruction, action));
                    open = Some((instruction, action));
                    decoder = self.decoder(&self.page[usize::from(inside)..], target);
                    continue;
                }
            }
            open = None;
            let ends =
                ends || matches!(
                    action,
                    Action::Jump | Action::Call | Action::JumpTo | Action::CallTo | Action::Return
                ) || action == Action::Interpret && instruction.flow_control() != FlowControl::Next;
            instructions.push((instruction, action));
            if ends {
                break;
            }
        }
        if let (Some(last), Some(open)) = (instructions.last_mut(), open) {
            // There was nothing to follow.
            *last = open;
        }
        if !instructions.is_empty() {
            Ok(instructions)
        } else if !straddling && decoder.last_error() == DecoderError::NoMoreBytes {
            Err(NoBlock::Straddles)
        } else {
            Err(NoBlock::Undefined)
        }
    }

    /// Whether the block goes on where a jump after some instructions leads, which is at the offset `inside` in the
    /// page.
    fn follows_to(
        &self,
        before: &[(Instruction, Action)],
        jump: &Instruction,
        action: Action,
        inside: u16,
        (jumps, turns): (usize, usize),
    ) -> bool {
        let target = jump.near_branch_target();
        let next = (jump.next_ip() & 0xfff) as u16;
        if let Some(&then) = self.path.get(before.len() + 1) {
            return then == inside && then != next;
        }
        let known = |(seen, _): &(Instruction, Action)| seen.ip() == target;
        jumps < MAX_JUMPS
            && target > jump.ip()
            && (turns > 1 || !before.iter().any(known))
            && (action == Action::Jump || (self.likely)(inside, next))
    }

    /// Whether the block is one that follows jumps: what looks on at blocks knows instructions by where they
    /// are, and wants each once.
    pub(crate) fn follows(&self) -> bool {
        !self.apart && !self.narrow && self.page.len() == 0x1000
    }
}

/// A jump that the block follows, as what is left of it: one that leads to where it would not.
fn followed(mut instruction: Instruction, action: Action) -> (Instruction, Action) {
    if action == Action::Jump {
        return (instruction, Action::Skip);
    }
    let leaves = instruction.next_ip();
    instruction.negate_condition_code();
    instruction.set_near_branch64(leaves);
    (instruction, Action::Branch)
}
