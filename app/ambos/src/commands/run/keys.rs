//! The keys by which the user speaks to the monitor instead of the guest.

/// What Ctrl-a sends: the key that announces a command to the monitor.
const ESCAPE: u8 = 0x01;

/// What Ctrl-a h prints.
pub(super) const HELP: &str = "\
Ctrl-a x  end the guest at once
Ctrl-a p  press the power button: ask the guest to switch off
Ctrl-a s  write what the screen shows to the file of --screen
Ctrl-a a  send Ctrl-a to the guest
Ctrl-a h  show this help
";

/// What the user asks of the monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// End the guest.
    Quit,
    /// Press the guest's power button.
    PowerButton,
    /// Write what the screen shows.
    Screen,
    /// Show [`HELP`].
    Help,
}

/// Separates requests to the monitor from keys for the guest.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Ctrl-a was the last key.
    announced: bool,
}

impl Keys {
    /// Takes the keys typed next, appends those for the guest to `guest`, and returns what is asked
    /// of the monitor.
    pub(super) fn feed(&mut self, typed: &[u8], guest: &mut Vec<u8>) -> Vec<Request> {
        let mut requests = Vec::new();
        for &key in typed {
            if !std::mem::take(&mut self.announced) {
                match key {
                    ESCAPE => self.announced = true,
                    _ => guest.push(key),
                }
                continue;
            }
            match key {
                b'x' | b'X' => requests.push(Request::Quit),
                b'p' | b'P' => requests.push(Request::PowerButton),
                b's' | b'S' => requests.push(Request::Screen),
                b'h' | b'H' | b'?' => requests.push(Request::Help),
                b'a' | b'A' | ESCAPE => guest.push(ESCAPE),
                // No request: both keys were meant for the guest.
                _ => guest.extend([ESCAPE, key]),
            }
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_from_keys() {
        let mut keys = Keys::default();
        let mut guest = Vec::new();
        assert_eq!(keys.feed(b"ls\x01h\x01a\x01\x01\x01e\x03", &mut guest), [Request::Help]);
        let requests = keys.feed(b"\x01p\x01s", &mut guest);
        assert_eq!(requests, [Request::PowerButton, Request::Screen]);
        assert_eq!(guest, b"ls\x01\x01\x01e\x03");
    }

    #[test]
    fn a_request_may_come_in_two_reads() {
        let mut keys = Keys::default();
        let mut guest = Vec::new();
        assert_eq!(keys.feed(b"\x01", &mut guest), []);
        assert_eq!(keys.feed(b"x", &mut guest), [Request::Quit]);
        assert_eq!(keys.feed(b"x", &mut guest), []);
        assert_eq!(guest, b"x");
    }
}
