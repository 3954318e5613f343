//! Two reports side by side: two machines, or two versions of the monitor.

use super::Report;
use super::model::{Finding, FindingKind, Row};
use crate::analysis;

/// One of the reports.
#[derive(Debug, Clone)]
pub struct Named {
    /// What it is called: its file's name, as a rule.
    pub name: String,
    /// The report.
    pub report: Report,
}

/// Puts the columns of both reports that go by the same name side by side, row by row. Only columns of
/// the same technique are compared with each other.
///
/// The result says of host, guest and settings what the first one says; where the second one differs, a
/// finding says so.
pub fn merge(first: &Named, second: &Named) -> Report {
    let common: Vec<&str> = first
        .report
        .columns
        .iter()
        .map(|column| column.name.as_str())
        .filter(|name| second.report.column(name).is_some())
        .collect();
    let mut merged = first.report.clone();
    let names = names(first, second);
    merged.columns.clear();
    for name in &common {
        for (side, label) in [first, second].into_iter().zip(&names) {
            if let Some(place) = side.report.column(name) {
                let mut column = side.report.columns[place].clone();
                column.name = format!("{name}@{label}");
                merged.columns.push(column);
            }
        }
    }
    merged.rows = first
        .report
        .rows
        .iter()
        .filter_map(|row| merged_row(row, first, second, &common))
        .collect();
    merged.seconds = first.report.seconds + second.report.seconds;
    merged.complete = first.report.complete && second.report.complete;
    merged.findings = differences(first, second, &names);
    for (side, label) in [first, second].into_iter().zip(&names) {
        merged.findings.extend(side.report.findings.iter().map(|finding| Finding {
            column: format!("{}@{label}", finding.column),
            ..finding.clone()
        }));
    }
    analysis::conclude_merged(&mut merged);
    merged
}

/// The names of both, told apart if they are the same.
fn names(first: &Named, second: &Named) -> [String; 2] {
    if first.name == second.name {
        return [format!("{}-1", first.name), format!("{}-2", second.name)];
    }
    [first.name.clone(), second.name.clone()]
}

/// A row that both have, in the same unit.
fn merged_row(row: &Row, first: &Named, second: &Named, common: &[&str]) -> Option<Row> {
    let other = second.report.rows.iter().find(|other| {
        other.name == row.name && other.unit == row.unit && other.better == row.better
    })?;
    let mut merged = row.clone();
    merged.cells.clear();
    for name in common {
        merged.cells.push(row.cells.get(first.report.column(name)?)?.clone());
        merged.cells.push(other.cells.get(second.report.column(name)?)?.clone());
    }
    Some(merged)
}

/// What both reports differ in besides their values.
fn differences(first: &Named, second: &Named, names: &[String; 2]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut differ = |what: &str, one: String, other: String| {
        if one != other {
            findings.push(Finding {
                column: "both".to_owned(),
                kind: FindingKind::Measurement,
                text: format!("{what}: {one} in {}, {other} in {}", names[0], names[1]),
            });
        }
    };
    let (one, other) = (&first.report, &second.report);
    let version = |report: &Report| report.settings.ambos.clone();
    differ("version of Ambos", version(one), version(other));
    let host = |report: &Report| format!("{} × {}", report.host.processors, report.host.processor);
    differ("host", host(one), host(other));
    let guest = |report: &Report| {
        let guest = &report.guest;
        let release = guest.release.as_deref().unwrap_or("unknown release");
        format!("{} ({release}), {} vCPU, {} bytes", guest.name, guest.cpus, guest.memory)
    };
    differ("guest", guest(one), guest(other));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::PairOutcome;
    use crate::report::testing;

    #[test]
    fn columns_of_a_technique_come_side_by_side() {
        let first = Named { name: "old".to_owned(), report: testing::report() };
        let mut faster = testing::report();
        faster.host.processors = 64;
        for cell in &mut faster.rows[0].cells {
            cell.samples.iter_mut().for_each(|sample| *sample /= 3.0);
        }
        let second = Named { name: "new".to_owned(), report: faster };
        let merged = merge(&first, &second);
        let names: Vec<&str> = merged.columns.iter().map(|column| column.name.as_str()).collect();
        let expected = ["full@old", "full@new", "hybrid@old", "hybrid@new", "para@old", "para@new"];
        assert_eq!(names, expected);
        // Only the same technique is compared.
        let pairs = &merged.rows[0].pairs;
        assert_eq!(pairs.len(), 2);
        assert!(pairs.iter().all(|pair| pair.outcome == PairOutcome::Better && pair.gain > 2.5));
        assert!(merged.rows[1].pairs.iter().all(|pair| pair.outcome == PairOutcome::Alike));
        assert!(merged.findings[0].text.contains("64 × A Processor in new"));
        assert!(!merged.verdict.is_empty());
    }

    #[test]
    fn reports_of_one_name_are_told_apart() {
        let one = Named { name: "a".to_owned(), report: testing::report() };
        let merged = merge(&one, &one.clone());
        assert_eq!(merged.columns[1].name, "full@a-2");
        assert!(
            merged
                .rows
                .iter()
                .flat_map(|row| &row.pairs)
                .all(|pair| { pair.outcome == PairOutcome::Alike })
        );
    }
}
