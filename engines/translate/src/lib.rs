//! The translator: guest code runs as host code of the same instruction set.
//!
//! [`Translator`] is one vCPU. It owns an [`ambos_interpret::Cpu`] and shares its state, software MMU
//! and every rare path; code runs in the interpreter until it is hot. Guest registers, flags
//! and vector state live in the host's while translated code runs.
//!
//! Where to find what:
//!
//! - [`dispatch`]: the loop between blocks. [`finding`], [`translating`]: what runs next, found or made now. [`current`]:
//!   what has changed. [`exits`]: what each exit of translated code wants and how the run goes on.
//! - [`cache`]: which blocks there are; invalidation. [`directory`], [`key`]: where in guest code they are. [`block`],
//!   [`records`], [`ops`]: what is known of each. [`cold`]: what is not translated yet. [`site`]: the places where blocks
//!   leave; [`recent`]: those where they did lately.
//! - [`build`], [`entries`]: from guest instructions to host code; [`classify`], [`liveness`], [`emit`].
//! - [`copy`], [`stack`]: instructions that are copied; pushes, pops, calls and returns.
//! - [`plan`], [`group`]: which memory operands share a probe, and how they do.
//! - [`views`], [`spaces`], [`seeing`]: operands of user code that are reached without a probe, in which address spaces,
//!   and pages that are missing there.
//! - [`scratch`]: what the two scratch registers hold.
//! - [`compat`]: 32-bit code.
//! - [`control`]: how blocks go on. [`counting`]: loops whose turns need not be run.
//! - [`system`]: frequent system instructions; by subject [`flags`], [`segments`], [`syscalls`].
//! - [`x87`]: x87 and MMX instructions, and their state.
//! - [`strings`], [`bits`]: string instructions, and bits that a register names.
//! - [`counts`]: interceptions on their way to the ledger.
//! - [`apart`]: running one block alone, for those who look on.
//! - [`perf_map`]: names for profilers.
//! - [`memory`], [`second`]: how memory operands are reached.
//! - [`stubs`], [`layout`], [`native`]: entry, exit and the data that generated code shares.
#![allow(rustdoc::private_intra_doc_links, reason = "the map of the crate is for its readers")]

mod apart;
mod bits;
mod block;
mod build;
mod cache;
mod classify;
mod cold;
mod compat;
mod control;
mod copy;
mod counting;
mod counts;
mod current;
mod directory;
mod dispatch;
mod emit;
mod entries;
mod exits;
mod far;
mod finding;
mod flags;
mod gather;
mod group;
mod held;
mod key;
mod layout;
mod liveness;
mod memory;
mod native;
mod numbers;
mod ops;
mod options;
mod perf_map;
mod plan;
mod recent;
mod records;
mod scratch;
mod second;
mod seeing;
mod segments;
mod site;
mod spaces;
mod stack;
mod statistics;
mod strings;
mod stubs;
mod syscalls;
mod system;
mod translating;
mod ungrouped;
mod vectors;
mod views;
mod x87;

pub use apart::{Apart, Interpreted};
pub use dispatch::Translator;
pub use options::{Options, TranslatorError};
pub use spaces::Views;
pub use statistics::Statistics;
