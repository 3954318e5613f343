//! How long the host let a vCPU's thread wait for a processor.

use crate::tsc;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Looks in a second, at most.
const LOOKS: u64 = 1000;

/// Reads the scheduler's account of the thread that made it.
#[derive(Debug)]
pub(crate) struct StolenTime {
    /// Missing where the host keeps no such account.
    account: Option<File>,
    /// Nanoseconds at the last look.
    seen: u64,
    /// The host's time-stamp counter then.
    looked: u64,
}

impl StolenTime {
    /// An account of the calling thread, from now on.
    pub(crate) fn of_this_thread() -> Self {
        let account = File::open("/proc/thread-self/schedstat").ok();
        let mut stolen = Self { account, seen: 0, looked: tsc::host_tsc() };
        stolen.seen = stolen.read().unwrap_or(0);
        stolen
    }

    /// The second number of the account: nanoseconds spent on a run queue.
    fn read(&self) -> Option<u64> {
        let mut text = [0; 96];
        let length = self.account.as_ref()?.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..length]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
    }

    /// Nanoseconds stolen since the last look; `None` if that was just now.
    pub(crate) fn look(&mut self) -> Option<u64> {
        let now = tsc::host_tsc();
        if now.wrapping_sub(self.looked) < tsc::frequency() / LOOKS {
            return None;
        }
        self.looked = now;
        let seen = self.read()?;
        let stolen = seen.saturating_sub(self.seen);
        self.seen = seen;
        Some(stolen)
    }
}
