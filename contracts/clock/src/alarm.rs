//! What the timekeeper sleeps on.
//!
//! A kernel timer: setting it for an earlier time costs one short system call and wakes nobody,
//! where a condition variable would have the timekeeper wake only to go to sleep again. Guests arm
//! a timer at almost every interrupt.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::time::Duration;

/// A kernel timer on the host's monotonic clock.
#[derive(Debug)]
pub(crate) struct Alarm(OwnedFd);

impl Alarm {
    /// An alarm that is not set; `None` if the host has no descriptor for it.
    pub(crate) fn new() -> Option<Self> {
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).ok().map(Self)
    }

    /// Lets every sleeper wake after `time` (never, if `None`) instead of when it was set for
    /// before.
    pub(crate) fn set(&self, time: Option<Duration>) {
        // Zero would switch it off.
        let time = time.map_or(Duration::ZERO, |time| time.max(Duration::from_nanos(1)));
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec::try_from(time).unwrap_or(never);
        let value = Itimerspec { it_interval: never, it_value: value };
        // It fails only for values that are no times.
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &value);
    }

    /// Sleeps until the time it is set for, or a signal.
    pub(crate) fn sleep(&self) {
        // An error is a signal: the caller looks again either way.
        let _ = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None);
    }
}
