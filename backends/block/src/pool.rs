//! Threads for requests that may wait.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Something to be done.
type Job = Box<dyn FnOnce() + Send>;

/// Most threads of a pool: more requests at once wait for each other.
const THREADS: usize = 4;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a thread.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
            } else if state.closed {
                return;
            } else {
                state.idle += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

/// A few threads: one from the beginning, others when they are needed. Dropped, it still does what it
/// was given.
pub struct Pool(Arc<Shared>);

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of one thread so far.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if the host refuses threads.
    pub fn new() -> io::Result<Self> {
        let pool = Self(Arc::default());
        pool.start(&mut pool.0.lock())?;
        Ok(pool)
    }

    fn start(&self, state: &mut State) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        std::thread::Builder::new().name("disk".to_owned()).spawn(move || shared.work())?;
        state.threads += 1;
        Ok(())
    }

    /// Does `job` on some thread of the pool, never on the caller's.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        state.jobs.push_back(Box::new(job));
        if state.idle < state.jobs.len() && state.threads < THREADS {
            // Without another thread it takes its turn.
            let _ = self.start(&mut state);
        }
        drop(state);
        self.0.changed.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn jobs_run_at_once_and_to_the_end() {
        let pool = Pool::new().unwrap();
        let barrier = Arc::new(std::sync::Barrier::new(THREADS));
        let (sender, receiver) = mpsc::channel();
        for number in 0..THREADS * 3 {
            let (barrier, sender) = (Arc::clone(&barrier), sender.clone());
            pool.run(move || {
                barrier.wait();
                sender.send(number).unwrap();
            });
        }
        drop((pool, sender));
        let mut numbers: Vec<usize> = receiver.iter().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..THREADS * 3).collect::<Vec<_>>());
    }
}
