//! Timers and the queue of their deadlines.

use crate::VmClock;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What a timer calls at its deadline.
pub trait TimerTarget: Send + Sync {
    /// The timer's deadline is at or before `now`, in nanoseconds of machine time. The timer is
    /// no longer armed.
    ///
    /// A call may come although the timer was cancelled or armed anew at the same moment: the
    /// target compares `now` with what it waits for.
    fn expired(&self, now: u64);
}

/// A device whose timers are served under its own lock: `Mutex<impl Expire>` is a
/// [`TimerTarget`].
pub trait Expire: Send {
    /// As [`TimerTarget::expired`].
    fn expire(&mut self, now: u64);
}

impl<T: Expire + ?Sized> TimerTarget for Mutex<T> {
    fn expired(&self, now: u64) {
        self.lock().unwrap_or_else(PoisonError::into_inner).expire(now);
    }
}

/// A timer of a [`VmClock`]; dropping it cancels it.
pub struct Timer {
    clock: Arc<VmClock>,
    id: u64,
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Timer {
    pub(crate) fn new(clock: Arc<VmClock>, id: u64) -> Self {
        Self { clock, id }
    }

    /// Fires at `deadline` (nanoseconds of machine time) instead of whenever it was armed for
    /// before. A deadline in the past fires at the next [`VmClock::fire_due`].
    pub fn arm(&self, deadline: u64) {
        self.clock.arm(self.id, deadline);
    }

    /// As [`Timer::arm`], for what may wait for `deadline` only while every vCPU is busy: it fires
    /// as soon as one has nothing to do. Returns `false`, and does not arm, if one has nothing to do
    /// already.
    pub fn arm_while_busy(&self, deadline: u64) -> bool {
        self.clock.arm_while_busy(self.id, deadline)
    }

    /// Fires no more until it is armed again.
    pub fn cancel(&self) {
        self.clock.lock().cancel(self.id);
    }

    /// The deadline it is armed for.
    pub fn deadline(&self) -> Option<u64> {
        self.clock.lock().slots.get(&self.id).and_then(|slot| slot.deadline)
    }

    /// The clock it belongs to.
    pub fn clock(&self) -> &Arc<VmClock> {
        &self.clock
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut queue = self.clock.lock();
        queue.cancel(self.id);
        queue.slots.remove(&self.id);
    }
}

struct Slot {
    label: String,
    target: Weak<dyn TimerTarget>,
    deadline: Option<u64>,
}

/// All timers of a clock, ordered by deadline.
#[derive(Default)]
pub(crate) struct Queue {
    slots: BTreeMap<u64, Slot>,
    deadlines: BTreeSet<(u64, u64)>,
    /// Armed timers that fire when a vCPU has nothing to do.
    while_busy: BTreeSet<u64>,
    /// vCPUs that have nothing to do.
    idle: usize,
    next_id: u64,
    sleepers: usize,
    /// The earliest time at which a sleeper wakes by itself; meaningful while there are sleepers.
    wakes_at: u64,
}

impl Queue {
    pub(crate) fn add(&mut self, label: String, target: Weak<dyn TimerTarget>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.slots.insert(id, Slot { label, target, deadline: None });
        id
    }

    pub(crate) fn arm(&mut self, id: u64, deadline: u64) {
        self.cancel(id);
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.deadline = Some(deadline);
            self.deadlines.insert((deadline, id));
        }
    }

    /// Arms a timer that fires when a vCPU has nothing to do; `false` if one has nothing to do.
    pub(crate) fn arm_while_busy(&mut self, id: u64, deadline: u64) -> bool {
        self.cancel(id);
        if self.idle > 0 {
            return false;
        }
        self.arm(id, deadline);
        self.while_busy.insert(id);
        true
    }

    /// A vCPU has nothing to do. Disarms the timers that waited for that and returns their targets.
    pub(crate) fn idle_begins(&mut self) -> Vec<Weak<dyn TimerTarget>> {
        self.idle += 1;
        let waiting = std::mem::take(&mut self.while_busy);
        let targets = waiting.into_iter().filter_map(|id| {
            self.cancel(id);
            self.slots.get(&id).map(|slot| slot.target.clone())
        });
        targets.collect()
    }

    pub(crate) fn idle_ends(&mut self) {
        self.idle = self.idle.saturating_sub(1);
    }

    /// Whether there are sleepers who would sleep past `deadline`. The caller sees to it that they
    /// do not, so the question is answered with yes only once.
    pub(crate) fn must_wake_at(&mut self, deadline: u64) -> bool {
        let late = self.sleepers > 0 && deadline < self.wakes_at;
        if late {
            self.wakes_at = deadline;
        }
        late
    }

    pub(crate) fn has_sleepers(&self) -> bool {
        self.sleepers > 0
    }

    pub(crate) fn cancel(&mut self, id: u64) {
        let armed = self.slots.get_mut(&id).and_then(|slot| slot.deadline.take());
        if let Some(deadline) = armed {
            self.deadlines.remove(&(deadline, id));
            self.while_busy.remove(&id);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Disarms every timer due at `now` and returns their targets, earliest first.
    pub(crate) fn take_due(&mut self, now: u64) -> Vec<Weak<dyn TimerTarget>> {
        let mut due = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            self.while_busy.remove(&id);
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.deadline = None;
                due.push(slot.target.clone());
            }
        }
        due
    }

    pub(crate) fn armed(&self) -> Vec<(String, u64)> {
        let slots = self.deadlines.iter().filter_map(|&(deadline, id)| {
            self.slots.get(&id).map(|slot| (slot.label.clone(), deadline))
        });
        slots.collect()
    }

    /// A thread goes to sleep until `awaited` (`None`: until woken).
    pub(crate) fn sleep_begins(&mut self, awaited: Option<u64>) {
        let awaited = awaited.unwrap_or(u64::MAX);
        // The latest sleeper decides: waking one too often is harmless.
        self.wakes_at = if self.sleepers == 0 { awaited } else { self.wakes_at.max(awaited) };
        self.sleepers += 1;
    }

    pub(crate) fn sleep_ends(&mut self) {
        self.sleepers -= 1;
    }
}
