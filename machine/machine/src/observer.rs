//! Looks at a running machine's counts, and at what it costs its host.
//!
//! A [`Moment`] is everything that is counted, at one time; two of them make a window
//! ([`WindowLine`](crate::statistics::WindowLine)), which says what happened between them.

use crate::statistics::{Line, Memory, TransferLine, WindowLine, describe, nanoseconds};
use ambos_intercept::{Ledger, Moved, Transfer};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counts by class and label: how often, and host ticks.
type Counts = BTreeMap<(&'static str, String), (u64, u64)>;

/// What a machine counts, readable from any thread while it runs.
#[derive(Debug, Clone)]
pub struct Observer {
    pub(crate) ledgers: Vec<Arc<Ledger>>,
    /// Labels of the present chipset's devices.
    pub(crate) labels: Arc<Mutex<Vec<String>>>,
    pub(crate) transfers: Vec<(String, Arc<Transfer>)>,
    pub(crate) made: Instant,
}

/// All counts at one time.
#[derive(Debug, Clone)]
pub struct Moment {
    /// Since the machine was made.
    pub elapsed: Duration,
    /// Processor time of this process.
    cpu: Duration,
    pub(crate) counts: Counts,
    moved: Vec<Moved>,
}

impl Observer {
    /// The counts now. A vCPU's may be one event old.
    pub fn now(&self) -> Moment {
        let labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = Counts::new();
        for count in self.ledgers.iter().flat_map(|ledger| ledger.counts()) {
            let sum = counts.entry(describe(count.intercept, &labels)).or_default();
            sum.0 += count.count;
            sum.1 += count.ticks;
        }
        Moment {
            elapsed: self.made.elapsed(),
            cpu: processor_time(),
            counts,
            moved: self.transfers.iter().map(|(_, transfer)| transfer.moved()).collect(),
        }
    }

    /// What happened between two moments.
    pub fn window(&self, name: &str, from: &Moment, to: &Moment) -> WindowLine {
        let counts = to.counts.iter().filter_map(|(key, &(count, ticks))| {
            let (count_before, ticks_before) = from.counts.get(key).copied().unwrap_or_default();
            let count = count.saturating_sub(count_before);
            (count > 0).then(|| (key.clone(), (count, ticks.saturating_sub(ticks_before))))
        });
        let transfers = self.transfers.iter().zip(from.moved.iter().zip(&to.moved));
        WindowLine {
            name: name.to_owned(),
            start: from.elapsed.as_secs_f64(),
            seconds: to.elapsed.saturating_sub(from.elapsed).as_secs_f64(),
            cpu_seconds: to.cpu.saturating_sub(from.cpu).as_secs_f64(),
            intercepts: lines(counts),
            transfers: transfers
                .map(|((label, _), (before, after))| TransferLine::new(label, after.since(*before)))
                .filter(|line| line.requests > 0)
                .collect(),
        }
    }
}

/// Counts as lines, most frequent first.
pub(crate) fn lines(
    counts: impl IntoIterator<Item = ((&'static str, String), (u64, u64))>,
) -> Vec<Line> {
    let mut lines: Vec<Line> = counts
        .into_iter()
        .map(|((class, label), (count, ticks))| Line {
            class,
            label,
            count,
            nanoseconds: nanoseconds(ticks),
        })
        .collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.count));
    lines
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let (seconds, nanoseconds) = (time.tv_sec, time.tv_nsec);
    Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0))
}

/// The memory of this process, as its kernel accounts for it; zeroes where it does not tell.
pub(crate) fn memory() -> Memory {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    Memory {
        guest: bytes("RssShmem"),
        monitor: bytes("RssAnon") + bytes("RssFile"),
        peak: bytes("VmHWM"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambos_intercept::{Intercept, Privileged};

    #[test]
    fn a_window_holds_what_happened_in_it() {
        let ledger = Arc::new(Ledger::default());
        let transfer = Arc::new(Transfer::default());
        let observer = Observer {
            ledgers: vec![Arc::clone(&ledger)],
            labels: Arc::default(),
            transfers: vec![("disk 0".to_owned(), Arc::clone(&transfer))],
            made: Instant::now(),
        };
        ledger.count(Intercept::TlbFill);
        transfer.to_guest(512);
        let from = observer.now();
        ledger.count_many(Intercept::TlbFill, 3);
        ledger.count(Intercept::Privileged(Privileged::Cpuid));
        transfer.from_guest(1024);
        let to = observer.now();
        let window = observer.window("x", &from, &to);
        let counts: Vec<_> =
            window.intercepts.iter().map(|line| (line.label.as_str(), line.count)).collect();
        assert_eq!(counts, [("TLB fill", 3), ("CPUID", 1)]);
        assert_eq!((window.transfers[0].to_guest, window.transfers[0].from_guest), (0, 1024));
        assert!(window.start <= window.start + window.seconds);
        assert!(observer.window("y", &to, &to).intercepts.is_empty());
    }

    #[test]
    fn this_process_has_memory() {
        let memory = memory();
        assert!(memory.monitor > 0 && memory.peak >= memory.monitor);
    }
}
