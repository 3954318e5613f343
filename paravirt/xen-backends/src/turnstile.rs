//! Lets one thread at a time serve something, without letting others wait.
//!
//! Several vCPUs may notify of the same queue at once. The first serves it; the others only leave
//! word that there is more to do and go on running guest code.

use crate::events::Progress;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Rounds that one caller serves at most.
const ROUNDS: usize = 16;

/// State that one thread at a time serves.
pub(crate) struct Turnstile<T> {
    asked: AtomicBool,
    state: Mutex<T>,
}

impl<T> Turnstile<T> {
    pub(crate) fn new(state: T) -> Self {
        Self { asked: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// The state, for those who must wait. Call [`Turnstile::serve`] after letting it go: who came
    /// meanwhile has only left word.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that `round` is called after this call began, here or by the thread that is
    /// serving already.
    pub(crate) fn serve(&self, mut round: impl FnMut(&mut T) -> Progress) -> Progress {
        self.asked.store(true, Ordering::SeqCst);
        for _ in 0..ROUNDS {
            let mut state = match self.state.try_lock() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Progress::Done,
            };
            if self.asked.swap(false, Ordering::SeqCst) && round(&mut state) == Progress::More {
                return Progress::More;
            }
            drop(state);
            // Who came while the lock was held left word and went away.
            if !self.asked.load(Ordering::SeqCst) {
                return Progress::Done;
            }
        }
        Progress::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn no_request_is_lost_between_threads() {
        let work = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let turnstile = Arc::new(Turnstile::new(0u32));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (turnstile, work) = (Arc::clone(&turnstile), Arc::clone(&work));
                std::thread::spawn(move || {
                    for _ in 0..5_000 {
                        work.fetch_add(1, Ordering::SeqCst);
                        while turnstile.serve(|done| {
                            *done += work.swap(0, Ordering::SeqCst);
                            Progress::Done
                        }) == Progress::More
                        {}
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*turnstile.lock(), 20_000);
    }

    #[test]
    fn one_caller_does_not_serve_for_ever() {
        let turnstile = Turnstile::new(());
        let again = &turnstile;
        assert_eq!(
            turnstile.serve(|()| {
                let _ = again.serve(|()| Progress::Done);
                Progress::Done
            }),
            Progress::More
        );
        assert_eq!(turnstile.serve(|()| Progress::More), Progress::More);
    }
}
