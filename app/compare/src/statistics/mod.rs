//! What samples tell: medians, how sure they are, and whether two differ.
//!
//! One sample is one boot: what repetitions within a boot have in common (where its memory lies, what
//! was translated when) makes them no independent evidence. Two sets of samples count as different
//! only if a permutation test says so *and* the interval of their ratio excludes one. The test is exact,
//! so that sets from one distribution come out as different in at most [`LEVEL`] of all cases, however
//! few samples there are; the bootstrap interval, which is too narrow for few samples, says how much
//! they differ.

mod bootstrap;
mod permutation;

pub(crate) use bootstrap::resample;
pub use bootstrap::{Interval, median, median_interval, ratio_interval};
pub use permutation::rank_test;

/// The chance of a difference being reported where there is none, and of an interval missing its truth.
pub const LEVEL: f64 = 0.05;

/// What two sets of samples tell about each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The second median divided by the first.
    pub ratio: f64,
    /// Where that ratio is, but for [`LEVEL`].
    pub interval: Interval,
    /// The chance of a difference as large as this, or larger, between samples of one distribution.
    pub p: f64,
    /// What follows.
    pub outcome: Outcome,
}

/// Whether two sets of samples differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// They do.
    Different,
    /// They may well be from one distribution.
    Alike,
    /// No outcome at all could show a difference with so few samples.
    TooFew,
}

/// Compares two sets of positive samples; `None` if either is empty or has a sample that is not positive.
pub fn compare(first: &[f64], second: &[f64]) -> Option<Comparison> {
    let usable = |samples: &[f64]| {
        !samples.is_empty() && samples.iter().all(|&sample| sample.is_finite() && sample > 0.0)
    };
    if !usable(first) || !usable(second) {
        return None;
    }
    let ratio = median(second)? / median(first)?;
    let interval = ratio_interval(first, second)?;
    let p = rank_test(first, second);
    let outcome = if permutation::smallest(first.len(), second.len()) >= LEVEL {
        Outcome::TooFew
    } else if p < LEVEL && !interval.contains(1.0) {
        Outcome::Different
    } else {
        Outcome::Alike
    };
    Some(Comparison { ratio, interval, p, outcome })
}

#[cfg(test)]
mod tests;
