//! When a driver is told of completed requests: interrupts that may wait are held back.
//!
//! What is held back is looked at again whenever the queue is served and when its time has come. A driver
//! that looked at the queue by itself meanwhile says so in its event index, and is not interrupted any more.

use crate::device::Patience;
use crate::queue::Untold;
use ambos_clock::Timer;

/// An interrupt that waits.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// How many requests had been completed when the driver was told of it last.
    since: u16,
    /// When it is told at the latest.
    due: u64,
}

/// The interrupts of one queue.
#[derive(Debug)]
pub(super) struct Moderator {
    // Dependencies.
    /// Has the queue served when what is held back is due.
    timer: Timer,

    // Volatile state.
    held: Option<Held>,
    /// No interrupt that waits for busy vCPUs comes before.
    earliest: u64,
}

impl Moderator {
    /// Nothing is held back yet.
    pub(super) fn new(timer: Timer) -> Self {
        Self { timer, held: None, earliest: 0 }
    }

    /// How many requests had been completed when the driver was told of it last, if there is something that
    /// it was not told of.
    pub(super) fn since(&self) -> Option<u16> {
        self.held.map(|held| held.since)
    }

    /// The driver need not be told of anything any more.
    pub(super) fn forget(&mut self) {
        if self.held.take().is_some() {
            self.timer.cancel();
        }
    }

    /// Whether the driver is to be interrupted now. `untold` is what it does not know and wants to know.
    pub(super) fn is_due(&mut self, untold: Option<Untold>, patience: Patience) -> bool {
        let Some(Untold { since, count, size }) = untold else {
            self.forget();
            return false;
        };
        let now = self.timer.clock().now();
        let due = match patience {
            Patience::None => now,
            Patience::Apart(_) => self.earliest,
            Patience::Delay { requests, .. } if count >= requests.min(size / 4) => now,
            Patience::Delay { nanoseconds, .. } => {
                self.held.map_or_else(|| now.saturating_add(nanoseconds), |held| held.due)
            }
        };
        if now < due && self.wait(due, patience) {
            self.held = Some(Held { since, due });
            return false;
        }
        self.forget();
        if let Patience::Apart(nanoseconds) = patience {
            self.earliest = now.saturating_add(nanoseconds);
        }
        true
    }

    /// Sees to it that the queue is served again; `false` if there is nothing to wait for.
    fn wait(&self, due: u64, patience: Patience) -> bool {
        if self.timer.deadline() == Some(due) {
            return true;
        }
        if let Patience::Apart(_) = patience {
            return self.timer.arm_while_busy(due);
        }
        self.timer.arm(due);
        true
    }
}
