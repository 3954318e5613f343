//! The virtual machine's clock and its labelled timers.
//!
//! A machine has one [`VmClock`]. It counts nanoseconds from the machine's start, never goes
//! backwards and stands still while the machine is paused. Devices ask it for the time and arm
//! [`Timer`]s on it; none of them reads the host's clock and none of them sleeps. Tests use a
//! [`ManualTime`], which moves only when told to.
//!
//! Nothing happens by itself when a deadline passes: some thread must call [`VmClock::fire_due`].
//! The machine runs one timekeeper that loops over [`VmClock::wait_until_due`]; a halted vCPU may
//! serve timers too.
//!
//! # Locks
//!
//! The timer queue has one lock. It is a leaf: a device may arm or cancel a timer while it holds
//! its own lock, and no target is ever called with the queue locked. The price is that an expiry
//! may be under way while its timer is cancelled or armed anew, so a target checks its own state
//! when it is called and tolerates a call too many.
#![forbid(unsafe_code)]

mod alarm;
mod queue;
mod source;

pub use queue::{Expire, Timer, TimerTarget};
pub use source::ManualTime;

use alarm::Alarm;
use queue::Queue;
use source::Source;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Nanoseconds in a second.
pub const NANOSECONDS: u64 = 1_000_000_000;

/// The clock of one virtual machine.
pub struct VmClock {
    source: Source,
    queue: Mutex<Queue>,
    /// Wakes threads in [`VmClock::wait_until_due`]. A clock that does not run by itself has none,
    /// and neither has one to which the host refused it.
    alarm: Option<Alarm>,
    /// Wakes them where there is no alarm.
    changed: Condvar,
}

impl fmt::Debug for VmClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmClock").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl VmClock {
    /// A running clock that starts at zero and advances with the host's monotonic clock.
    pub fn monotonic() -> Arc<Self> {
        Arc::new(Self::new(Source::monotonic(), Alarm::new()))
    }

    /// A clock that starts at zero and moves only through the [`ManualTime`] beside it.
    pub fn manual() -> (Arc<Self>, ManualTime) {
        let clock = Arc::new(Self::new(Source::manual(), None));
        let time = ManualTime::new(Arc::clone(&clock));
        (clock, time)
    }

    fn new(source: Source, alarm: Option<Alarm>) -> Self {
        Self { source, queue: Mutex::default(), alarm, changed: Condvar::new() }
    }

    /// Nanoseconds of machine time since the machine's start.
    #[inline]
    pub fn now(&self) -> u64 {
        self.source.now()
    }

    /// Stops the clock; without effect if it stands already.
    pub fn pause(&self) {
        self.source.pause();
        self.wake();
    }

    /// Lets the clock go on from where it was stopped; without effect if it runs.
    pub fn resume(&self) {
        self.source.resume();
        self.wake();
    }

    /// Makes a timer that is not armed. `label` names it in dumps; `target` is called at its
    /// deadline for as long as it lives.
    pub fn timer(
        self: &Arc<Self>,
        label: impl Into<String>,
        target: Weak<dyn TimerTarget>,
    ) -> Timer {
        let id = self.lock().add(label.into(), target);
        Timer::new(Arc::clone(self), id)
    }

    /// The earliest deadline of all armed timers, in nanoseconds of machine time.
    pub fn next_deadline(&self) -> Option<u64> {
        self.lock().next_deadline()
    }

    /// How long until the earliest deadline: zero if it has passed, `None` if no timer is armed or
    /// the clock does not run by itself.
    pub fn time_to_next(&self) -> Option<Duration> {
        let deadline = self.next_deadline()?;
        self.source.runs().then(|| Duration::from_nanos(deadline.saturating_sub(self.now())))
    }

    /// Calls the targets of all timers whose deadlines have passed and returns how many there
    /// were. Each timer fires at most once per call, whatever its target arms.
    ///
    /// The caller must hold no lock that a target may take.
    pub fn fire_due(&self) -> usize {
        let now = self.now();
        let due = self.lock().take_due(now);
        call(&due, now);
        due.len()
    }

    /// A vCPU has nothing to do until [`VmClock::idle_ends`]: what waited only because all of them
    /// were busy ([`Timer::arm_while_busy`]) happens now.
    ///
    /// The caller must hold no lock that a target may take.
    pub fn idle_begins(&self) {
        let waiting = self.lock().idle_begins();
        if !waiting.is_empty() {
            call(&waiting, self.now());
        }
    }

    /// A vCPU that had nothing to do is busy again.
    pub fn idle_ends(&self) {
        self.lock().idle_ends();
    }

    /// Sleeps until a deadline has passed (`true`) or `stop` is set (`false`). Arming an earlier
    /// deadline shortens the sleep. Whoever sets `stop` calls [`VmClock::wake`] afterwards.
    pub fn wait_until_due(&self, stop: &AtomicBool) -> bool {
        let mut queue = self.lock();
        loop {
            if stop.load(Ordering::SeqCst) {
                return false;
            }
            let now = self.now();
            let deadline = queue.next_deadline();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return true;
            }
            let awaited = deadline.filter(|_| self.source.runs());
            queue.sleep_begins(awaited);
            let time = awaited.map(|at| Duration::from_nanos(at.saturating_sub(now)));
            queue = match (&self.alarm, time) {
                (Some(alarm), time) => {
                    // Set under the lock: whoever arms an earlier deadline sets it after us.
                    alarm.set(time);
                    drop(queue);
                    alarm.sleep();
                    self.lock()
                }
                (None, Some(time)) => {
                    let woken = self.changed.wait_timeout(queue, time);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                (None, None) => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
            queue.sleep_ends();
        }
    }

    /// Makes every thread in [`VmClock::wait_until_due`] look again.
    pub fn wake(&self) {
        // Holding the lock orders what the caller changed against a sleeper's last look.
        let queue = self.lock();
        if let Some(alarm) = self.alarm.as_ref().filter(|_| queue.has_sleepers()) {
            alarm.set(Some(Duration::ZERO));
        }
        drop(queue);
        self.changed.notify_all();
    }

    /// The labels and deadlines of all armed timers, earliest first.
    pub fn armed(&self) -> Vec<(String, u64)> {
        self.lock().armed()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arm(&self, id: u64, deadline: u64) {
        let mut queue = self.lock();
        queue.arm(id, deadline);
        self.wake_for(queue, deadline);
    }

    fn arm_while_busy(&self, id: u64, deadline: u64) -> bool {
        let mut queue = self.lock();
        let armed = queue.arm_while_busy(id, deadline);
        if armed {
            self.wake_for(queue, deadline);
        }
        armed
    }

    /// Sees to it that sleepers wake for a timer that was armed.
    fn wake_for(&self, mut queue: MutexGuard<'_, Queue>, deadline: u64) {
        if !queue.must_wake_at(deadline) {
            return;
        }
        match &self.alarm {
            Some(alarm) if self.source.runs() => {
                alarm.set(Some(Duration::from_nanos(deadline.saturating_sub(self.now()))));
            }
            // A clock that stands wakes nobody; it wakes everybody when it goes on.
            Some(_) => {}
            None => self.changed.notify_all(),
        }
    }
}

/// Calls the targets of timers that are not armed any more.
fn call(targets: &[Weak<dyn TimerTarget>], now: u64) {
    for target in targets.iter().filter_map(Weak::upgrade) {
        target.expired(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts its expiries and arms its timer again `again` nanoseconds later.
    struct Counter {
        timer: Timer,
        expiries: Vec<u64>,
        again: Option<u64>,
    }

    impl Expire for Counter {
        fn expire(&mut self, now: u64) {
            self.expiries.push(now);
            if let Some(again) = self.again {
                self.timer.arm(now + again);
            }
        }
    }

    fn counter(clock: &Arc<VmClock>, again: Option<u64>) -> Arc<Mutex<Counter>> {
        Arc::new_cyclic(|weak: &Weak<Mutex<Counter>>| {
            let timer = clock.timer("counter", weak.clone() as Weak<dyn TimerTarget>);
            Mutex::new(Counter { timer, expiries: Vec::new(), again })
        })
    }

    #[test]
    fn timers_fire_at_their_deadline_and_once() {
        let (clock, time) = VmClock::manual();
        let device = counter(&clock, None);
        device.lock().unwrap().timer.arm(100);
        assert_eq!(clock.next_deadline(), Some(100));
        time.advance(99);
        assert_eq!(clock.fire_due(), 0);
        time.advance(1);
        assert_eq!(clock.fire_due(), 1);
        assert_eq!(clock.fire_due(), 0);
        assert_eq!(device.lock().unwrap().expiries, [100]);
        assert_eq!(clock.next_deadline(), None);
    }

    #[test]
    fn what_waits_for_busy_vcpus_happens_when_one_is_idle() {
        let (clock, time) = VmClock::manual();
        let device = counter(&clock, None);
        let arm = |deadline| device.lock().unwrap().timer.arm_while_busy(deadline);
        let expiries = || device.lock().unwrap().expiries.clone();
        assert!(arm(100));
        time.advance(10);
        clock.idle_begins();
        assert_eq!(expiries(), [10]);
        assert_eq!(clock.next_deadline(), None);
        assert!(!arm(100));
        assert_eq!(clock.next_deadline(), None);
        clock.idle_begins();
        clock.idle_ends();
        assert!(!arm(100));
        clock.idle_ends();
        // Nobody is idle: the deadline counts, and once.
        assert!(arm(20));
        time.advance(10);
        assert_eq!(clock.fire_due(), 1);
        clock.idle_begins();
        assert_eq!(expiries(), [10, 20]);
        clock.idle_ends();
        // Armed as any timer, it does not care, nor when it is cancelled.
        device.lock().unwrap().timer.arm(100);
        clock.idle_begins();
        clock.idle_ends();
        assert!(arm(200));
        device.lock().unwrap().timer.cancel();
        clock.idle_begins();
        assert_eq!(expiries(), [10, 20]);
    }

    #[test]
    fn rearming_moves_the_deadline_and_cancelling_removes_it() {
        let (clock, time) = VmClock::manual();
        let device = counter(&clock, None);
        device.lock().unwrap().timer.arm(10);
        device.lock().unwrap().timer.arm(30);
        time.advance(20);
        assert_eq!(clock.fire_due(), 0);
        assert_eq!(clock.armed(), [("counter".to_owned(), 30)]);
        device.lock().unwrap().timer.cancel();
        time.advance(20);
        assert_eq!(clock.fire_due(), 0);
    }

    #[test]
    fn a_target_that_arms_in_the_past_cannot_hold_the_caller() {
        let (clock, time) = VmClock::manual();
        let device = counter(&clock, Some(0));
        device.lock().unwrap().timer.arm(0);
        time.advance(5);
        assert_eq!(clock.fire_due(), 1);
        assert_eq!(clock.fire_due(), 1);
    }

    #[test]
    fn a_dead_device_leaves_no_timer() {
        let (clock, time) = VmClock::manual();
        let device = counter(&clock, None);
        device.lock().unwrap().timer.arm(10);
        drop(device);
        assert_eq!(clock.next_deadline(), None);
        time.advance(10);
        assert_eq!(clock.fire_due(), 0);
    }

    #[test]
    fn a_paused_clock_stands_still() {
        let clock = VmClock::monotonic();
        clock.pause();
        let frozen = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(clock.now(), frozen);
        assert_eq!(clock.time_to_next(), None);
        clock.resume();
        let resumed = clock.now();
        assert!(resumed >= frozen);
        while clock.now() == resumed {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn arming_an_earlier_deadline_wakes_the_sleeper() {
        let (clock, time) = VmClock::manual();
        let device = counter(&clock, None);
        device.lock().unwrap().timer.arm(u64::MAX);
        time.advance(50);
        let stop = Arc::new(AtomicBool::new(false));
        let sleeper = {
            let (clock, stop) = (Arc::clone(&clock), Arc::clone(&stop));
            std::thread::spawn(move || clock.wait_until_due(&stop))
        };
        device.lock().unwrap().timer.arm(40);
        assert!(sleeper.join().unwrap());
        device.lock().unwrap().timer.cancel();
        let sleeper = {
            let (clock, stop) = (Arc::clone(&clock), Arc::clone(&stop));
            std::thread::spawn(move || clock.wait_until_due(&stop))
        };
        stop.store(true, Ordering::SeqCst);
        clock.wake();
        assert!(!sleeper.join().unwrap());
    }

    #[test]
    fn a_running_clock_wakes_its_sleepers_early_and_at_stop() {
        let clock = VmClock::monotonic();
        let device = counter(&clock, None);
        let stop = Arc::new(AtomicBool::new(false));
        let sleeper = || {
            let (clock, stop) = (Arc::clone(&clock), Arc::clone(&stop));
            std::thread::spawn(move || clock.wait_until_due(&stop))
        };
        let hour = 3600 * NANOSECONDS;
        device.lock().unwrap().timer.arm(clock.now() + hour);
        let sleepers = [sleeper(), sleeper()];
        std::thread::sleep(Duration::from_millis(5));
        device.lock().unwrap().timer.arm(clock.now() + hour / 2);
        device.lock().unwrap().timer.arm(clock.now() + 1_000_000);
        assert!(sleepers.map(|sleeper| sleeper.join().unwrap()).iter().all(|due| *due));
        clock.fire_due();
        let sleepers = [sleeper(), sleeper()];
        std::thread::sleep(Duration::from_millis(5));
        stop.store(true, Ordering::SeqCst);
        clock.wake();
        assert!(sleepers.map(|sleeper| sleeper.join().unwrap()).iter().all(|due| !due));
    }

    #[test]
    fn a_paused_clock_lets_nothing_expire() {
        let clock = VmClock::monotonic();
        let device = counter(&clock, None);
        clock.pause();
        let stop = Arc::new(AtomicBool::new(false));
        let sleeper = {
            let (clock, stop) = (Arc::clone(&clock), Arc::clone(&stop));
            std::thread::spawn(move || clock.wait_until_due(&stop))
        };
        device.lock().unwrap().timer.arm(clock.now() + 1_000_000);
        std::thread::sleep(Duration::from_millis(5));
        assert!(!sleeper.is_finished());
        clock.resume();
        assert!(sleeper.join().unwrap());
    }

    #[test]
    fn a_monotonic_clock_reaches_its_deadline() {
        let clock = VmClock::monotonic();
        let device = counter(&clock, None);
        device.lock().unwrap().timer.arm(clock.now() + 1_000_000);
        assert!(clock.wait_until_due(&AtomicBool::new(false)));
        assert_eq!(clock.fire_due(), 1);
    }
}
