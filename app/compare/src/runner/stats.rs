//! What a monitor counted: the JSON form of `ambos run --stats`, as far as it is used here.

use crate::report::model::{Intercepts, Transfer};
use serde::Deserialize;
use std::path::Path;

/// The version of the form that is understood.
const SCHEMA: u32 = 1;

/// What was counted in one run of a machine.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Stats {
    schema: u32,
    /// From the making of the machine to its end.
    #[serde(default)]
    pub(crate) seconds: f64,
    /// Frequency of the time-stamp counter.
    #[serde(default)]
    pub(crate) tsc_hz: u64,
    #[serde(default)]
    pub(crate) memory: Memory,
    #[serde(default)]
    pub(crate) windows: Vec<Window>,
    #[serde(default)]
    pub(crate) unserved: Vec<Unserved>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Memory {
    pub(crate) guest: u64,
    pub(crate) monitor: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Unserved {
    pub(crate) what: String,
    pub(crate) count: u64,
}

/// What happened between two marks of the guest.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Window {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    #[serde(default)]
    pub(crate) intercepts: Vec<Line>,
    #[serde(default)]
    pub(crate) transfers: Vec<Transfer>,
    /// Whether interceptions were counted at all.
    #[serde(skip, default = "yes")]
    pub(crate) counted: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Line {
    class: String,
    label: String,
    count: u64,
    nanoseconds: u64,
}

impl From<&Line> for Intercepts {
    fn from(line: &Line) -> Self {
        Self {
            class: line.class.clone(),
            label: line.label.clone(),
            count: line.count,
            seconds: line.nanoseconds as f64 / 1e9,
        }
    }
}

impl Stats {
    /// Reads the file; nothing if it is not there or not of this form.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let stats: Self = serde_json::from_str(&text)
            .inspect_err(|error| tracing::warn!("{}: {error}", path.display()))
            .ok()?;
        (stats.schema == SCHEMA).then_some(stats)
    }
}
