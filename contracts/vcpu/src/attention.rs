//! How other threads ask a vCPU to look up from running guest code.
//!
//! Each vCPU has one [`Attention`]: a word of request bits that engines poll between blocks of
//! guest code, and a place to sleep while the guest is halted. Raising a bit wakes the sleeper.

use bitflags::bitflags;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

bitflags! {
    /// What a vCPU is asked for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Request: u32 {
        /// A maskable interrupt may be deliverable: ask the platform to acknowledge one.
        const INTERRUPT = 1 << 0;
        /// A non-maskable interrupt is pending.
        const NMI = 1 << 1;
        /// INIT: reset and wait for a start-up message.
        const INIT = 1 << 2;
        /// A start-up message (SIPI) with the vector in [`Attention::sipi_vector`].
        const SIPI = 1 << 3;
        /// Return [`crate::Stop::Asked`] to the owner.
        const STOP = 1 << 4;
        /// Another vCPU changed code or translations: drop what is cached of them.
        const FLUSH = 1 << 5;
    }
}

/// The request word of one vCPU and its place to sleep.
#[derive(Debug, Default)]
pub struct Attention {
    bits: AtomicU32,
    sipi_vector: AtomicU8,
    sleeper: Mutex<()>,
    wake: Condvar,
}

impl Attention {
    /// Asks for `request` and wakes the vCPU if it sleeps.
    pub fn raise(&self, request: Request) {
        let before = self.bits.fetch_or(request.bits(), Ordering::SeqCst);
        if before & request.bits() != request.bits() {
            // Taking the lock orders this store against a sleeper's last look at the word.
            drop(self.sleeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
            self.wake.notify_all();
        }
    }

    /// Takes `request` back.
    pub fn lower(&self, request: Request) {
        self.bits.fetch_and(!request.bits(), Ordering::SeqCst);
    }

    /// Takes back those bits of `request` that are raised and returns them.
    pub fn take(&self, request: Request) -> Request {
        let before = self.bits.fetch_and(!request.bits(), Ordering::SeqCst);
        Request::from_bits_truncate(before & request.bits())
    }

    /// Everything asked for now.
    #[inline]
    pub fn pending(&self) -> Request {
        Request::from_bits_truncate(self.bits.load(Ordering::Acquire))
    }

    /// Sends a start-up message with `vector` (the real-mode page to start at).
    pub fn start_up(&self, vector: u8) {
        self.sipi_vector.store(vector, Ordering::Release);
        self.raise(Request::SIPI);
    }

    /// The vector of the last start-up message.
    pub fn sipi_vector(&self) -> u8 {
        self.sipi_vector.load(Ordering::Acquire)
    }

    /// Sleeps until one of `requests` is raised or `timeout` (forever if `None`) has passed.
    pub fn wait(&self, requests: Request, timeout: Option<Duration>) {
        let guard = self.sleeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let idle = |_: &mut ()| !self.pending().intersects(requests);
        match timeout {
            Some(timeout) => drop(self.wake.wait_timeout_while(guard, timeout, idle)),
            None => drop(self.wake.wait_while(guard, idle)),
        }
    }

    /// The word itself, for engines whose generated code polls it.
    pub fn word(&self) -> &AtomicU32 {
        &self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn raising_wakes_a_sleeper() {
        let attention = Arc::new(Attention::default());
        let other = Arc::clone(&attention);
        let sleeper = std::thread::spawn(move || other.wait(Request::NMI, None));
        attention.raise(Request::INTERRUPT);
        attention.raise(Request::NMI);
        sleeper.join().unwrap();
        assert_eq!(attention.take(Request::NMI), Request::NMI);
        assert_eq!(attention.pending(), Request::INTERRUPT);
    }

    #[test]
    fn a_request_raised_before_sleeping_is_not_missed() {
        let attention = Attention::default();
        attention.start_up(0x9f);
        attention.wait(Request::SIPI, None);
        assert_eq!(attention.sipi_vector(), 0x9f);
    }
}
