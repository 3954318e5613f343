//! The description of a service: a TOML file.
//!
//! ```toml
//! name = "redis"                       # of letters, digits, hyphens
//! about = "SET requests over loopback" # one line for reports
//! packages = ["redis-server"]          # Debian packages to put into the guest
//! memory = "512M"                      # of the guest; at least what `compare --memory` says
//! command = "redis-server --save ''"   # what runs in the background; may be left out
//!
//! [[files]]                            # files to put into the guest, any number of them
//! path = "/etc/service.conf"
//! contents = "…"                       # or source = "FILE", relative to this file
//! mode = 0o644
//!
//! [ready]                              # when the service takes requests; may be left out
//! command = "redis-cli ping"           # tried until it succeeds
//! timeout = 30                         # seconds
//!
//! [load]
//! command = "redis-benchmark -q -t set"
//! from = "guest"                       # or "host": there, $AMBOS_PORT leads to the guest's port
//! port = 6379                          # the guest's port, for a load from the host
//! repetitions = 3                      # in one boot; the best one counts
//! timeout = 60                         # seconds for one of them
//!
//! [metric]                             # without it: the seconds that the load takes
//! pattern = 'SET: ([0-9.]+) requests'  # its first group is the value
//! unit = "requests/s"
//! better = "higher"                    # or "lower"
//! ```

use crate::workload::{Better, Unit};
use regex::Regex;
use serde::Deserialize;
use std::path::Path;
use thiserror::Error;

/// Longest that a name may be: it is also the name of a window.
const NAME: usize = 32;

/// Why a description cannot be used. Each message says what to mend.
#[derive(Debug, Error)]
pub enum DefinitionError {
    /// It is not TOML, or has a field that is unknown, missing or of the wrong type.
    #[error("line {line}: {message}")]
    Form {
        /// Where.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A field has a value that makes no sense.
    #[error("{field}: {reason}")]
    Value {
        /// Which field.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// A file that is to be put into the guest cannot be read.
    #[error("files: cannot read {path}")]
    Source {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// TOML's message with the number of the line instead of its picture.
fn form(text: &str, error: &toml::de::Error) -> DefinitionError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    DefinitionError::Form { line, message: error.message().lines().collect::<Vec<_>>().join(" ") }
}

/// A description as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default)]
    about: String,
    #[serde(default)]
    packages: Vec<String>,
    memory: Option<String>,
    command: Option<String>,
    #[serde(default)]
    files: Vec<WrittenFile>,
    ready: Option<Ready>,
    load: Load,
    metric: Option<WrittenMetric>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFile {
    path: String,
    contents: Option<String>,
    source: Option<String>,
    #[serde(default = "default_mode")]
    mode: u32,
}

fn default_mode() -> u32 {
    0o644
}

/// When a service takes requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// What succeeds then.
    pub command: String,
    /// How long it may take, in seconds.
    #[serde(default = "ready_timeout")]
    pub timeout: u32,
}

fn ready_timeout() -> u32 {
    30
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// A shell command.
    pub command: String,
    /// Where it runs.
    #[serde(default)]
    pub from: Place,
    /// The guest's port that it talks to, if it runs on the host.
    pub port: Option<u16>,
    /// How often it is repeated in one boot.
    #[serde(default = "repetitions")]
    pub repetitions: u32,
    /// How long one repetition may take, in seconds.
    #[serde(default = "load_timeout")]
    pub timeout: u32,
}

fn repetitions() -> u32 {
    3
}

fn load_timeout() -> u32 {
    60
}

/// Where a load command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// In the guest.
    #[default]
    Guest,
    /// On the host, which reaches the guest's port by one of its own.
    Host,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMetric {
    pattern: Option<String>,
    #[serde(default)]
    unit: String,
    #[serde(default = "lower")]
    better: Better,
}

fn lower() -> Better {
    Better::Lower
}

/// How a load's value comes about.
#[derive(Debug, Clone)]
pub struct Metric {
    /// What finds the value in the output; without it, the value is the time taken.
    pub pattern: Option<Regex>,
    /// Its unit.
    pub unit: Unit,
    /// Which values are the good ones.
    pub better: Better,
}

/// A file for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name in the guest, without the leading slash.
    pub path: String,
    /// Its permissions.
    pub mode: u32,
    /// What it holds.
    pub contents: Vec<u8>,
}

/// A service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// One line about it.
    pub about: String,
    /// Debian packages for the guest.
    pub packages: Vec<String>,
    /// Bytes of memory that the guest should have at least.
    pub memory: Option<u64>,
    /// What runs in the background.
    pub command: Option<String>,
    /// Files for the guest.
    pub files: Vec<FileEntry>,
    /// When it takes requests.
    pub ready: Option<Ready>,
    /// What is measured.
    pub load: Load,
    /// How its value comes about.
    pub metric: Metric,
}

impl Service {
    /// Reads a description; `directory` is where it lies.
    ///
    /// # Errors
    ///
    /// [`DefinitionError`], which says what to mend.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, DefinitionError> {
        let written: Written = toml::from_str(text).map_err(|error| form(text, &error))?;
        let value =
            |field, reason: &str| Err(DefinitionError::Value { field, reason: reason.to_owned() });
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if written.name.is_empty() || written.name.len() > NAME || !written.name.chars().all(plain)
        {
            return value("name", "it must be a word of at most 32 letters, digits and hyphens");
        }
        if let Some(bad) = written.packages.iter().find(|name| !is_package(name)) {
            return value("packages", &format!("{bad:?} is no name of a package"));
        }
        let load = written.load;
        if load.command.trim().is_empty() {
            return value("load.command", "it is empty");
        }
        match (load.from, load.port) {
            (Place::Host, None) => {
                return value("load.port", "a load from the host needs the guest's port");
            }
            (Place::Guest, Some(_)) => {
                return value("load.port", "only a load from the host needs a port");
            }
            _ => {}
        }
        if load.repetitions == 0 || load.repetitions > 64 {
            return value("load.repetitions", "it must be between 1 and 64");
        }
        let memory = match written.memory.as_deref().map(memory) {
            Some(None) => {
                return value("memory", "it must be a number and M or G, such as \"768M\"");
            }
            other => other.flatten(),
        };
        Ok(Self {
            name: written.name,
            about: written.about,
            packages: written.packages,
            memory,
            command: written.command.filter(|command| !command.trim().is_empty()),
            files: written
                .files
                .into_iter()
                .map(|file| file.read(directory))
                .collect::<Result<_, _>>()?,
            ready: written.ready,
            load,
            metric: metric(written.metric)?,
        })
    }
}

/// Debian Policy, 5.6.1.
fn is_package(name: &str) -> bool {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    first && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn memory(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let shift = match unit {
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok().filter(|&number| number > 0)?.checked_mul(1 << shift)
}

fn metric(written: Option<WrittenMetric>) -> Result<Metric, DefinitionError> {
    let Some(WrittenMetric { pattern, unit, better }) = written else {
        return Ok(Metric { pattern: None, unit: Unit::Seconds, better: Better::Lower });
    };
    let Some(pattern) = pattern else {
        return Ok(Metric { pattern: None, unit: Unit::Seconds, better });
    };
    let invalid = |reason: String| DefinitionError::Value { field: "metric.pattern", reason };
    let pattern = Regex::new(&pattern).map_err(|error| {
        let text = error.to_string();
        invalid(text.lines().last().unwrap_or_default().trim().to_owned())
    })?;
    if pattern.captures_len() < 2 {
        return Err(invalid("it needs a group in parentheses, which is the value".to_owned()));
    }
    Ok(Metric { pattern: Some(pattern), unit: Unit::Other(unit), better })
}

impl WrittenFile {
    fn read(self, directory: &Path) -> Result<FileEntry, DefinitionError> {
        let value = |reason: &str| {
            Err(DefinitionError::Value {
                field: "files",
                reason: format!("{}: {reason}", self.path),
            })
        };
        let path = self.path.trim_start_matches('/');
        if path.is_empty() || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return value("it must be the full path of a file");
        }
        let contents = match (&self.contents, &self.source) {
            (Some(contents), None) => contents.clone().into_bytes(),
            (None, Some(source)) => {
                let source = directory.join(source);
                std::fs::read(&source).map_err(|error| DefinitionError::Source {
                    path: source.display().to_string(),
                    source: error,
                })?
            }
            _ => return value("it needs either contents or source"),
        };
        Ok(FileEntry { path: path.to_owned(), mode: self.mode & 0o7777, contents })
    }
}
