//! Where machine time comes from.

use crate::VmClock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Marks the word of a monotonic source as the time at which it stands.
const PAUSED: u64 = 1 << 63;

#[derive(Debug)]
pub(crate) enum Source {
    /// Follows the host's monotonic clock.
    Monotonic {
        /// The host's time at which machine time was zero.
        start: Instant,
        /// Running: nanoseconds spent paused. Paused: [`PAUSED`] and the machine time.
        word: AtomicU64,
    },
    /// Moved by hand.
    Manual { now: AtomicU64 },
}

impl Source {
    pub(crate) fn monotonic() -> Self {
        Self::Monotonic { start: Instant::now(), word: AtomicU64::new(0) }
    }

    pub(crate) fn manual() -> Self {
        Self::Manual { now: AtomicU64::new(0) }
    }

    #[inline]
    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::Monotonic { start, word } => {
                let mut before = word.load(Ordering::Acquire);
                loop {
                    if before & PAUSED != 0 {
                        return before & !PAUSED;
                    }
                    let now = elapsed(start).saturating_sub(before);
                    // A pause that began and ended meanwhile makes this reading run ahead.
                    let after = word.load(Ordering::Acquire);
                    if after == before {
                        return now;
                    }
                    before = after;
                }
            }
            Self::Manual { now } => now.load(Ordering::Acquire),
        }
    }

    /// Whether machine time advances by itself.
    pub(crate) fn runs(&self) -> bool {
        match self {
            Self::Monotonic { word, .. } => word.load(Ordering::Acquire) & PAUSED == 0,
            Self::Manual { .. } => false,
        }
    }

    pub(crate) fn pause(&self) {
        if let Self::Monotonic { start, word } = self {
            let stop = |word: u64| {
                (word & PAUSED == 0).then(|| elapsed(start).saturating_sub(word) | PAUSED)
            };
            // An error says that it stands already.
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, stop);
        }
    }

    pub(crate) fn resume(&self) {
        if let Self::Monotonic { start, word } = self {
            let go = |word: u64| {
                (word & PAUSED != 0).then(|| elapsed(start).saturating_sub(word & !PAUSED))
            };
            // An error says that it runs already.
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, go);
        }
    }
}

/// Nanoseconds since `start`, below [`PAUSED`]: 292 years.
fn elapsed(start: &Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX) & !PAUSED
}

/// Moves a manual [`VmClock`].
#[derive(Debug, Clone)]
pub struct ManualTime {
    clock: Arc<VmClock>,
}

impl ManualTime {
    pub(crate) fn new(clock: Arc<VmClock>) -> Self {
        Self { clock }
    }

    /// Moves the clock `nanoseconds` ahead. Timers that became due wait for
    /// [`VmClock::fire_due`].
    pub fn advance(&self, nanoseconds: u64) {
        if let Source::Manual { now } = &self.clock.source {
            let ahead = |now: u64| Some(now.saturating_add(nanoseconds));
            let _ = now.fetch_update(Ordering::AcqRel, Ordering::Acquire, ahead);
        }
        self.clock.wake();
    }

    /// Moves the clock ahead `nanoseconds`, stopping at every deadline on the way to fire what is
    /// due. At most `limit` stops are made, then the clock jumps.
    pub fn run(&self, nanoseconds: u64, limit: usize) {
        let end = self.clock.now().saturating_add(nanoseconds);
        for _ in 0..limit {
            match self.clock.next_deadline() {
                Some(deadline) if deadline <= end => {
                    self.advance(deadline.saturating_sub(self.clock.now()));
                    self.clock.fire_due();
                }
                _ => break,
            }
        }
        self.advance(end.saturating_sub(self.clock.now()));
    }
}
