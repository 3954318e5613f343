//! What a report holds. `--json` writes it as it is here, field by field.
//!
//! [`SCHEMA`] changes when a field changes its meaning or disappears; new fields may come at any time.
//! Times are seconds, memory is bytes, shares are parts of one.

use crate::statistics::Interval;
use crate::workload::{BOOT, Better, Class, Unit};
use serde::{Deserialize, Serialize};

/// The version of this form.
pub const SCHEMA: u32 = 1;

/// One comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it was begun, in UTC (RFC 3339).
    pub began: String,
    /// How long it took.
    pub seconds: f64,
    /// Whether all was measured that was to be; an interrupted comparison holds what there was.
    pub complete: bool,
    /// What was measured on.
    pub host: Host,
    /// What was measured.
    pub guest: Guest,
    /// How it was measured.
    pub settings: Settings,
    /// What is compared, in the order of `cells` and `pairs`.
    pub columns: Vec<Column>,
    /// The workloads.
    pub rows: Vec<Row>,
    /// What was found beside speed.
    pub findings: Vec<Finding>,
    /// What it comes to.
    pub verdict: Vec<String>,
}

/// The machine that did the work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its processor's name.
    pub processor: String,
    /// How many processors this process may use.
    pub processors: u64,
    /// Its kernel's release.
    pub kernel: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Its load (processes that want to run, mean of a minute) before the comparison began.
    pub load: f64,
}

/// The guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    /// Its name, or the kernel's file.
    pub name: String,
    /// The kernel's release, where it is known.
    pub release: Option<String>,
    /// Bytes of memory.
    pub memory: u64,
    /// Number of vCPUs.
    pub cpus: u32,
}

/// How it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Version of the monitor.
    pub ambos: String,
    /// How often each column was to be booted at most.
    pub runs: u32,
    /// How long it was to take at most.
    pub time_limit: f64,
    /// Repetitions within a boot, of which the best is the sample.
    pub repetitions: u32,
    /// How long one repetition takes at least.
    pub repetition_seconds: f64,
    /// The chance of a difference being reported where there is none.
    pub level: f64,
}

/// One technique, or another monitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name: `full`, `hybrid`, `para`, `qemu-tcg`, `qemu-kvm`; with `@` and a report's name where
    /// two reports are compared.
    pub name: String,
    /// What it is.
    pub about: String,
    /// How often it was booted to the end.
    pub boots: u32,
    /// Why there is nothing more of it.
    pub failure: Option<String>,
    /// What a boot costs in memory; medians.
    pub memory: Option<MemoryUse>,
    /// The guest's clock against the host's: how much faster it goes, as a part of one, in the window
    /// that the host disturbed least.
    pub clock_drift: Option<f64>,
    /// The monitor's own times against a stopwatch outside, likewise.
    pub stopwatch_drift: Option<f64>,
    /// What could not be served, with how often, in one boot.
    pub unserved: Vec<Unserved>,
    /// What the guest says of itself: drivers, clock source, processor.
    pub facts: Vec<Fact>,
}

/// Memory of the monitor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Guest RAM that was touched.
    pub guest: u64,
    /// Everything else.
    pub monitor: u64,
}

/// A kind of request that could not be served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unserved {
    /// What was asked for.
    pub what: String,
    /// How often.
    pub count: u64,
}

/// Something that the guest says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is about: `driver`, `clocksource`, `processor`.
    pub about: String,
    /// What it is.
    pub value: String,
}

/// One workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What it exercises.
    pub class: Class,
    /// What one operation is.
    pub about: String,
    /// The unit of all values.
    pub unit: Unit,
    /// Which values are the good ones.
    pub better: Better,
    /// What was measured, for each column.
    pub cells: Vec<Cell>,
    /// Each two columns that both have values.
    pub pairs: Vec<Pair>,
    /// The column that is better than every other, if one is.
    pub winner: Option<String>,
    /// Why, from the counts.
    pub because: Vec<String>,
}

/// What was measured of one workload in one column.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Cell {
    /// A value for each boot.
    pub samples: Vec<f64>,
    /// Their median.
    pub median: Option<f64>,
    /// Where the median of many more lies.
    pub interval: Option<Interval>,
    /// Why there are no values, or fewer.
    pub failure: Option<String>,
    /// What the monitor did for it; nothing where it does not tell.
    pub counts: Option<Counts>,
}

/// What the monitor did during a workload: sums over all boots.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Operations that were done.
    pub operations: f64,
    /// How long they took on the host's clock.
    pub seconds: f64,
    /// Processor time of the monitor.
    pub cpu_seconds: f64,
    /// Interceptions.
    pub intercepts: Vec<Intercepts>,
    /// What back-ends moved.
    pub transfers: Vec<Transfer>,
}

/// One kind of interception.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intercepts {
    /// Its class: `privileged`, `port`, `mmio`, `hypercall`, `exception`, `interrupt`, `engine`, `idle`.
    pub class: String,
    /// Which one.
    pub label: String,
    /// How often.
    pub count: u64,
    /// Host time spent on it; zero where it is only counted.
    pub seconds: f64,
}

/// What a back-end moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// Which one.
    pub label: String,
    /// Bytes that went to the guest.
    pub to_guest: u64,
    /// Bytes that came from the guest.
    pub from_guest: u64,
    /// Requests that moved them.
    pub requests: u64,
}

/// Two columns of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The one.
    pub base: String,
    /// The other.
    pub other: String,
    /// How many times as good the other is: above one it is better, whatever the unit.
    pub gain: f64,
    /// Where that lies.
    pub interval: Interval,
    /// The chance of such a difference where there is none.
    pub p: f64,
    /// What follows.
    pub outcome: PairOutcome,
}

/// What follows of two columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairOutcome {
    /// The other column is better.
    Better,
    /// The other column is worse.
    Worse,
    /// There is no significant difference.
    Alike,
    /// There are too few samples to tell.
    TooFew,
}

/// Classes of what the monitor had to do on the guest's behalf, in the order in which they are shown.
const SERVED: [&str; 6] = ["privileged", "port", "mmio", "hypercall", "exception", "interrupt"];
/// The instruction by which a paravirtualized kernel makes a hypercall.
const SYSTEM_CALL: &str = "SYSCALL/SYSENTER";

impl Counts {
    /// How many interceptions there are of each class of [`SERVED`]. A hypercall is one, not also the
    /// instruction that makes it.
    pub(crate) fn served(&self) -> [f64; 6] {
        let sum = |class: &str, label: Option<&str>| {
            let lines = self.intercepts.iter().filter(|line| line.class == class);
            let lines = lines.filter(|line| label.is_none_or(|label| line.label == label));
            lines.map(|line| line.count as f64).sum::<f64>()
        };
        let mut counts = SERVED.map(|class| sum(class, None));
        let hypercalls = sum("hypercall", None);
        counts[0] -= hypercalls.min(sum("privileged", Some(SYSTEM_CALL)));
        counts
    }
}

/// What counts are related to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Per {
    /// So many operations.
    pub(crate) operations: f64,
    /// In words.
    pub(crate) name: &'static str,
}

impl Per {
    /// A sum over all operations as what it is for so many.
    pub(crate) fn scale(&self, value: f64, counts: &Counts) -> f64 {
        value * self.operations / counts.operations.max(1.0)
    }
}

impl Row {
    /// What this row's counts are related to.
    pub(crate) fn per(&self) -> Per {
        match self.unit {
            Unit::BytesPerSecond => Per { operations: 1_048_576.0, name: "per MiB" },
            _ if self.name == BOOT => Per { operations: 1.0, name: "per boot" },
            _ => Per { operations: 1.0, name: "per operation" },
        }
    }
}

/// Something found beside speed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The column it is about.
    pub column: String,
    /// What kind it is.
    pub kind: FindingKind,
    /// What was found.
    pub text: String,
}

/// Kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingKind {
    /// Whether the guest runs, and what it was denied.
    Compatibility,
    /// What the guest must have, or must have been changed for.
    Modification,
    /// What binds the guest to this monitor or this hardware.
    Portability,
    /// Whether the numbers can be trusted.
    Measurement,
}

impl FindingKind {
    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Compatibility => "Compatibility",
            Self::Modification => "What the guest needs",
            Self::Portability => "Portability",
            Self::Measurement => "Measurement",
        }
    }
}

/// Why a file is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not JSON of this form.
    #[error("it is not a report of ambos compare")]
    Form(#[from] serde_json::Error),
    /// It is of another version.
    #[error("its form is version {0}, and this program reads version {SCHEMA}")]
    Version(u64),
}

impl Report {
    /// The JSON form.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Reads the JSON form.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if it is something else.
    pub fn from_json(text: &str) -> Result<Self, ReadError> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(version) if version != u64::from(SCHEMA) => Err(ReadError::Version(version)),
            _ => Ok(serde_json::from_value(value)?),
        }
    }

    /// Where a column is.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;

    #[test]
    fn the_json_form_is_read_back() {
        let report = testing::report();
        let again = Report::from_json(&report.to_json()).unwrap();
        assert_eq!((&again.guest, &again.findings), (&report.guest, &report.findings));
        assert_eq!(again.columns.len(), report.columns.len());
        for (row, other) in report.rows.iter().zip(&again.rows) {
            assert_eq!(
                (&row.name, &row.winner, &row.unit),
                (&other.name, &other.winner, &other.unit)
            );
            for (cell, other) in row.cells.iter().zip(&other.cells) {
                // Reading decimal digits may be off by the last bit.
                let close = |(a, b): (f64, f64)| (a / b - 1.0).abs() < 1e-12;
                assert!(cell.median.zip(other.median).is_none_or(close));
                assert_eq!(cell.samples.len(), other.samples.len());
            }
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let other = testing::report().to_json().replacen("\"schema\": 1", "\"schema\": 9", 1);
        assert!(matches!(Report::from_json(&other), Err(ReadError::Version(9))));
        assert!(matches!(Report::from_json("{}"), Err(ReadError::Form(_))));
        assert!(matches!(Report::from_json("nonsense"), Err(ReadError::Form(_))));
    }

    /// Every field of the form is in its description.
    #[test]
    fn the_form_is_documented() {
        let text = include_str!("../../../../docs/compare.md");
        let value: serde_json::Value = serde_json::from_str(&testing::report().to_json()).unwrap();
        let check = |value: &serde_json::Value| {
            for field in value.as_object().unwrap().keys() {
                assert!(text.contains(&format!("`{field}`")), "{field}");
            }
        };
        check(&value);
        check(&value["columns"][0]);
        check(&value["rows"][0]);
        check(&value["rows"][0]["cells"][0]);
        check(&value["rows"][0]["cells"][0]["counts"]);
        check(&value["rows"][0]["pairs"][0]);
        check(&value["findings"][0]);
    }
}
