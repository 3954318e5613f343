//! What a command can fail with, and the exit status each kind has.

use ambos_guest::GuestError;
use std::error::Error;
use thiserror::Error;

/// Exit status: the monitor itself failed.
pub(crate) const MONITOR: u8 = 1;
/// Exit status: bad usage or unusable input.
pub(crate) const USAGE: u8 = 2;
/// Exit status: the guest crashed.
pub(crate) const CRASHED: u8 = 3;

/// Why a command did not do what it was asked to. Sources are printed after it, on the same line.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The arguments, or a file they name, cannot be used; the user can mend it.
    #[error("{message}")]
    Usage {
        message: String,
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// A guest could not be fetched or removed.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The guest came to a bad end.
    #[error("the guest crashed: {0}")]
    Crashed(String),
    /// The monitor found itself at fault; what it says of that takes several lines.
    #[error("{0}")]
    Report(String),
    /// The monitor or its host failed.
    #[error("{message}")]
    Monitor {
        message: String,
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
}

impl Failure {
    /// Something the user can mend, said in one sentence.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), source: None }
    }

    /// Something the user can mend, with the reason it does not work.
    pub(crate) fn usage_because(
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Usage { message: message.into(), source: Some(source.into()) }
    }

    /// Something the user cannot mend.
    pub(crate) fn monitor(
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Monitor { message: message.into(), source: Some(source.into()) }
    }

    /// The exit status that tells this kind of failure.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Usage { .. } => USAGE,
            Self::Guest(GuestError::File { .. } | GuestError::Initramfs(_)) => MONITOR,
            Self::Guest(_) => USAGE,
            Self::Crashed(_) => CRASHED,
            Self::Report(_) | Self::Monitor { .. } => MONITOR,
        }
    }

    /// The failure and all its sources, on one line, unless it is a report.
    pub(crate) fn line(&self) -> String {
        if let Self::Report(text) = self {
            return text.clone();
        }
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            let reason = error.to_string();
            // Some errors repeat their source in their own message.
            if !text.ends_with(&reason) {
                text.push_str(": ");
                text.push_str(&reason);
            }
            source = error.source();
        }
        joined(text.lines())
    }
}

/// What the argument parser reports, on one line: without the usage, which `--help` shows.
pub(crate) fn one_line_of_usage(report: &str) -> String {
    let report = report.strip_prefix("error: ").unwrap_or(report);
    let lines = report.lines().take_while(|line| {
        !line.starts_with("Usage:") && !line.starts_with("For more information")
    });
    format!("{} (see --help)", joined(lines))
}

fn joined<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_one_line_with_their_reasons() {
        let reason = std::io::Error::other("disk\non fire");
        let failure = Failure::usage_because("cannot read kernel x", reason);
        assert_eq!(failure.line(), "cannot read kernel x: disk on fire");
        assert_eq!(failure.status(), 2);
        let failure = Failure::Crashed("triple fault at rip 0x10".to_owned());
        assert_eq!(failure.line(), "the guest crashed: triple fault at rip 0x10");
        assert_eq!(failure.status(), 3);
        assert_eq!(Failure::Report("a\n  b".to_owned()).line(), "a\n  b");
        assert_eq!(Failure::monitor("no memory", std::io::Error::other("x")).status(), 1);
    }

    #[test]
    fn bad_usage_is_one_line() {
        let report = "error: invalid value 'x' for '-t'\n  [possible values: full]\n\n\
            Usage: ambos run\n\nFor more information, try '--help'.\n";
        let line = "invalid value 'x' for '-t' [possible values: full] (see --help)";
        assert_eq!(one_line_of_usage(report), line);
    }

    #[test]
    fn a_reason_is_not_said_twice() {
        #[derive(Debug, Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] std::io::Error);
        let failure = Failure::usage_because("failed", Outer(std::io::Error::other("inner")));
        assert_eq!(failure.line(), "failed: outer: inner");
    }
}
