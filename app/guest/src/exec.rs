//! What the monitor and the guest's `/init` tell each other.
//!
//! To the guest goes the kernel command line: a command (`ambos.exec`, in Base64) and a nonce. The
//! way back is the console, on which `/init` prints markers in the form of operating-system commands
//! of a terminal (ECMA-48 OSC). They carry the nonce, so that nothing the guest prints by chance is
//! taken for one:
//!
//! ```text
//! kernel log  ESC ] ambos;NONCE;begin BEL  output of the command  ESC ] ambos;NONCE;end=STATUS BEL
//! kernel log  ESC ] ambos;NONCE;shell BEL  a shell
//! ```
//!
//! A command may mark the beginning and the end of what it wants to have counted apart, with
//! `open=NAME` and `close=NAME` in the place of `begin`: see [`WindowMark`].
//!
//! [`ExecFilter`] is fed what the console prints, in pieces of any size, and gives back the output of
//! a command. [`ShellFilter`] takes the marker of a shell out of the stream and tells that it came.

use base64::Engine as _;
use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use thiserror::Error;

/// Longest command that fits the kernel's command line (2048 bytes on x86) in Base64, with room for
/// the other parameters.
pub const COMMAND_LIMIT: usize = 1200;

/// How much of what was not output is kept for showing when the guest fails, in bytes.
const LOG_LIMIT: usize = 64 << 10;

const ESCAPE: u8 = 0x1b;
const BELL: u8 = 0x07;
/// Longest name of a window.
const NAME_LIMIT: usize = 40;
/// Longest text of a marker after the nonce: `close=` and a name.
const TEXT_LIMIT: usize = 6 + NAME_LIMIT;

/// Why a command cannot be handed to the guest.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CommandError {
    /// The command is empty.
    #[error("the command for the guest is empty")]
    Empty,
    /// The command does not fit the kernel command line.
    #[error("the command for the guest has {length} bytes, but at most {COMMAND_LIMIT} fit")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The command has a NUL byte, which no shell can take.
    #[error("the command for the guest contains a NUL byte")]
    Nul,
}

/// What marks the messages of one run of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// One that no other run has.
    pub fn random() -> Self {
        // The standard library seeds each of these from the host's random numbers.
        let random = RandomState::new().build_hasher().finish();
        Self(format!("{random:016x}"))
    }

    /// The parameter to append to the kernel command line.
    pub fn kernel_parameter(&self) -> String {
        format!("ambos.nonce={}", self.0)
    }
}

/// The parameter by which the kernel command line carries `command` to the guest's shell.
///
/// # Errors
///
/// [`CommandError`] if the command cannot be carried.
pub fn kernel_parameter(command: &str) -> Result<String, CommandError> {
    if command.trim().is_empty() {
        return Err(CommandError::Empty);
    }
    if command.contains('\0') {
        return Err(CommandError::Nul);
    }
    if command.len() > COMMAND_LIMIT {
        return Err(CommandError::TooLong { length: command.len() });
    }
    Ok(format!("ambos.exec={}", base64::engine::general_purpose::STANDARD.encode(command)))
}

/// How far the command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The guest boots; what it prints is its log.
    Booting,
    /// The command runs; what it prints is output.
    Running,
    /// The command has ended with this status.
    Ended(u8),
}

/// An end of a window: a stretch of time that the guest wants to have counted apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WindowMark {
    /// It begins.
    Open(String),
    /// It ends.
    Close(String),
}

/// A message of the guest's `/init`, or of a program that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Marker {
    Begin,
    End(u8),
    Shell,
    Window(WindowMark),
}

impl Marker {
    fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"begin" => Some(Self::Begin),
            b"shell" => Some(Self::Shell),
            [b'e', b'n', b'd', b'=', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => {
                std::str::from_utf8(digits).ok()?.parse().ok().map(Self::End)
            }
            _ => {
                let (action, name) = std::str::from_utf8(text).ok()?.split_once('=')?;
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if name.is_empty() || name.len() > NAME_LIMIT || !name.chars().all(plain) {
                    return None;
                }
                let name = name.to_owned();
                match action {
                    "open" => Some(Self::Window(WindowMark::Open(name))),
                    "close" => Some(Self::Window(WindowMark::Close(name))),
                    _ => None,
                }
            }
        }
    }
}

/// Finds markers in a stream of bytes.
#[derive(Debug)]
struct Scanner {
    prefix: Vec<u8>,
    /// The start of what may become a marker; empty or begins with an escape.
    held: Vec<u8>,
}

impl Scanner {
    fn new(nonce: &Nonce) -> Self {
        Self { prefix: format!("\x1b]ambos;{};", nonce.0).into_bytes(), held: Vec::new() }
    }

    /// Takes the next byte. Bytes that belong to no marker go to `other`, which may be later than
    /// they came.
    fn feed(&mut self, byte: u8, other: &mut Vec<u8>) -> Option<Marker> {
        if byte == ESCAPE {
            self.release(other);
            self.held.push(byte);
            return None;
        }
        if self.held.is_empty() {
            other.push(byte);
            return None;
        }
        self.held.push(byte);
        let Some(text) = self.held.strip_prefix(self.prefix.as_slice()) else {
            if !self.prefix.starts_with(&self.held) {
                self.release(other);
            }
            return None;
        };
        if let [text @ .., BELL] = text {
            let marker = Marker::parse(text);
            match marker {
                Some(_) => self.held.clear(),
                None => self.release(other),
            }
            return marker;
        }
        if text.len() > TEXT_LIMIT {
            self.release(other);
        }
        None
    }

    /// The held bytes are no marker.
    fn release(&mut self, other: &mut Vec<u8>) {
        other.append(&mut self.held);
    }
}

/// Separates a command's output from everything else on the console.
#[derive(Debug)]
pub struct ExecFilter {
    scanner: Scanner,
    phase: Phase,
    log: VecDeque<u8>,
    marks: Vec<WindowMark>,
}

impl ExecFilter {
    /// A filter that knows the markers of this nonce.
    pub fn new(nonce: &Nonce) -> Self {
        Self {
            scanner: Scanner::new(nonce),
            phase: Phase::Booting,
            log: VecDeque::new(),
            marks: Vec::new(),
        }
    }

    /// Takes what the console printed next and appends the command's output in it to `output`, the
    /// rest to `log`. Markers appear in neither.
    pub fn feed(&mut self, bytes: &[u8], output: &mut Vec<u8>, log: &mut Vec<u8>) {
        let mut passed = Vec::new();
        for &byte in bytes {
            let marker = self.scanner.feed(byte, &mut passed);
            self.pass(&mut passed, output, log);
            match (self.phase, marker) {
                (Phase::Booting, Some(Marker::Begin)) => self.phase = Phase::Running,
                (Phase::Running, Some(Marker::End(status))) => self.phase = Phase::Ended(status),
                (Phase::Running, Some(Marker::Window(mark))) => self.marks.push(mark),
                _ => {}
            }
        }
    }

    /// To be called when the console says no more: what looked like the start of a marker is none.
    pub fn finish(&mut self, output: &mut Vec<u8>, log: &mut Vec<u8>) {
        let mut passed = Vec::new();
        self.scanner.release(&mut passed);
        self.pass(&mut passed, output, log);
    }

    /// The marks of windows that came since this was last called.
    pub fn take_marks(&mut self) -> Vec<WindowMark> {
        std::mem::take(&mut self.marks)
    }

    /// How far the command is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The last of what the console printed that was not output: the kernel's log up to the
    /// command, and what came after it.
    pub fn last_log(&self) -> Vec<u8> {
        self.log.iter().copied().collect()
    }

    fn pass(&mut self, bytes: &mut Vec<u8>, output: &mut Vec<u8>, log: &mut Vec<u8>) {
        if self.phase == Phase::Running {
            output.append(bytes);
        } else {
            self.log.extend(bytes.iter());
            self.log.drain(..self.log.len().saturating_sub(LOG_LIMIT));
            log.append(bytes);
        }
    }
}

/// Takes the marker of a shell out of what the console prints.
#[derive(Debug)]
pub struct ShellFilter {
    scanner: Scanner,
    ready: bool,
}

impl ShellFilter {
    /// A filter that knows the marker of this nonce.
    pub fn new(nonce: &Nonce) -> Self {
        Self { scanner: Scanner::new(nonce), ready: false }
    }

    /// Takes what the console printed next and appends it to `output`, without the marker.
    pub fn feed(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        for &byte in bytes {
            self.ready |= self.scanner.feed(byte, output) == Some(Marker::Shell);
        }
    }

    /// Whether the shell is there to take input.
    pub fn is_ready(&self) -> bool {
        self.ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONCE: &str = "0123456789abcdef";

    fn nonce() -> Nonce {
        Nonce(NONCE.to_owned())
    }

    fn console(before: &[u8], output: &[u8], status: u8, after: &[u8]) -> Vec<u8> {
        let mut bytes = before.to_vec();
        bytes.extend(format!("\x1b]ambos;{NONCE};begin\x07").bytes());
        bytes.extend(output);
        bytes.extend(format!("\x1b]ambos;{NONCE};end={status}\x07").bytes());
        bytes.extend(after);
        bytes
    }

    #[test]
    fn only_the_commands_output_passes() {
        let mut filter = ExecFilter::new(&nonce());
        let (mut output, mut log) = (Vec::new(), Vec::new());
        let bytes = console(b"[0.0] Linux\r\n", b"hello\n", 7, b"[1.0] reboot\r\n");
        filter.feed(&bytes, &mut output, &mut log);
        assert_eq!(output, b"hello\n");
        assert_eq!(filter.phase(), Phase::Ended(7));
        assert_eq!(log, b"[0.0] Linux\r\n[1.0] reboot\r\n");
        assert_eq!(filter.last_log(), log);
    }

    #[test]
    fn what_only_resembles_a_marker_is_output() {
        let lookalikes: &[&[u8]] = &[
            b"\x1b]ambos;ffffffffffffffff;end=0\x07",
            b"\x1b]ambos;0123456789abcdef;end=\x07",
            b"\x1b]ambos;0123456789abcdef;end=1234\x07",
            b"\x1b]ambos;0123456789abcdef;end=12345678\x07",
            b"\x1b]ambos;0123456789abcdef;end=256\x07",
            b"\x1b]ambos;0123456789abcdef;end=-1\x07",
            b"\x1b]ambos;0123456789abcdef;other\x07",
            b"\x1b\x1b\x1b]ambos;",
            b"\x1b[31mred\x1b[0m",
        ];
        for lookalike in lookalikes {
            let mut filter = ExecFilter::new(&nonce());
            let mut output = Vec::new();
            filter.feed(&console(b"", lookalike, 0, b""), &mut output, &mut Vec::new());
            assert_eq!(&output, lookalike);
            assert_eq!(filter.phase(), Phase::Ended(0));
        }
    }

    #[test]
    fn windows_are_marked_while_the_command_runs() {
        let mark = |text: &str| format!("\x1b]ambos;{NONCE};{text}\x07");
        let output = [mark("open=disk-read.4k"), "x".to_owned(), mark("close=disk-read.4k")];
        let mut filter = ExecFilter::new(&nonce());
        let (mut passed, mut log) = (Vec::new(), Vec::new());
        let before = mark("open=early");
        let bytes = console(before.as_bytes(), output.concat().as_bytes(), 0, b"");
        for byte in bytes {
            filter.feed(&[byte], &mut passed, &mut log);
        }
        assert_eq!(passed, b"x");
        let name = || "disk-read.4k".to_owned();
        assert_eq!(filter.take_marks(), [WindowMark::Open(name()), WindowMark::Close(name())]);
        assert!(filter.take_marks().is_empty());
        for text in ["open=", "open=a b", "close=\u{e9}", &format!("open={}", "x".repeat(41))] {
            assert_eq!(Marker::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_guest_that_dies_has_no_status_but_a_log() {
        let mut filter = ExecFilter::new(&nonce());
        let mut output = Vec::new();
        let panic = b"Kernel panic - not syncing\r\n";
        for _ in 0..4000 {
            filter.feed(panic, &mut output, &mut Vec::new());
        }
        assert_eq!(filter.phase(), Phase::Booting);
        assert!(output.is_empty());
        assert_eq!(filter.last_log().len(), LOG_LIMIT, "the log is bounded");
        assert!(filter.last_log().ends_with(panic));
    }

    #[test]
    fn nothing_is_lost_when_the_console_falls_silent() {
        let mut filter = ExecFilter::new(&nonce());
        let (mut output, mut log) = (Vec::new(), Vec::new());
        let bytes = format!("\x1b]ambos;{NONCE};begin\x07half\x1b]amb");
        filter.feed(bytes.as_bytes(), &mut output, &mut log);
        assert_eq!(output, b"half");
        filter.finish(&mut output, &mut log);
        assert_eq!(output, b"half\x1b]amb");
    }

    #[test]
    fn the_marker_of_a_shell_is_taken_out() {
        let mut filter = ShellFilter::new(&nonce());
        let mut output = Vec::new();
        let bytes = format!("log\x1b[0m\x1b]ambos;{NONCE};shell\x07\x1b]0;title\x07~ # ");
        for (index, &byte) in bytes.as_bytes().iter().enumerate() {
            assert_eq!(filter.is_ready(), index > 37, "{index}");
            filter.feed(&[byte], &mut output);
        }
        assert_eq!(output, b"log\x1b[0m\x1b]0;title\x07~ # ");
    }

    #[test]
    fn commands_that_cannot_be_carried_are_refused() {
        assert_eq!(kernel_parameter(" \n"), Err(CommandError::Empty));
        assert_eq!(kernel_parameter("a\0b"), Err(CommandError::Nul));
        let long = "x".repeat(COMMAND_LIMIT + 1);
        assert_eq!(kernel_parameter(&long), Err(CommandError::TooLong { length: 1201 }));
        assert!(kernel_parameter(&long[1..]).unwrap().len() < 1700);
    }

    #[test]
    fn the_parameter_carries_the_command_in_one_word() {
        let parameter = kernel_parameter("echo \"a b\" > /tmp/x; exit 3").unwrap();
        assert!(!parameter.contains(char::is_whitespace));
        let encoded = parameter.strip_prefix("ambos.exec=").unwrap();
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
        assert_eq!(decoded, b"echo \"a b\" > /tmp/x; exit 3");
        assert_ne!(Nonce::random(), Nonce::random());
    }

    /// Bytes that are likely to be mistaken for parts of a marker.
    fn tricky() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\x1b".to_vec()),
            Just(b"\x1b]ambos;".to_vec()),
            Just(b"\x1b]ambos;0123456789abcdef;".to_vec()),
            Just(b"\x1b]ambos;0123456789abcdef;end=".to_vec()),
            Just(b"\x1b]ambos;0123456789abcdef;beg".to_vec()),
            Just(b"\x07".to_vec()),
            Just(b"12".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..8),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| {
            let bytes = pieces.concat();
            // A whole marker in the output would rightly be taken for one.
            let prefix = format!("\x1b]ambos;{NONCE};").into_bytes();
            let whole = bytes.windows(prefix.len()).any(|window| window == prefix);
            if whole && bytes.contains(&BELL) { b"plain".to_vec() } else { bytes }
        })
    }

    proptest! {
        #[test]
        fn reads_may_be_split_anywhere(
            before in tricky(),
            output in tricky(),
            after in tricky(),
            status in any::<u8>(),
            splits in proptest::collection::vec(1_usize..9, 1..40),
        ) {
            let bytes = console(&before, &output, status, &after);
            let mut filter = ExecFilter::new(&nonce());
            let (mut passed, mut log) = (Vec::new(), Vec::new());
            let mut rest = &bytes[..];
            for split in splits.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, remaining) = rest.split_at(split.min(rest.len()));
                filter.feed(piece, &mut passed, &mut log);
                rest = remaining;
            }
            filter.finish(&mut passed, &mut log);
            prop_assert_eq!(passed, output);
            prop_assert_eq!(filter.phase(), Phase::Ended(status));
            prop_assert_eq!(&log, &[before, after].concat());
            prop_assert_eq!(filter.last_log(), log);
        }
    }
}
