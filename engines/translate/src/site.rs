//! The places where generated code leaves to the dispatcher, as data.

use ambos_interpret::op::Op;
use std::rc::Rc;

/// Why generated code left, and how to go on.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Before the block's first instruction: something wants attention, or the block is stale.
    Entry {
        /// The flags are those that were kept in memory.
        flags_kept: bool,
    },
    /// The end of the block, with a direct successor in the same page that was not translated yet.
    Link {
        /// Address of the jump's displacement.
        patch: u64,
        /// The successor's linear address, relative to the block's page.
        target: u64,
        /// The successor is one whose operands may share probes.
        groups: bool,
    },
    /// The end of the block, with the successor's linear address in R10 and the flags in memory.
    Indirect {
        /// What the instruction added to the stack pointer, for running it again: it must fault
        /// where the address is not canonical.
        stack: i64,
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
    /// The probe of a group of memory operands that the TLB does not have. The linear address of the
    /// first byte is in R10.
    Group {
        /// Offset and bytes of the operand that comes next, if one does.
        first: Option<(i32, usize)>,
        /// Address of the displacement of the jump that is taken if the probe fails, and of code that goes
        /// on without groups.
        patch: u64,
        apart: u64,
        /// How often that was done.
        failures: u32,
        /// Some are written.
        write: bool,
        /// The flags are those that were kept in memory.
        flags_kept: bool,
        /// Where to go on once the TLB has it.
        retry: u64,
        /// Where to go on with what the TLB has.
        ready: u64,
    },
    /// An instruction for the interpreter.
    Interpret {
        /// The instruction.
        op: Rc<Op>,
        /// The block goes on after it.
        goes_on: bool,
        /// What a group of operands has found is used later.
        spanned: bool,
    },
}

/// One place.
#[derive(Debug)]
pub(crate) struct Site {
    /// Number of the block.
    pub(crate) block: u32,
    /// Offset of the instruction in its page.
    pub(crate) offset: u16,
    /// Bytes of the instruction.
    pub(crate) length: u8,
    /// Where to go on after the instruction; zero if the block does not.
    pub(crate) next: u64,
    /// Why and how.
    pub(crate) kind: Kind,
}
