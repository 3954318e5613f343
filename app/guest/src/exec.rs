//! How `run --exec` hands a command to the guest's `/init` and gets output and exit status back.
//!
//! The command travels on the kernel command line (`ambos.exec`, in Base64), the way back is the
//! console. There the kernel's log comes first; around the command's own output `/init` prints two
//! markers in the form of operating-system commands of a terminal (ECMA-48 OSC), which carry a nonce
//! so that nothing the command prints by chance is taken for one:
//!
//! ```text
//! ESC ] ambos;NONCE;begin BEL  …output…  ESC ] ambos;NONCE;end=STATUS BEL
//! ```
//!
//! [`ExecFilter`] is fed what the console prints, in pieces of any size, and gives back the output.

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

/// A command for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    encoded: String,
    nonce: String,
}

impl ExecRequest {
    /// A request to run `command` with the guest's shell.
    ///
    /// # Errors
    ///
    /// [`CommandError`] if the command cannot be carried.
    pub fn new(command: &str) -> Result<Self, CommandError> {
        if command.trim().is_empty() {
            return Err(CommandError::Empty);
        }
        if command.contains('\0') {
            return Err(CommandError::Nul);
        }
        if command.len() > COMMAND_LIMIT {
            return Err(CommandError::TooLong { length: command.len() });
        }
        let encoded = base64::engine::general_purpose::STANDARD.encode(command);
        // The standard library seeds each of these from the host's random numbers.
        let random = RandomState::new().build_hasher().finish();
        Ok(Self { encoded, nonce: format!("{random:016x}") })
    }

    /// The parameters to append to the kernel command line.
    pub fn kernel_parameters(&self) -> String {
        format!("ambos.nonce={} ambos.exec={}", self.nonce, self.encoded)
    }

    /// The filter that knows this request's markers.
    pub fn filter(&self) -> ExecFilter {
        ExecFilter::new(&self.nonce)
    }
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

/// Separates a command's output from everything else on the console.
#[derive(Debug)]
pub struct ExecFilter {
    // Configuration.
    begin: Vec<u8>,
    end: Vec<u8>,
    // Volatile state.
    phase: Phase,
    /// The start of what may become a marker; empty or begins with an escape.
    held: Vec<u8>,
    log: VecDeque<u8>,
}

impl ExecFilter {
    fn new(nonce: &str) -> Self {
        Self {
            begin: format!("\x1b]ambos;{nonce};begin\x07").into_bytes(),
            end: format!("\x1b]ambos;{nonce};end=").into_bytes(),
            phase: Phase::Booting,
            held: Vec::new(),
            log: VecDeque::new(),
        }
    }

    /// Takes what the console printed next and appends the command's output in it to `output`.
    pub fn feed(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        for &byte in bytes {
            if byte == ESCAPE {
                self.release(output);
                self.held.push(byte);
            } else if self.held.is_empty() {
                self.pass(byte, output);
            } else {
                self.held.push(byte);
                self.judge(output);
            }
        }
    }

    /// To be called when the console says no more: what looked like the start of a marker is none.
    pub fn finish(&mut self, output: &mut Vec<u8>) {
        self.release(output);
    }

    /// How far the command is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The last of what the console printed that was not output: the kernel's log up to the
    /// command, and what came after it.
    pub fn log(&self) -> Vec<u8> {
        self.log.iter().copied().collect()
    }

    /// Decides what the held bytes are: a marker, possibly one, or none.
    fn judge(&mut self, output: &mut Vec<u8>) {
        match self.phase {
            Phase::Booting if self.held == self.begin => {
                self.held.clear();
                self.phase = Phase::Running;
            }
            Phase::Booting if self.begin.starts_with(&self.held) => {}
            Phase::Running if self.end.starts_with(&self.held) => {}
            Phase::Running if self.held.starts_with(&self.end) => {
                let digits = &self.held[self.end.len()..];
                if let [digits @ .., BELL] = digits {
                    match std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()) {
                        Some(status) => {
                            self.held.clear();
                            self.phase = Phase::Ended(status);
                        }
                        None => self.release(output),
                    }
                } else if digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
                    self.release(output);
                }
            }
            _ => self.release(output),
        }
    }

    /// The held bytes are no marker.
    fn release(&mut self, output: &mut Vec<u8>) {
        for byte in std::mem::take(&mut self.held) {
            self.pass(byte, output);
        }
    }

    fn pass(&mut self, byte: u8, output: &mut Vec<u8>) {
        if self.phase == Phase::Running {
            output.push(byte);
        } else {
            if self.log.len() == LOG_LIMIT {
                self.log.pop_front();
            }
            self.log.push_back(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONCE: &str = "0123456789abcdef";

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
        let mut filter = ExecFilter::new(NONCE);
        let mut output = Vec::new();
        filter.feed(&console(b"[0.0] Linux\r\n", b"hello\n", 7, b"[1.0] reboot\r\n"), &mut output);
        assert_eq!(output, b"hello\n");
        assert_eq!(filter.phase(), Phase::Ended(7));
        assert_eq!(filter.log(), b"[0.0] Linux\r\n[1.0] reboot\r\n");
    }

    #[test]
    fn what_only_resembles_a_marker_is_output() {
        let lookalikes: &[&[u8]] = &[
            b"\x1b]ambos;ffffffffffffffff;end=0\x07",
            b"\x1b]ambos;0123456789abcdef;end=\x07",
            b"\x1b]ambos;0123456789abcdef;end=1234\x07",
            b"\x1b]ambos;0123456789abcdef;end=256\x07",
            b"\x1b]ambos;0123456789abcdef;end=-1\x07",
            b"\x1b]ambos;0123456789abcdef;begin\x07",
            b"\x1b\x1b\x1b]ambos;",
            b"\x1b[31mred\x1b[0m",
        ];
        for lookalike in lookalikes {
            let mut filter = ExecFilter::new(NONCE);
            let mut output = Vec::new();
            filter.feed(&console(b"", lookalike, 0, b""), &mut output);
            assert_eq!(&output, lookalike);
            assert_eq!(filter.phase(), Phase::Ended(0));
        }
    }

    #[test]
    fn a_guest_that_dies_has_no_status_but_a_log() {
        let mut filter = ExecFilter::new(NONCE);
        let mut output = Vec::new();
        let panic = b"Kernel panic - not syncing\r\n";
        for _ in 0..4000 {
            filter.feed(panic, &mut output);
        }
        assert_eq!(filter.phase(), Phase::Booting);
        assert!(output.is_empty());
        assert_eq!(filter.log().len(), LOG_LIMIT, "the log is bounded");
        assert!(filter.log().ends_with(panic));
    }

    #[test]
    fn nothing_is_lost_when_the_console_falls_silent() {
        let mut filter = ExecFilter::new(NONCE);
        let mut output = Vec::new();
        filter.feed(format!("\x1b]ambos;{NONCE};begin\x07half\x1b]amb").as_bytes(), &mut output);
        assert_eq!(output, b"half");
        filter.finish(&mut output);
        assert_eq!(output, b"half\x1b]amb");
    }

    #[test]
    fn commands_that_cannot_be_carried_are_refused() {
        assert_eq!(ExecRequest::new(" \n"), Err(CommandError::Empty));
        assert_eq!(ExecRequest::new("a\0b"), Err(CommandError::Nul));
        let long = "x".repeat(COMMAND_LIMIT + 1);
        assert_eq!(ExecRequest::new(&long), Err(CommandError::TooLong { length: 1201 }));
        let most = ExecRequest::new(&long[1..]).unwrap();
        assert!(most.kernel_parameters().len() < 1700);
    }

    #[test]
    fn the_parameters_carry_the_command_in_one_word() {
        let request = ExecRequest::new("echo \"a b\" > /tmp/x; exit 3").unwrap();
        let parameters = request.kernel_parameters();
        let words: Vec<_> = parameters.split(' ').collect();
        assert_eq!(words.len(), 2);
        let encoded = words[1].strip_prefix("ambos.exec=").unwrap();
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
        assert_eq!(decoded, b"echo \"a b\" > /tmp/x; exit 3");
        let other = ExecRequest::new("x").unwrap();
        assert_ne!(request.nonce, other.nonce);
    }

    /// Bytes that are likely to be mistaken for parts of a marker.
    fn tricky() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\x1b".to_vec()),
            Just(b"\x1b]ambos;".to_vec()),
            Just(b"\x1b]ambos;0123456789abcdef;".to_vec()),
            Just(b"\x1b]ambos;0123456789abcdef;end=".to_vec()),
            Just(b"\x07".to_vec()),
            Just(b"12".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..8),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| {
            let bytes = pieces.concat();
            // A whole marker in the output would rightly be taken for one.
            let end = format!("\x1b]ambos;{NONCE};end=").into_bytes();
            let whole = bytes.windows(end.len()).any(|window| window == end);
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
            let mut whole = Vec::new();
            let mut reference = ExecFilter::new(NONCE);
            reference.feed(&bytes, &mut whole);
            prop_assert_eq!(&whole, &output);
            prop_assert_eq!(reference.phase(), Phase::Ended(status));

            let mut filter = ExecFilter::new(NONCE);
            let mut collected = Vec::new();
            let mut rest = &bytes[..];
            for split in splits.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, remaining) = rest.split_at(split.min(rest.len()));
                filter.feed(piece, &mut collected);
                rest = remaining;
            }
            prop_assert_eq!(collected, output);
            prop_assert_eq!(filter.phase(), Phase::Ended(status));
            prop_assert_eq!(filter.log(), reference.log());
        }
    }
}
