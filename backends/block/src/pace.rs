//! Whether a request is worth a hand-over to another thread.
//!
//! A hand-over and the way back cost some 27 µs, several times what a request takes that the host's
//! page cache serves; a request that waits for a medium would keep its guest's processor from all
//! other work. Which of both comes is known only afterwards, but the next request of the same kind
//! usually goes like the last one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A request that takes no longer than this is served in place, in nanoseconds.
const QUICK: u64 = 100_000;
/// And so much longer for each byte: what copying takes.
const PER_BYTE: u64 = 1;
/// Stands for requests of a kind that take long as far as is known.
const SLOW: u64 = u64::MAX;

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Reading.
    Read,
    /// Writing, as far as it need not reach a medium.
    Write,
    /// Everything that waits for a medium, or for the host to change what is allocated there.
    Settle,
}

/// How long the last request of each kind took, without what its bytes explain.
#[derive(Debug)]
pub struct Pace([AtomicU64; 3]);

impl Default for Pace {
    fn default() -> Self {
        Self([0, 0, SLOW].map(AtomicU64::new))
    }
}

impl Pace {
    /// Whether a request of this kind should be served in place.
    pub fn is_quick(&self, work: Work) -> bool {
        self.0[work as usize].load(Ordering::Relaxed) <= QUICK
    }

    /// Does a request of `bytes` bytes and learns from it.
    pub fn measure<T>(&self, work: Work, bytes: u64, request: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = request();
        let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(SLOW);
        let took = took.saturating_sub(bytes.saturating_mul(PER_BYTE));
        self.0[work as usize].store(took, Ordering::Relaxed);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_goes_like_the_last() {
        let pace = Pace::default();
        assert!(pace.is_quick(Work::Read) && !pace.is_quick(Work::Settle));
        pace.measure(Work::Read, 0, || std::thread::sleep(std::time::Duration::from_millis(1)));
        assert!(!pace.is_quick(Work::Read) && pace.is_quick(Work::Write));
        pace.measure(Work::Read, u64::MAX, || ());
        assert!(pace.is_quick(Work::Read));
    }
}
