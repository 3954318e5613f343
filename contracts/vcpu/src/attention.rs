//! How other threads ask a vCPU to look up from running guest code.
//!
//! Each vCPU has one [`Attention`]: a word of request bits that engines poll between blocks of
//! guest code, and a place to sleep while the guest is halted. Raising a bit wakes the sleeper.
//! For generated code there is a *gate* as well: a word that such code uses, zero when it is to look up.

use ambos_hostcode::LowWord;
use bitflags::bitflags;
use std::sync::atomic::{AtomicU32, Ordering};
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
        /// A start-up message (SIPI); [`Attention::take_start_up`] takes it.
        const SIPI = 1 << 3;
        /// Return [`crate::Stop::Asked`] to the owner.
        const STOP = 1 << 4;
        /// Another vCPU changed code or translations: drop what is cached of them.
        const FLUSH = 1 << 5;
        /// Page tables changed: drop all translations.
        const FLUSH_ALL = 1 << 6;
    }
}

/// Bit of the word: the vCPU waits for a start-up message. Never set while guest code runs.
const WAITING: u32 = 1 << 31;
/// Bit of the word: the vCPU's thread sleeps in [`Attention::wait`]. Never set while guest code runs.
const SLEEPING: u32 = 1 << 30;
/// Where the word holds the vector of a start-up message.
const VECTOR_SHIFT: u32 = 16;
const VECTOR: u32 = 0xff << VECTOR_SHIFT;

/// The request word of one vCPU and its place to sleep.
#[derive(Debug)]
pub struct Attention {
    bits: AtomicU32,
    /// `None` if the host has no memory for it.
    gate: Option<LowWord>,
    sleeper: Mutex<()>,
    wake: Condvar,
}

impl Default for Attention {
    fn default() -> Self {
        Self {
            bits: AtomicU32::default(),
            gate: LowWord::new().ok(),
            sleeper: Mutex::default(),
            wake: Condvar::default(),
        }
    }
}

impl Attention {
    /// Asks for `request` and wakes the vCPU if it sleeps.
    pub fn raise(&self, request: Request) {
        let before = self.bits.fetch_or(request.bits(), Ordering::SeqCst);
        self.close_gate();
        // To wake costs a system call, even if nobody sleeps.
        if before & SLEEPING != 0 && before & request.bits() != request.bits() {
            self.wake_sleeper();
        }
    }

    fn wake_sleeper(&self) {
        // Taking the lock orders what the caller stored against a sleeper's last look at the word.
        drop(self.sleeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        self.wake.notify_all();
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

    /// The vCPU waits for a start-up message from now on: an INIT has been served, or it is a
    /// processor that does not start by itself.
    pub fn await_start_up(&self) {
        let served = |word: u32| Some(word & !Request::INIT.bits() | WAITING);
        // The update is never refused.
        let _ = self.bits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, served);
    }

    /// Sends a start-up message with `vector` (the real-mode page to start at). Only a vCPU that
    /// waits for it, or is about to, takes it: guests send the message twice, and the second one
    /// must not stay with a vCPU that runs already.
    pub fn start_up(&self, vector: u8) {
        let sent = |word: u32| {
            let awaited = word & (WAITING | Request::INIT.bits()) != 0;
            let vector = u32::from(vector) << VECTOR_SHIFT;
            awaited.then_some(word & !VECTOR | vector | Request::SIPI.bits())
        };
        if self.bits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, sent).is_ok() {
            self.wake_sleeper();
        }
    }

    /// Takes the start-up message that [`Attention::await_start_up`] waits for, and returns its
    /// vector; the wait is over then.
    pub fn take_start_up(&self) -> Option<u8> {
        let taken = |word: u32| {
            let sent = word & Request::SIPI.bits() != 0;
            sent.then_some(word & !(WAITING | VECTOR | Request::SIPI.bits()))
        };
        let before = self.bits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken).ok()?;
        Some(((before & VECTOR) >> VECTOR_SHIFT) as u8)
    }

    /// Sleeps until one of `requests` is raised or `timeout` (forever if `None`) has passed.
    pub fn wait(&self, requests: Request, timeout: Option<Duration>) {
        let guard = self.sleeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let idle = |_: &mut ()| !self.pending().intersects(requests);
        // Who raises a request after this knows that it must wake; one raised before is seen.
        self.bits.fetch_or(SLEEPING, Ordering::SeqCst);
        match timeout {
            Some(timeout) => drop(self.wake.wait_timeout_while(guard, timeout, idle)),
            None => drop(self.wake.wait_while(guard, idle)),
        }
        self.bits.fetch_and(!SLEEPING, Ordering::SeqCst);
    }

    /// The address of the gate, for generated code: below 2 GiB, and valid as long as this is. `None` if the
    /// host has no memory there.
    pub fn gate(&self) -> Option<u32> {
        self.gate.as_ref().map(LowWord::address)
    }

    /// Opens the gate with a value that is not zero, unless something is pending.
    #[inline]
    pub fn open_gate(&self, value: u32) {
        let Some(gate) = &self.gate else { return };
        if gate.load(Ordering::Relaxed) == value {
            return;
        }
        // Who raises a request after this closes it again; one raised before is seen.
        gate.store(value, Ordering::SeqCst);
        if self.bits.load(Ordering::SeqCst) != 0 {
            self.close_gate();
        }
    }

    fn close_gate(&self) {
        if let Some(gate) = &self.gate {
            gate.store(0, Ordering::SeqCst);
        }
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
        attention.await_start_up();
        attention.start_up(0x9f);
        attention.wait(Request::SIPI, None);
        assert_eq!(attention.take_start_up(), Some(0x9f));
    }

    #[test]
    fn a_start_up_message_to_a_running_vcpu_leaves_no_trace() {
        let attention = Attention::default();
        attention.start_up(1);
        assert_eq!(attention.bits.load(Ordering::SeqCst), 0);
        // INIT, then the message twice, the second one late.
        attention.raise(Request::INIT);
        attention.start_up(2);
        attention.await_start_up();
        assert_eq!(attention.take_start_up(), Some(2));
        attention.start_up(3);
        assert_eq!(attention.take_start_up(), None);
        assert_eq!(attention.bits.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn the_gate_is_open_while_nothing_is_pending() {
        let attention = Attention::default();
        let open = || attention.gate.as_ref().unwrap().load(Ordering::SeqCst);
        attention.open_gate(7);
        assert_eq!(open(), 7);
        attention.raise(Request::INTERRUPT);
        assert_eq!(open(), 0);
        attention.open_gate(7);
        assert_eq!(open(), 0);
        attention.lower(Request::INTERRUPT);
        attention.open_gate(7);
        assert_eq!(open(), 7);
    }
}
