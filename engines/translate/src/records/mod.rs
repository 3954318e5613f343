//! What is known of the code of a block, as bytes: there are many blocks, and most of this is never looked at.
//!
//! Records follow the host's code. One for each guest instruction says how much of that belongs to it; those of the
//! places where it leaves, and of its accesses to what is seen, come after it. So nearly all that they hold is a small
//! distance, or a number that many others have as well. What is looked for, by its number or by a host address, is found by reading from the block's start: some
//! dozen records, one to five bytes each.

mod forms;
mod lengths;
mod read;
mod varint;
mod write;

pub(crate) use forms::Forms;
pub(crate) use read::Records;
pub(crate) use varint::{put_signed, put_unsigned, take_byte, take_signed, take_unsigned};
pub(crate) use write::write;

use crate::site::Kind;
use crate::views::ViewSite;

/// Host code of a block that belongs to a guest instruction: from an offset to that of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Offset in the host's code.
    pub(crate) host: u32,
    /// Offset of the instruction in its page.
    pub(crate) guest: u16,
    /// Bytes of the instruction.
    pub(crate) length: u8,
    /// Flags needed before it.
    pub(crate) live: u8,
    /// Whether the block goes on behind it when something else has run the instruction.
    pub(crate) goes_on: bool,
    /// It is not the instruction's first: that has ended before, and this does what comes between it and the next.
    pub(crate) after: bool,
}

/// A place where a block leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Number of the part that it belongs to.
    pub(crate) part: u16,
    /// Offset in the block's page of the instruction where the guest is then.
    pub(crate) offset: u16,
    /// Why it leaves, and how to go on.
    pub(crate) kind: Kind,
}

/// All that is written of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noted<'a> {
    /// Address of the block's first byte.
    pub(crate) start: u64,
    /// Bytes of host code on the straight path.
    pub(crate) length: u32,
    /// By address.
    pub(crate) parts: &'a [Part],
    /// By part.
    pub(crate) sites: &'a [Placed],
    /// By address.
    pub(crate) views: &'a [ViewSite],
}

/// First bytes of records.
mod tag {
    use super::MORE;
    use super::lengths::MOST as NUMBERED;

    /// Instructions whose lengths have a number.
    pub(super) const INSTRUCTION: u8 = 0;
    /// Others, by their length less one; that of the host code follows.
    pub(super) const LONG: u8 = INSTRUCTION + NUMBERED;
    /// How many lengths these are.
    pub(super) const LENGTHS: u8 = 10;
    /// An instruction; both lengths follow.
    pub(super) const ANY: u8 = LONG + LENGTHS;
    /// Another part of the same instruction; the length of the host code follows.
    pub(super) const AFTER: u8 = ANY + 1;
    /// The block does not go on behind the next instruction.
    pub(super) const ENDS: u8 = AFTER + 1;
    /// The next instruction is not the one behind the last; how far it is from there follows.
    pub(super) const JUMPED: u8 = ENDS + 1;
    /// At the next site the guest is not at the last instruction; how far from that follows.
    pub(super) const AWAY: u8 = JUMPED + 1;
    /// Accesses to what is seen with all of the guest's state in its place, by the distance from the last one, or from the
    /// part's start.
    pub(super) const VIEW: u8 = AWAY + 1;
    /// Others; their form follows.
    pub(super) const VIEW_ANY: u8 = VIEW + MORE;
    /// Sites of [`crate::site::Kind`], by what is told by few bits; of those of operands, the distance of where to try again
    /// from the part's start.
    pub(super) const ENTRY: u8 = VIEW_ANY + 1;
    pub(super) const LINK: u8 = ENTRY + 2;
    pub(super) const INDIRECT: u8 = LINK + 6;
    pub(super) const FAR: u8 = INDIRECT + 4;
    pub(super) const MISS: u8 = FAR + 6;
    pub(super) const GROUP: u8 = MISS + MORE + 1;
    pub(super) const INTERPRET: u8 = GROUP + MORE + 1;
    /// Behind the last one.
    pub(super) const END: u8 = INTERPRET + 4;
}

/// What instructions mostly add to the stack pointer; another number follows.
const STACKS: [i32; 3] = [0, -8, 8];
/// How far displacements of jumps mostly are before the end of their part: it ends with the jump, or with another behind
/// it.
const LAST: [u64; 2] = [4, 9];
/// Distances that are less are told by the first byte; of others follows what they are more by.
const MORE: u8 = 15;
/// The first number of forms of operands, of groups of them and of accesses to what is seen, above flags.
const OPERAND: u16 = 0x100;
const OF_GROUP: u16 = 0x200;
const OF_VIEW: u16 = 0x400;
/// The same of entries, which their own module has.
pub(crate) const OF_ENTRIES: u16 = 0x300;

#[cfg(test)]
mod tests;
