//! Requests that the monitor could not serve.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// A request of the guest that the monitor answered only architecturally (#GP, #UD, all-ones,
/// -ENOSYS) because it does not implement it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unserved {
    /// What was asked for, for example `MSR 0x1a4 read`.
    pub what: String,
    /// Guest RIP of the first such request.
    pub rip: u64,
    /// Instruction bytes there; empty where they are not known.
    pub bytes: Vec<u8>,
    /// How often it was asked for.
    pub count: u64,
}

/// The list of unserved requests of one machine, shared by everything that serves it.
///
/// The guest decides how many entries there are, so the list is bounded: past
/// [`UnservedLog::CAPACITY`] different requests only a total is kept.
#[derive(Debug, Default)]
pub struct UnservedLog {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<String, Unserved>,
    dropped: u64,
}

impl UnservedLog {
    /// How many different requests are kept.
    pub const CAPACITY: usize = 256;

    /// Records one request.
    pub fn record(&self, what: impl Into<String>, rip: u64, bytes: &[u8]) {
        let what = what.into();
        let mut inner = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(entry) = inner.entries.get_mut(&what) {
            entry.count = entry.count.saturating_add(1);
        } else if inner.entries.len() < Self::CAPACITY {
            let bytes = bytes[..bytes.len().min(15)].to_vec();
            inner.entries.insert(what.clone(), Unserved { what, rip, bytes, count: 1 });
        } else {
            inner.dropped = inner.dropped.saturating_add(1);
        }
    }

    /// All entries, ordered by what was asked for.
    pub fn entries(&self) -> Vec<Unserved> {
        let inner = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        inner.entries.values().cloned().collect()
    }

    /// Requests that found the list full.
    pub fn dropped(&self) -> u64 {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_guest_cannot_grow_the_list() {
        let log = UnservedLog::default();
        for index in 0..10_000 {
            log.record(format!("MSR {index:#x} read"), 0, &[0x0f, 0x32]);
        }
        log.record("MSR 0x0 read", 7, &[]);
        assert_eq!(log.entries().len(), UnservedLog::CAPACITY);
        assert_eq!(log.dropped(), 10_000 - UnservedLog::CAPACITY as u64);
        assert_eq!(log.entries()[0].count, 2);
        assert_eq!(log.entries()[0].rip, 0);
    }
}
