//! Bytes that back-ends move on a guest's behalf.

use std::sync::atomic::{AtomicU64, Ordering};

/// What one back-end has moved. Any thread may add to it.
#[derive(Debug, Default)]
pub struct Transfer {
    to_guest: AtomicU64,
    from_guest: AtomicU64,
    requests: AtomicU64,
}

/// The counts of a [`Transfer`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Bytes that went to the guest.
    pub to_guest: u64,
    /// Bytes that came from the guest.
    pub from_guest: u64,
    /// Requests that moved them.
    pub requests: u64,
}

impl Transfer {
    /// Counts one request that moved `bytes` to the guest.
    pub fn to_guest(&self, bytes: u64) {
        self.to_guest.fetch_add(bytes, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one request that moved `bytes` from the guest.
    pub fn from_guest(&self, bytes: u64) {
        self.from_guest.fetch_add(bytes, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// What has been counted.
    pub fn moved(&self) -> Moved {
        Moved {
            to_guest: self.to_guest.load(Ordering::Relaxed),
            from_guest: self.from_guest.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
        }
    }
}

impl Moved {
    /// What was moved since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            to_guest: self.to_guest.saturating_sub(earlier.to_guest),
            from_guest: self.from_guest.saturating_sub(earlier.from_guest),
            requests: self.requests.saturating_sub(earlier.requests),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_by_direction() {
        let transfer = Transfer::default();
        transfer.to_guest(512);
        let before = transfer.moved();
        transfer.from_guest(4096);
        transfer.from_guest(1);
        let moved = Moved { to_guest: 0, from_guest: 4097, requests: 2 };
        assert_eq!(transfer.moved().since(before), moved);
    }
}
