//! The places where generated code leaves to the dispatcher, as data.

use std::num::NonZeroU32;

/// Why generated code left, and how to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Between instructions: something wants attention.
    Entry {
        /// The flags are those that were kept in memory.
        flags_kept: bool,
    },
    /// The end of the block, with a direct successor in the same page that was not translated yet.
    Link {
        /// Address of the jump's displacement.
        patch: u64,
        /// The successor's offset in the block's page.
        target: u16,
    },
    /// The end of the block, with the successor's linear address in R10 and the flags in memory.
    Indirect {
        /// What the instruction added to the stack pointer, for running it again: it must fault
        /// where the address is not canonical.
        stack: i32,
    },
    /// A jump to another page that is not linked, or not where the page is: see [`crate::far`]. The flags are in
    /// memory.
    Far {
        /// Address of the displacement of the page's place.
        page_patch: u64,
        /// Address of the jump's displacement.
        jump_patch: u64,
        /// Where it leads, relative to the block's page.
        target: i32,
        /// What the instruction added to the stack pointer.
        stack: i8,
    },
    /// A memory operand that the TLB does not have. Its linear address is in R10 or R11.
    Miss {
        /// Which of the two.
        in_r11: bool,
        /// Bytes.
        size: u8,
        /// It is written.
        write: bool,
        /// The flags are those that were kept in memory.
        flags_kept: bool,
        /// What a group of operands has found is used later.
        spanned: bool,
        /// Where to go on once the TLB has it.
        retry: u64,
        /// Where to go on with what the TLB has.
        ready: u64,
    },
    /// The probe of a group of memory operands.
    Group(GroupSite),
    /// An instruction for the interpreter.
    Interpret {
        /// The instruction's number.
        op: u32,
        /// The block goes on after it.
        goes_on: bool,
        /// What a group of operands has found is used later.
        spanned: bool,
    },
}

/// The probe of a group of memory operands that the TLB does not have, or that do not lie in one page. The linear address
/// of the first byte is in R10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupSite {
    /// Offset and bytes of the operand that comes next, if one does.
    pub(crate) first: Option<(i32, usize)>,
    /// Address of the displacement of the jump that is taken if the probe fails.
    pub(crate) patch: u64,
    /// Some are written.
    pub(crate) write: bool,
    /// The flags are those that were kept in memory.
    pub(crate) flags_kept: bool,
    /// Where to go on once the TLB has it.
    pub(crate) retry: u64,
    /// Where to go on with what the TLB has.
    pub(crate) ready: u64,
}

/// What became of the probe of a group that failed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GroupState {
    /// Offset in the code cache of code that goes on without groups, once that was made: at its start there are stubs.
    pub(crate) apart: Option<NonZeroU32>,
    /// How often the group had to be taken apart for what the TLB cannot have.
    pub(crate) failures: u32,
}

/// One place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Site {
    /// Offset in the block's page of the instruction where the guest is.
    pub(crate) offset: u16,
    /// Bytes of the instruction.
    pub(crate) length: u8,
    /// Where to go on after the instruction; zero if the block does not.
    pub(crate) next: u64,
    /// Why and how.
    pub(crate) kind: Kind,
}

/// Bits of the number of a site within its block. The number of the block is above them.
const INDEX_BITS: u32 = 12;
/// Most sites of a block.
pub(crate) const MOST_SITES: usize = 1 << INDEX_BITS;

/// The number of the site of a block with a number in that.
pub(crate) fn number(block: u32, index: usize) -> u32 {
    block << INDEX_BITS | index as u32
}

/// The block that a site is in, and its number there.
pub(crate) fn parts(number: u32) -> (u32, usize) {
    (number >> INDEX_BITS, number as usize & (MOST_SITES - 1))
}
