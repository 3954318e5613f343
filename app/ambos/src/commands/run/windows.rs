//! What is counted apart: between two marks that the guest prints on its console.

use super::console::BOOT_WINDOW;
use ambos_guest::exec::WindowMark;
use ambos_machine::{Moment, Observer, WindowLine};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Most windows that are kept, and most that may be open at a time: the guest makes them.
const LIMIT: usize = 4096;

/// Turns marks into windows.
pub(super) struct Windows {
    observer: Observer,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: BTreeMap<String, Moment>,
    closed: Vec<WindowLine>,
}

impl Windows {
    /// Begins with the window of the boot.
    pub(super) fn new(observer: Observer) -> Self {
        let mut state = State::default();
        state.open.insert(BOOT_WINDOW.to_owned(), observer.now());
        Self { observer, state: Mutex::new(state) }
    }

    /// Opens or closes a window. A window that was not opened cannot be closed.
    pub(super) fn mark(&self, mark: WindowMark) {
        let now = self.observer.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match mark {
            WindowMark::Open(name) => {
                if state.open.len() < LIMIT {
                    state.open.insert(name, now);
                }
            }
            WindowMark::Close(name) => {
                if let Some(from) = state.open.remove(&name)
                    && state.closed.len() < LIMIT
                {
                    state.closed.push(self.observer.window(&name, &from, &now));
                }
            }
        }
    }

    /// All windows; those that are still open end now.
    pub(super) fn take(&self) -> Vec<WindowLine> {
        let now = self.observer.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { open, mut closed } = std::mem::take(&mut *state);
        closed.extend(open.iter().map(|(name, from)| self.observer.window(name, from, &now)));
        closed
    }
}
