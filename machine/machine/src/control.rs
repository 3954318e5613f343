//! How a machine is asked to end, and how it ended.

use ambos_pc::power::{PowerRequest, PowerSink};
use ambos_vcpu::{Attention, Request};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How a machine came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest switched it off.
    PoweredOff,
    /// The guest reset it, and was not to be booted again.
    Reset,
    /// The guest cannot go on; why.
    Crashed(String),
    /// The monitor itself is at fault; how.
    Failed(String),
    /// The guest wrote to the debug-exit port: this exit status.
    DebugExit(u32),
    /// Someone outside asked for it.
    Stopped,
}

/// The end of one run of a machine: the first reason counts, and every vCPU is told.
#[derive(Debug, Default)]
pub(crate) struct Control {
    outcome: Mutex<Option<Outcome>>,
    ending: AtomicBool,
    vcpus: Mutex<Vec<Arc<Attention>>>,
    clock: Mutex<Option<Arc<ambos_clock::VmClock>>>,
}

impl Control {
    /// Tells who must be woken when the run ends.
    pub(crate) fn watch(&self, vcpus: Vec<Arc<Attention>>, clock: Arc<ambos_clock::VmClock>) {
        *lock(&self.vcpus) = vcpus;
        *lock(&self.clock) = Some(clock);
        if self.is_ending() {
            self.wake();
        }
    }

    /// Ends the run, unless it is ending already.
    pub(crate) fn end(&self, outcome: Outcome) {
        lock(&self.outcome).get_or_insert(outcome);
        self.ending.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether the run is ending.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// The flag that [`Control::is_ending`] reads.
    pub(crate) fn ending(&self) -> &AtomicBool {
        &self.ending
    }

    /// Takes the outcome and makes ready for another run.
    pub(crate) fn take_outcome(&self) -> Outcome {
        let outcome = lock(&self.outcome).take();
        self.ending.store(false, Ordering::SeqCst);
        outcome.unwrap_or(Outcome::Stopped)
    }

    fn wake(&self) {
        for vcpu in lock(&self.vcpus).iter() {
            vcpu.raise(Request::STOP);
        }
        if let Some(clock) = lock(&self.clock).as_ref() {
            clock.wake();
        }
    }
}

impl PowerSink for Control {
    fn request(&self, request: PowerRequest) {
        self.end(match request {
            PowerRequest::PowerOff => Outcome::PoweredOff,
            PowerRequest::Reset => Outcome::Reset,
            PowerRequest::DebugExit(status) => Outcome::DebugExit(status),
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
