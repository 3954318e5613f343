//! Counting and timing.

use crate::class::{Intercept, ROWS};
use std::sync::atomic::{AtomicU64, Ordering};

/// One vCPU's counts of interceptions and the host time they took.
#[derive(Debug)]
pub struct Ledger {
    rows: Box<[Row]>,
}

#[derive(Debug, Default)]
struct Row {
    count: AtomicU64,
    ticks: AtomicU64,
}

/// A started measurement; give it back to [`Ledger::finish`].
#[derive(Debug)]
#[must_use = "an interception that is started must be finished to be counted"]
pub struct Ticket {
    intercept: Intercept,
    start: u64,
    /// How many events its time counts for.
    weight: u64,
}

/// One line of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// What was counted.
    pub intercept: Intercept,
    /// How often it happened.
    pub count: u64,
    /// How long the monitor worked on it altogether, in ticks of the host's time-stamp counter;
    /// zero where this kind is only counted, and an estimate where it is started by [`Ledger::start_often`].
    pub ticks: u64,
}

/// Of events that happen often so many are all timed, and then one in so many: to read the clock twice takes as long as
/// the shortest of them.
const ALWAYS: u64 = 64;
const ONE_IN: u64 = 16;

/// The host's time-stamp counter.
#[inline]
fn ticks() -> u64 {
    #[expect(unsafe_code, reason = "an intrinsic without preconditions on x86-64")]
    // SAFETY: RDTSC exists on every x86-64 CPU and has no effect on memory.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self { rows: (0..ROWS).map(|_| Row::default()).collect() }
    }
}

impl Ledger {
    /// Counts one event that takes no time worth measuring.
    #[inline]
    pub fn count(&self, intercept: Intercept) {
        add(&self.rows[intercept.row()].count, 1);
    }

    /// Counts `events` events at once.
    pub fn count_many(&self, intercept: Intercept, events: u64) {
        add(&self.rows[intercept.row()].count, events);
    }

    /// Starts to time one event.
    #[inline]
    pub fn start(&self, intercept: Intercept) -> Ticket {
        Ticket { intercept, start: ticks(), weight: 1 }
    }

    /// Starts to time one event of a kind that may happen often: of many not all are timed.
    #[inline]
    pub fn start_often(&self, intercept: Intercept) -> Ticket {
        let before = self.rows[intercept.row()].count.load(Ordering::Relaxed);
        let weight = match before {
            ..ALWAYS => 1,
            _ if before.is_multiple_of(ONE_IN) => ONE_IN,
            _ => return Ticket { intercept, start: 0, weight: 0 },
        };
        Ticket { intercept, start: ticks(), weight }
    }

    /// Ends and counts a timed event.
    #[inline]
    pub fn finish(&self, ticket: Ticket) {
        let row = &self.rows[ticket.intercept.row()];
        add(&row.count, 1);
        if ticket.weight != 0 {
            add(&row.ticks, ticks().wrapping_sub(ticket.start).wrapping_mul(ticket.weight));
        }
    }

    /// Ends and counts a timed event of which only now is known what it was.
    #[inline]
    pub fn finish_as(&self, ticket: Ticket, intercept: Intercept) {
        self.finish(Ticket { intercept, ..ticket });
    }

    /// Every kind that happened at least once.
    pub fn counts(&self) -> Vec<Count> {
        let counts = self.rows.iter().enumerate().map(|(index, row)| Count {
            intercept: Intercept::from_row(index),
            count: row.count.load(Ordering::Relaxed),
            ticks: row.ticks.load(Ordering::Relaxed),
        });
        counts.filter(|line| line.count > 0).collect()
    }
}

/// Adds without a locked instruction: a ledger has one writer.
#[inline]
fn add(cell: &AtomicU64, value: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_times() {
        let ledger = Ledger::default();
        ledger.count(Intercept::TlbFill);
        ledger.count_many(Intercept::TlbFill, 4);
        let ticket = ledger.start(Intercept::Hypercall(3));
        ledger.finish(ticket);
        let counts = ledger.counts();
        assert_eq!(counts.len(), 2);
        assert_eq!(counts[0].intercept, Intercept::Hypercall(3));
        assert_eq!((counts[1].count, counts[1].ticks), (5, 0));
    }

    #[test]
    fn of_frequent_events_some_are_timed_for_all() {
        let ledger = Ledger::default();
        let weights: Vec<u64> = (0..ALWAYS + 4 * ONE_IN)
            .map(|_| {
                let ticket = ledger.start_often(Intercept::Hypercall(3));
                let weight = ticket.weight;
                ledger.finish(ticket);
                weight
            })
            .collect();
        assert!(weights[..ALWAYS as usize].iter().all(|&weight| weight == 1));
        assert_eq!(weights.iter().sum::<u64>(), weights.len() as u64);
        assert_eq!(weights.iter().filter(|&&weight| weight == ONE_IN).count(), 4);
        assert_eq!(ledger.counts()[0].count, weights.len() as u64);
    }
}
