//! What follows from the numbers: which column is better, why, and what was found beside speed.
//!
//! Every sentence is made of the numbers of this one comparison; none is fixed.

mod explain;
mod findings;
mod pairs;
mod verdict;

use pairs::judge;

use crate::report::Report;
use crate::runner::GuestFiles;

/// Draws all conclusions from what a report's cells and columns hold.
pub(crate) fn conclude(report: &mut Report, guest: &GuestFiles) {
    conclude_rows(report, |_, _| true);
    report.findings = findings::of(report, guest);
    report.verdict = verdict::of(report);
}

/// Draws the conclusions of two reports that were put side by side: only columns of one technique, which
/// lie beside each other, are compared.
pub(crate) fn conclude_merged(report: &mut Report) {
    conclude_rows(report, |base, other| base / 2 == other / 2);
    for row in &mut report.rows {
        // Columns of different techniques were not compared, so none is the best of all.
        if report.columns.len() > 2 {
            row.winner = None;
        }
    }
    report.verdict = verdict::of(report);
}

/// Compares those cells of every row for whose places `wanted` holds, and explains the differences.
pub(crate) fn conclude_rows(report: &mut Report, wanted: impl Fn(usize, usize) -> bool) {
    let names: Vec<String> = report.columns.iter().map(|column| column.name.clone()).collect();
    for row in &mut report.rows {
        judge(row, &names, &wanted);
        row.because = explain::row(row, &names);
    }
}
