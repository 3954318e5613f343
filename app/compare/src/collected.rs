//! Collects what boots give, column by column and row by row.

use crate::report::model::{Cell, Counts, Intercepts};
use crate::runner::Window;
use crate::statistics;
use std::collections::BTreeMap;

/// Samples and counts of one row in one column.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collected {
    samples: Vec<f64>,
    failure: Option<String>,
    operations: f64,
    seconds: f64,
    cpu_seconds: f64,
    /// Whether the monitor counts.
    counted: bool,
    intercepts: BTreeMap<(String, String), (u64, f64)>,
    transfers: BTreeMap<String, [u64; 3]>,
}

impl Collected {
    /// Takes the value of one boot.
    pub(crate) fn sample(&mut self, value: f64) {
        self.samples.push(value);
        self.failure = None;
    }

    /// Takes the reason why a boot gave no value. The first one counts: what follows may follow from it.
    pub(crate) fn fail(&mut self, reason: &str) {
        self.failure.get_or_insert_with(|| reason.to_owned());
    }

    /// Takes what the monitor did for so many operations.
    pub(crate) fn count(&mut self, window: &Window, operations: f64) {
        self.operations += operations;
        self.seconds += window.seconds;
        self.cpu_seconds += window.cpu_seconds;
        self.counted |= window.counted;
        for line in &window.intercepts {
            let line = Intercepts::from(line);
            let sum = self.intercepts.entry((line.class, line.label)).or_default();
            sum.0 += line.count;
            sum.1 += line.seconds;
        }
        for line in &window.transfers {
            let sum = self.transfers.entry(line.label.clone()).or_default();
            for (sum, value) in sum.iter_mut().zip([line.to_guest, line.from_guest, line.requests])
            {
                *sum += value;
            }
        }
    }

    /// How sure the median is: half the width of its interval, as a part of it.
    pub(crate) fn uncertainty(&self) -> Option<f64> {
        let interval = statistics::median_interval(&self.samples)?;
        Some(interval.relative(statistics::median(&self.samples)?))
    }

    /// As a cell of a report.
    pub(crate) fn cell(&self) -> Cell {
        let mut intercepts: Vec<Intercepts> = self
            .intercepts
            .iter()
            .map(|((class, label), &(count, seconds))| Intercepts {
                class: class.clone(),
                label: label.clone(),
                count,
                seconds,
            })
            .collect();
        intercepts.sort_by_key(|line| std::cmp::Reverse(line.count));
        let transfers = self.transfers.iter().map(|(label, &[to_guest, from_guest, requests])| {
            crate::report::model::Transfer { label: label.clone(), to_guest, from_guest, requests }
        });
        Cell {
            median: statistics::median(&self.samples),
            interval: statistics::median_interval(&self.samples),
            samples: self.samples.clone(),
            failure: self.failure.clone(),
            counts: (self.seconds > 0.0 && self.counted).then(|| Counts {
                operations: self.operations,
                seconds: self.seconds,
                cpu_seconds: self.cpu_seconds,
                intercepts,
                transfers: transfers.collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_reasons_become_a_cell() {
        let mut collected = Collected::default();
        assert_eq!(collected.cell(), Cell::default());
        collected.fail("no disk");
        assert_eq!(collected.cell().failure.as_deref(), Some("no disk"));
        for value in [1.0, 3.0, 2.0] {
            collected.sample(value);
        }
        let cell = collected.cell();
        assert_eq!((cell.median, cell.failure), (Some(2.0), None));
        assert_eq!(cell.samples.len(), 3);
        assert!(collected.uncertainty().unwrap() > 0.0);
    }
}
