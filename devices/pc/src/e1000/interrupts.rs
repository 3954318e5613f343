//! Causes of interrupts, and how interrupts are held back to be fewer (manual, section 13.4.17 to
//! 13.4.21, 13.4.30, 13.4.44).

use super::spec::cause;
use ambos_clock::Timer;

/// Nanoseconds of a unit of the throttle (ITR).
const THROTTLE_UNIT: u64 = 256;
/// Nanoseconds of a unit of the delays (RDTR, RADV, TIDV, TADV).
const DELAY_UNIT: u64 = 1024;

/// A cause that waits for more of its kind.
#[derive(Debug, Clone, Copy)]
struct Delayed {
    /// When it becomes a cause.
    due: u64,
    /// When it does at the latest, whatever comes.
    latest: u64,
}

/// Kinds of causes that can be delayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Receive,
    Transmit,
}

impl Kind {
    fn cause(self) -> u32 {
        match self {
            Self::Receive => cause::RXT0,
            Self::Transmit => cause::TXDW,
        }
    }
}

/// The causes, and what holds them back.
#[derive(Debug)]
pub(super) struct Interrupts {
    // Dependencies.
    timer: Timer,

    // Volatile state.
    causes: u32,
    mask: u32,
    throttle: u16,
    asserted: bool,
    /// No interrupt begins before.
    earliest: u64,
    delayed: [Option<Delayed>; 2],
    /// What the timer is armed for.
    armed: Option<u64>,
}

impl Interrupts {
    pub(super) fn new(timer: Timer) -> Self {
        Self {
            timer,
            causes: 0,
            mask: 0,
            throttle: 0,
            asserted: false,
            earliest: 0,
            delayed: [None; 2],
            armed: None,
        }
    }

    /// As after power-on.
    pub(super) fn reset(&mut self) {
        self.timer.cancel();
        (self.causes, self.mask, self.throttle) = (0, 0, 0);
        (self.asserted, self.earliest, self.armed) = (false, 0, None);
        self.delayed = [None; 2];
    }

    fn now(&self) -> u64 {
        self.timer.clock().now()
    }

    /// Whether the interrupt pin is driven.
    pub(super) fn is_asserted(&self) -> bool {
        self.asserted
    }

    pub(super) fn mask(&self) -> u32 {
        self.mask
    }

    pub(super) fn throttle(&self) -> u32 {
        self.throttle.into()
    }

    pub(super) fn set_throttle(&mut self, value: u32) {
        self.throttle = value as u16;
        // A shorter interval counts at once.
        let interval = u64::from(self.throttle) * THROTTLE_UNIT;
        self.earliest = self.earliest.min(self.now().saturating_add(interval));
        self.update();
    }

    /// Adds `causes`.
    pub(super) fn raise(&mut self, causes: u32) {
        self.causes |= causes & cause::ALL;
        self.update();
    }

    /// Adds the cause of `kind` after `delay`, which begins again with each that comes, but no later
    /// than `limit` (if there is one) after the first.
    pub(super) fn raise_later(&mut self, kind: Kind, delay: u32, limit: u32) {
        if delay == 0 || self.causes & kind.cause() != 0 {
            return self.raise(kind.cause());
        }
        let now = self.now();
        let after = |units: u32| now.saturating_add(u64::from(units) * DELAY_UNIT);
        let slot = &mut self.delayed[kind as usize];
        let latest = match slot {
            Some(delayed) => delayed.latest,
            None if limit == 0 => u64::MAX,
            None => after(limit),
        };
        *slot = Some(Delayed { due: after(delay).min(latest), latest });
        self.update();
    }

    /// Enables causes.
    pub(super) fn enable(&mut self, causes: u32) {
        self.mask |= causes & cause::ALL;
        self.update();
    }

    /// Disables causes.
    pub(super) fn disable(&mut self, causes: u32) {
        self.mask &= !causes;
        self.update();
    }

    /// Reads the causes, which clears them.
    pub(super) fn take(&mut self) -> u32 {
        // Whoever looks finds what was only held back, too.
        for kind in [Kind::Receive, Kind::Transmit] {
            if self.delayed[kind as usize].take().is_some() {
                self.causes |= kind.cause();
            }
        }
        let causes = std::mem::take(&mut self.causes);
        self.update();
        causes
    }

    /// The timer fired.
    pub(super) fn expire(&mut self) {
        self.armed = None;
        self.update();
    }

    /// Drives the pin and the timer after the causes.
    fn update(&mut self) {
        let unmasked = self.causes & self.mask != 0;
        if !unmasked {
            self.asserted = false;
        }
        // Nothing that waits matters while an interrupt is asserted or none is wanted.
        let waiting = self.delayed.iter().any(Option::is_some);
        if self.asserted || (!unmasked && !waiting) {
            return;
        }
        let now = self.now();
        for kind in [Kind::Receive, Kind::Transmit] {
            let slot = &mut self.delayed[kind as usize];
            if slot.is_some_and(|delayed| delayed.due <= now) {
                *slot = None;
                self.causes |= kind.cause();
            }
        }
        let mut wake = None;
        if self.causes & self.mask != 0 {
            if now >= self.earliest {
                self.asserted = true;
                self.earliest = now.saturating_add(u64::from(self.throttle) * THROTTLE_UNIT);
                return;
            }
            wake = Some(self.earliest);
        } else {
            let wanted = |kind: Kind| self.mask & kind.cause() != 0;
            for kind in [Kind::Receive, Kind::Transmit].into_iter().filter(|kind| wanted(*kind)) {
                // One that would be held back anyway need not be looked at before.
                let due = self.delayed[kind as usize].map(|one| one.due.max(self.earliest));
                wake = match (wake, due) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
        }
        // A timer that fires too early is armed anew then: cheaper than to move it each time.
        if let Some(wake) = wake
            && self.armed.is_none_or(|armed| armed > wake)
        {
            self.armed = Some(wake);
            self.timer.arm(wake);
        }
    }
}
