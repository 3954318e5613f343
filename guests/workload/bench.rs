//! How a workload is measured: warm-up, then repetitions of equal duration.

use crate::output::{self, Digits};
use crate::{mark, sys};

/// Linux's number of the clock that is never set.
pub(crate) const CLOCK_MONOTONIC: usize = 1;
/// Most repetitions whose results are kept.
const LIMIT: usize = 64;

/// Why a workload gives no result.
pub(crate) enum Failure {
    /// The guest lacks what it works on.
    Skipped(&'static str),
    /// The kernel refused something.
    System(&'static str, sys::Errno),
}

/// The kernel's refusal to do `action`.
pub(crate) fn refused(action: &'static str) -> impl FnOnce(sys::Errno) -> Failure {
    move |error| Failure::System(action, error)
}

/// Nanoseconds of the guest's monotonic clock.
#[inline(always)]
pub(crate) fn now() -> u64 {
    sys::nanoseconds(CLOCK_MONOTONIC)
}

/// One workload's measurement.
pub(crate) struct Bench<'a> {
    name: &'a str,
    repetitions: usize,
    /// How long one repetition should take, in nanoseconds.
    duration: u64,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(name: &'a str, repetitions: u32, milliseconds: u64) -> Self {
        Self {
            name,
            repetitions: (repetitions as usize).clamp(1, LIMIT),
            duration: milliseconds.saturating_mul(1_000_000),
        }
    }

    /// Measures `batch`, which does some operations and says how many. It is done again and again
    /// until a repetition is long enough. The time of operations done before, when caches and
    /// translations were cold, is not measured.
    pub(crate) fn measure(
        &mut self,
        mut batch: impl FnMut() -> Result<u64, Failure>,
    ) -> Result<(), Failure> {
        let mut results = [(0u64, 0u64); LIMIT];
        repeat(self.duration / 2, &mut batch)?;
        mark::open(self.name);
        for result in &mut results[..self.repetitions] {
            *result = repeat(self.duration, &mut batch)?;
        }
        mark::close(self.name);
        for &(operations, nanoseconds) in &results[..self.repetitions] {
            self.report(operations, nanoseconds);
        }
        Ok(())
    }

    /// Measures something that is done once and takes as long as it takes, without warm-up.
    pub(crate) fn once(
        &mut self,
        action: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        mark::open(self.name);
        let start = now();
        action()?;
        let elapsed = now().saturating_sub(start);
        mark::close(self.name);
        self.report(1, elapsed);
        Ok(())
    }

    fn report(&self, operations: u64, nanoseconds: u64) {
        let (mut a, mut b) = (Digits::default(), Digits::default());
        output::line(&["result ", self.name, " ", a.of(operations), " ", b.of(nanoseconds)]);
    }
}

/// Operations and the time they took.
fn repeat(
    duration: u64,
    batch: &mut impl FnMut() -> Result<u64, Failure>,
) -> Result<(u64, u64), Failure> {
    let start = now();
    let mut operations = 0;
    loop {
        operations += batch()?;
        let elapsed = now().saturating_sub(start);
        if elapsed >= duration {
            return Ok((operations, elapsed));
        }
    }
}
