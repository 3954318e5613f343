//! What runs a vCPU.

use crate::{CpuState, Platform};
use std::fmt;

/// Why an engine returned to the vCPU's owner. Every stop is between two guest instructions, so the
/// state can be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// HLT: nothing to do until an interrupt arrives.
    Halted,
    /// [`crate::Request::STOP`] was raised (and has been lowered).
    Asked,
    /// [`crate::Request::INIT`]: the vCPU waits for a start-up message.
    WaitForStartUp,
    /// The guest cannot go on.
    Crashed(Crash),
    /// The engine found itself at fault; what it says of that, in several lines.
    Failed(String),
    /// The budget of guest instructions given to [`Engine::run`] is used up.
    Budget,
}

/// How a guest came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Crash {
    /// An exception while delivering a double fault: the processor shuts down.
    TripleFault {
        /// Guest RIP of the instruction that started it.
        rip: u64,
        /// The exceptions in order, by vector.
        vectors: Vec<u8>,
    },
    /// The supervisor of a deprivileged guest cannot go on with it.
    Supervisor {
        /// Guest RIP.
        rip: u64,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TripleFault { rip, vectors } => {
                write!(f, "triple fault at rip {rip:#x} (exceptions {vectors:?})")
            }
            Self::Supervisor { rip, reason } => write!(f, "{reason} at rip {rip:#x}"),
        }
    }
}

/// Runs guest code of one vCPU.
pub trait Engine {
    /// The architectural state.
    fn state(&self) -> CpuState;

    /// Replaces the architectural state; whatever was cached of the old one is dropped.
    fn set_state(&mut self, state: &CpuState);

    /// From now on the guest is deprivileged: see [`crate::Supervisor`].
    fn deprivilege(&mut self);

    /// Runs until something stops the vCPU, at most about `budget` guest instructions (`None`: no
    /// limit).
    fn run(&mut self, platform: &mut dyn Platform, budget: Option<u64>) -> Stop;

    /// Drops all cached translations of linear addresses.
    fn flush_translations(&mut self);

    /// Whether maskable interrupts are enabled: they end a halt.
    fn interrupts_enabled(&self) -> bool;

    /// What the engine counts of its own work beyond interceptions, with English labels.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Guest instructions completed since the engine was made.
    fn instructions(&self) -> u64;
}
