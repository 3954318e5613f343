//! How long a halted vCPU looks for work before its thread sleeps.
//!
//! To wake a thread takes some tens of microseconds, which a guest that waits for an answer of the network or
//! of another vCPU would pay each time. So the vCPU looks for as long as such answers have lately taken, if that
//! is short. A guest that sleeps for longer, as one does that has nothing to do, sleeps at once.

use std::time::Duration;

/// The shortest time that is worth it.
const FIRST: Duration = Duration::from_micros(10);
/// The longest: some wake-ups. Who waits for longer does not notice another.
const MAX: Duration = Duration::from_micros(100);

/// What one vCPU learned of its waits.
#[derive(Debug, Default)]
pub(crate) struct HaltPoll {
    enabled: bool,
    time: Duration,
}

impl HaltPoll {
    /// For one of `vcpus` vCPUs. They only look for work where `processors` of the host leave one for those who
    /// bring it.
    fn new(vcpus: usize, processors: usize) -> Self {
        Self { enabled: processors > vcpus, time: Duration::ZERO }
    }

    /// For one of `vcpus` vCPUs on this host.
    pub(crate) fn on_host(vcpus: usize) -> Self {
        Self::new(vcpus, std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// How long to look for work.
    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    /// There was nothing to do for `idle`.
    pub(crate) fn learn(&mut self, idle: Duration) {
        if !self.enabled || idle > MAX {
            self.time = Duration::ZERO;
        } else if idle > self.time {
            self.time = (self.time * 2).clamp(FIRST, MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_micros(70);

    #[test]
    fn short_waits_are_waited_for_and_long_ones_are_not() {
        let mut poll = HaltPoll::new(1, 2);
        assert_eq!(poll.time(), Duration::ZERO);
        for _ in 0..10 {
            poll.learn(WAIT);
        }
        assert!((WAIT..=MAX).contains(&poll.time()));
        poll.learn(Duration::from_millis(4));
        assert_eq!(poll.time(), Duration::ZERO);
        // One short wait among long ones costs little.
        poll.learn(WAIT);
        assert_eq!(poll.time(), FIRST);
    }

    #[test]
    fn nobody_is_kept_from_the_only_processor() {
        let mut poll = HaltPoll::new(2, 2);
        poll.learn(WAIT);
        assert_eq!(poll.time(), Duration::ZERO);
    }
}
