//! What `run` needs of a machine, and where it gets one.
#![cfg_attr(not(test), expect(dead_code, reason = "only a machine constructs and uses these"))]

use super::plan::Plan;
use crate::failure::Failure;
use std::io::Write;
use std::sync::Arc;

/// How a machine came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The guest switched it off.
    PoweredOff,
    /// The guest restarted it, and [`AfterReset::End`] was the answer.
    Reset,
    /// The guest cannot go on; why.
    Crashed(String),
    /// The guest asked for this exit status.
    DebugExit(u8),
    /// [`Handle::stop`] was called.
    Stopped,
}

/// What to do when the guest restarts the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterReset {
    /// Boot it again.
    Boot,
    /// Leave with [`Outcome::Reset`].
    End,
}

/// Reaches into a running machine from other threads.
pub(super) trait Handle: Send + Sync {
    /// Types on the machine's console.
    fn send(&self, bytes: &[u8]);
    /// Asks the machine to end.
    fn stop(&self);
}

/// What was counted, for the two kinds of readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statistics {
    /// For people, with a line feed at its end.
    pub(super) table: String,
    /// For programs.
    pub(super) json: String,
}

/// A machine that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) outcome: Outcome,
    /// There if [`Plan::measure`] asks for it.
    pub(super) statistics: Option<Statistics>,
}

/// A machine that is ready to run.
pub(super) struct Started {
    pub(super) handle: Arc<dyn Handle>,
    /// Runs it to its end, on the thread that calls this.
    pub(super) run: Box<dyn FnOnce() -> Finished>,
}

/// What a machine is given by the command line, besides the plan.
pub(super) struct Surroundings {
    /// Takes what the guest prints on its console. Every write is shown at once.
    pub(super) console: Box<dyn Write + Send>,
    /// Asked whenever the guest restarts the machine.
    pub(super) after_reset: Box<dyn FnMut() -> AfterReset + Send>,
}

/// Makes a machine after the plan, with the guest loaded and ready to run.
pub(super) fn start(plan: &Plan, _surroundings: Surroundings) -> Result<Started, Failure> {
    Err(Failure::usage(format!(
        "this build has no machine that could boot {}",
        plan.kernel.display()
    )))
}
