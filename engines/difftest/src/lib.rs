//! The differential tester: random instructions, single or in blocks, on the host's processor and on an engine.
//!
//! Host and guest share one instruction set, so the host's processor itself says what an
//! instruction must do. Each case is an instruction, or a block of them with branches and calls, with
//! random operands in random registers, flags and memory, faulting operands included. It runs natively ([`native`]) and in the smallest
//! possible guest ([`guest`]), and everything that a user program can see must be the same.
//!
//! Cases follow from a seed and a number: a failure can be repeated by giving both.

mod block;
pub mod case;
mod compare;
mod generate;
pub mod guest;
pub mod layout;
pub mod native;
pub mod platform;
mod random;
mod shrink;
mod single;

use ambos_memory::{GuestRam, MemoryError};
use ambos_vcpu::{Attention, Engine};
use native::NativeError;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use thiserror::Error;

/// What to test.
#[derive(Debug, Clone)]
pub struct Options {
    /// Numbers of the cases.
    pub cases: Range<u64>,
    /// What the cases follow from.
    pub seed: u64,
    /// Only instructions with this mnemonic.
    pub filter: Option<String>,
}

/// Why nothing could be tested.
#[derive(Debug, Error)]
pub enum DifftestError {
    /// The native side cannot run.
    #[error(transparent)]
    Native(#[from] NativeError),
    /// There is no memory for the guest.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// No instruction that the host has is called so.
    #[error("no testable instruction is called {0:?}")]
    NoSuchInstruction(String),
}

/// A difference between host and engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Number of the case.
    pub number: u64,
    /// Instruction text, bytes, differences and the state before, in one line.
    pub line: String,
}

/// What came of all cases.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Cases that ran on both sides.
    pub ran: u64,
    /// Cases that ended with an exception.
    pub faulted: u64,
    /// Different instructions (encodings) that ran.
    pub codes: usize,
    /// Instructions that the host does not have.
    pub absent: usize,
    /// Some failures of each kind of instruction.
    pub failures: BTreeMap<String, Vec<Failure>>,
    /// All failures.
    pub failed: u64,
}

/// Failures kept for each kind of instruction.
const KEPT: usize = 2;

impl Report {
    /// Adds a failure of instructions called `name`; `line` is asked for only if it is kept.
    fn fail(&mut self, name: &str, number: u64, line: impl FnOnce() -> String) {
        self.failed += 1;
        let list = self.failures.entry(name.to_owned()).or_default();
        if list.len() < KEPT {
            list.push(Failure { number, line: line() });
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, failures) in &self.failures {
            for failure in failures {
                writeln!(f, "{name} (case {}): {}", failure.number, failure.line)?;
            }
        }
        write!(
            f,
            "{} cases, {} with exceptions, {} kinds of instruction, {} not on this host; {} failed",
            self.ran, self.faulted, self.codes, self.absent, self.failed
        )
    }
}

/// Runs single instructions on the host and on the engine that `make` makes.
///
/// # Errors
///
/// [`DifftestError`] if the test cannot begin.
pub fn run_single<E: Engine>(
    options: &Options,
    make: impl FnOnce(Arc<GuestRam>, Arc<Attention>) -> E,
) -> Result<Report, DifftestError> {
    single::run(options, make)
}

/// Runs blocks of instructions on the host and on the engine that `make` makes. `exact` says whether the
/// engine has all arithmetic flags right when an instruction faults, also those that the block overwrites
/// later without looking at them.
///
/// # Errors
///
/// [`DifftestError`] if the test cannot begin.
pub fn run_blocks<E: Engine>(
    options: &Options,
    exact: bool,
    make: impl FnOnce(Arc<GuestRam>, Arc<Attention>) -> E,
) -> Result<Report, DifftestError> {
    block::run(options, exact, make)
}
