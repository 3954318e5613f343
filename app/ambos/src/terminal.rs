//! The terminal that the monitor was started from.
//!
//! While a guest has it, the terminal is in raw mode: keys reach the guest one by one, Ctrl-c too.
//! Whatever ends the monitor must give it back as it was, so what it was like is kept where all can
//! reach it: the guard that leaves scope, the panic hook, and the thread that waits for signals.

use rustix::termios::{self, OptionalActions, OutputModes, Termios};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH, SIGXFSZ};
use std::io::{self, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, Once, PoisonError};

/// The terminal in raw mode, if one is.
static RAW: Mutex<Option<Saved>> = Mutex::new(None);

struct Saved {
    terminal: OwnedFd,
    before: Termios,
}

/// Keeps the terminal in raw mode as long as it lives. There is at most one.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Puts `terminal` into raw mode.
    ///
    /// Output processing stays as it is, so that what the monitor itself prints meanwhile is legible;
    /// guests end their lines with a carriage return anyway.
    pub(crate) fn enter(terminal: impl AsFd) -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(restore_on_panic);
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = termios::tcgetattr(&terminal)?;
        make_raw(&terminal, &before)?;
        *RAW.lock().unwrap_or_else(PoisonError::into_inner) = Some(Saved { terminal, before });
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn make_raw(terminal: impl AsFd, before: &Termios) -> io::Result<()> {
    let mut raw = before.clone();
    raw.make_raw();
    raw.output_modes = before.output_modes | OutputModes::OPOST;
    Ok(termios::tcsetattr(terminal, OptionalActions::Flush, &raw)?)
}

/// Gives the terminal back as it was; for all ways out. Does nothing if it is not in raw mode.
pub(crate) fn restore() {
    if let Some(saved) = RAW.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nobody is left to be told of a failure.
        let _ = termios::tcsetattr(&saved.terminal, OptionalActions::Flush, &saved.before);
    }
}

/// A shell that suspended the monitor may have changed the terminal meanwhile.
fn resume() {
    if let Some(saved) = RAW.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        // If it fails the terminal stays usable, only less convenient.
        let _ = make_raw(&saved.terminal, &saved.before);
    }
}

fn restore_on_panic() {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        next(info);
    }));
}

/// Calls `ask` with the number of the first signal that asks the monitor to end. A second one ends it
/// at once, with the terminal restored, for the case that the first is of no avail.
///
/// A file that may not grow any more is an error for the guest whose disk it is, and no reason to end.
pub(crate) fn on_termination(ask: impl FnOnce(i32) + Send + 'static) -> io::Result<()> {
    let signals = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCONT, SIGXFSZ];
    let mut signals = signal_hook::iterator::Signals::new(signals)?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut ask = Some(ask);
        for signal in signals.forever() {
            if signal == SIGCONT {
                resume();
            } else if signal == SIGXFSZ {
                tracing::warn!("a file has reached the limit of its size");
            } else if let Some(ask) = ask.take() {
                ask(signal);
            } else {
                restore();
                std::process::exit(128 + signal);
            }
        }
    })?;
    Ok(())
}

/// Calls `tell` with rows and columns of the terminal whenever they change.
pub(crate) fn on_resize(tell: impl Fn(u16, u16) + Send + 'static) -> io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGWINCH])?;
    std::thread::Builder::new().name("window size".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if let Some((rows, columns)) = size() {
                tell(rows, columns);
            }
        }
    })?;
    Ok(())
}

/// Rows and columns of the terminal, if it has a size.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, tcgetattr};
    use std::sync::mpsc;
    use std::time::Duration;

    /// Tests that change the one terminal there can be take turns.
    static TURN: Mutex<()> = Mutex::new(());

    fn pty() -> (OwnedFd, OwnedFd) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let terminal =
            rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        (master, terminal)
    }

    fn is_raw(terminal: &OwnedFd) -> bool {
        let modes = tcgetattr(terminal).unwrap();
        assert!(modes.output_modes.contains(OutputModes::OPOST));
        !modes.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    #[test]
    fn the_terminal_is_given_back_at_the_end_of_scope() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (_master, terminal) = pty();
        let before = format!("{:?}", tcgetattr(&terminal).unwrap());
        let guard = RawMode::enter(&terminal).unwrap();
        assert!(is_raw(&terminal));
        drop(guard);
        assert_eq!(format!("{:?}", tcgetattr(&terminal).unwrap()), before);
        restore();
    }

    #[test]
    fn the_terminal_is_given_back_before_a_panic_is_reported() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (_master, terminal) = pty();
        let guard = RawMode::enter(&terminal).unwrap();
        // On another thread, which unwinds without the guard.
        let result = std::thread::spawn(|| panic!("on purpose, in a test")).join();
        assert!(result.is_err());
        assert!(!is_raw(&terminal));
        drop(guard);
    }

    #[test]
    fn a_signal_asks_and_continuing_renews_raw_mode() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (_master, terminal) = pty();
        let (sender, receiver) = mpsc::channel();
        on_termination(move |signal| sender.send(signal).unwrap()).unwrap();
        let guard = RawMode::enter(&terminal).unwrap();

        let mut cooked = tcgetattr(&terminal).unwrap();
        cooked.local_modes |= LocalModes::ICANON | LocalModes::ECHO;
        termios::tcsetattr(&terminal, OptionalActions::Now, &cooked).unwrap();
        signal_hook::low_level::raise(SIGCONT).unwrap();
        // Of signals that are pending together the thread takes the lower number first: one at a time.
        let renewed = (0..6000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            is_raw(&terminal)
        });
        assert!(renewed);
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(60)).unwrap(), SIGTERM);
        drop(guard);
    }

    #[test]
    fn what_is_no_terminal_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(RawMode::enter(&file).is_err());
    }
}
