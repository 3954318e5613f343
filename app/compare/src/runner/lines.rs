//! What a guest says, line by line. It may say anything: what is not understood is passed over.

/// Longest line that is looked at; the rest of it is dropped.
const LENGTH: usize = 8192;
/// Most lines that are looked at.
const LINES: usize = 100_000;

/// Something that a guest said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    /// Its first program runs.
    Ready,
    /// A repetition of a workload is done.
    Result { name: String, operations: u64, nanoseconds: u64 },
    /// The probe has timed an operation, in ticks of the time-stamp counter.
    Ticks { name: String, operations: u64, ticks: u64 },
    /// A workload has nothing to work on.
    Skipped { name: String, reason: String },
    /// A workload failed.
    Failed { name: String, reason: String },
    /// Something about itself.
    Fact { about: String, value: String },
    /// A command has taken so long, and ended with this status.
    Time { nanoseconds: u64, status: u64 },
    /// A service takes requests.
    ServiceReady,
    /// What a load command printed.
    Load(String),
    /// What a service or a command printed when it failed.
    Log(String),
}

impl Said {
    /// Reads a line.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end_matches('\r');
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let two = || {
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            (name.to_owned(), rest.to_owned())
        };
        Some(match word {
            "ready" if rest.is_empty() => Self::Ready,
            "service-ready" if rest.is_empty() => Self::ServiceReady,
            "result" => {
                let mut words = rest.split(' ');
                Self::Result {
                    name: words.next()?.to_owned(),
                    operations: words.next()?.parse().ok()?,
                    nanoseconds: words.next()?.parse().ok()?,
                }
            }
            "ticks" => {
                let mut words = rest.split(' ');
                Self::Ticks {
                    name: words.next()?.to_owned(),
                    operations: words.next()?.parse().ok()?,
                    ticks: words.next()?.parse().ok()?,
                }
            }
            "skipped" => {
                let (name, reason) = two();
                Self::Skipped { name, reason }
            }
            "failed" => {
                let (name, reason) = two();
                Self::Failed { name, reason }
            }
            "fact" => {
                let (about, value) = two();
                Self::Fact { about, value }
            }
            "time" => {
                let (nanoseconds, status) = two();
                Self::Time { nanoseconds: nanoseconds.parse().ok()?, status: status.parse().ok()? }
            }
            "load" => Self::Load(rest.to_owned()),
            "log" => Self::Log(rest.to_owned()),
            _ => return None,
        })
    }
}

/// Makes lines of bytes.
#[derive(Default)]
pub(crate) struct Lines {
    begun: Vec<u8>,
    count: usize,
}

impl Lines {
    /// Takes the next bytes and gives back the lines that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                if self.begun.len() < LENGTH {
                    self.begun.push(byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.begun);
            self.count += 1;
            if self.count <= LINES {
                lines.push(String::from_utf8_lossy(&line).into_owned());
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_guest_says_is_understood() {
        let result = Said::Result { name: "timer".into(), operations: 5, nanoseconds: 77 };
        assert_eq!(Said::parse("result timer 5 77\r"), Some(result));
        let skipped = Said::Skipped { name: "disk".into(), reason: "no disk here".into() };
        assert_eq!(Said::parse("skipped disk no disk here"), Some(skipped));
        assert_eq!(Said::parse("ready"), Some(Said::Ready));
        let time = Said::Time { nanoseconds: 12, status: 1 };
        assert_eq!(Said::parse("time 12 1"), Some(time));
        assert_eq!(Said::parse("load"), Some(Said::Load(String::new())));
        for nonsense in ["", "result", "result x", "result x -1 2", "time x", "[ 1.0] Linux"] {
            assert_eq!(Said::parse(nonsense), None, "{nonsense}");
        }
    }

    proptest! {
        #[test]
        fn guests_may_say_anything(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            for line in Lines::default().feed(&bytes) {
                let _ = Said::parse(&line);
            }
        }
    }

    #[test]
    fn endless_lines_are_cut() {
        let mut lines = Lines::default();
        assert!(lines.feed(&vec![b'x'; LENGTH * 3]).is_empty());
        assert_eq!(lines.feed(b"\nready\n"), ["x".repeat(LENGTH), "ready".to_owned()]);
    }
}
