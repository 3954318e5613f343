//! The local APIC's timer.

use super::spec::TimerMode;
use ambos_clock::{NANOSECONDS, Timer};
use std::sync::Arc;

/// Frequency of the timer's input before division: one tick is a nanosecond.
pub const TIMER_HZ: u64 = NANOSECONDS;

/// The shortest period of the periodic mode, in nanoseconds.
pub const SHORTEST_PERIOD: u64 = 50_000;

/// A vCPU's time-stamp counter as its guest reads it. Called with the local APIC locked: an
/// implementation takes no lock that is held while the APIC is used.
pub trait TimeStampCounter: Send + Sync {
    /// The counter's value now.
    fn now(&self) -> u64;

    /// Its frequency in hertz; zero is taken as one.
    fn hz(&self) -> u64;
}

pub(super) struct ApicTimer {
    // Dependencies.
    timer: Timer,
    tsc: Arc<dyn TimeStampCounter>,

    // Volatile state.
    divide: u32,
    initial: u32,
    /// Machine time at which the count was [`ApicTimer::initial`].
    started: u64,
    /// Machine time of the next expiry of the count.
    deadline: Option<u64>,
    /// IA32_TSC_DEADLINE; zero if it is not armed.
    tsc_deadline: u64,
}

impl ApicTimer {
    pub(super) fn new(timer: Timer, tsc: Arc<dyn TimeStampCounter>) -> Self {
        Self { timer, tsc, divide: 0, initial: 0, started: 0, deadline: None, tsc_deadline: 0 }
    }

    fn now(&self) -> u64 {
        self.timer.clock().now()
    }

    /// Returns to the state after reset.
    pub(super) fn reset(&mut self) {
        self.stop();
        self.divide = 0;
    }

    /// Stops the count and forgets the TSC deadline.
    pub(super) fn stop(&mut self) {
        self.timer.cancel();
        self.initial = 0;
        self.deadline = None;
        self.tsc_deadline = 0;
    }

    /// Nanoseconds per count.
    fn divisor(&self) -> u64 {
        let field = self.divide & 3 | self.divide >> 1 & 4;
        1 << (field.wrapping_add(1) & 7)
    }

    fn period(&self) -> u64 {
        u64::from(self.initial) * self.divisor()
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) fn set_divide(&mut self, value: u32) {
        let now = self.now();
        let counted = u64::from(self.initial) - u64::from(self.count_at(now));
        self.divide = value & 0xb;
        if self.deadline.is_some() {
            self.started = now.saturating_sub(counted * self.divisor());
            let deadline = self.started.saturating_add(self.period());
            self.deadline = Some(deadline);
            self.timer.arm(deadline);
        }
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    /// Starts the count, or stops it with zero.
    pub(super) fn set_initial(&mut self, value: u32) {
        self.stop();
        if value != 0 {
            self.initial = value;
            self.started = self.now();
            let deadline = self.started.saturating_add(self.period());
            self.deadline = Some(deadline);
            self.timer.arm(deadline);
        }
    }

    /// The current count.
    pub(super) fn count(&self) -> u32 {
        self.count_at(self.now())
    }

    fn count_at(&self, now: u64) -> u32 {
        match self.deadline {
            // The deadline of a periodic count moves on, so this holds in both modes.
            Some(deadline) => {
                let left = deadline.saturating_sub(now).div_ceil(self.divisor());
                u32::try_from(left).unwrap_or(u32::MAX).min(self.initial)
            }
            None => 0,
        }
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Arms the TSC deadline, or disarms it with zero. Returns whether it has passed already and
    /// the interrupt is due.
    #[must_use]
    pub(super) fn set_tsc_deadline(&mut self, value: u64) -> bool {
        self.tsc_deadline = value;
        if value == 0 {
            self.timer.cancel();
            return false;
        }
        self.check_tsc_deadline()
    }

    /// Whether the TSC deadline has passed; if not, the timer is armed for what remains.
    #[must_use]
    pub(super) fn check_tsc_deadline(&mut self) -> bool {
        if self.tsc_deadline == 0 {
            return false;
        }
        let remaining = self.tsc_deadline.saturating_sub(self.tsc.now());
        if remaining == 0 {
            self.tsc_deadline = 0;
            self.timer.cancel();
            return true;
        }
        let ns = u128::from(remaining) * u128::from(NANOSECONDS);
        let ns = ns.div_ceil(u128::from(self.tsc.hz().max(1)));
        let ns = u64::try_from(ns).unwrap_or(u64::MAX);
        self.timer.arm(self.now().saturating_add(ns));
        false
    }

    /// The timer's deadline may have passed: returns whether an interrupt is due.
    #[must_use]
    pub(super) fn expire(&mut self, now: u64, mode: TimerMode) -> bool {
        if mode == TimerMode::TscDeadline {
            return self.check_tsc_deadline();
        }
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else {
            return false;
        };
        self.deadline = None;
        let period = self.period();
        if mode == TimerMode::Periodic && period != 0 {
            // Periods that were missed are coalesced; the next one is in phase.
            let missed = (now - deadline) / period;
            let next = deadline.saturating_add((missed + 1).saturating_mul(period));
            self.deadline = Some(next);
            self.timer.arm(next.max(now.saturating_add(SHORTEST_PERIOD)));
        }
        true
    }
}
