//! What follows from the numbers: which column is better, why, and what was found beside speed.
//!
//! Every sentence is made of the numbers of this one comparison; none is fixed.

mod explain;
mod findings;
mod pairs;
mod verdict;

pub(crate) use pairs::judge;

use crate::report::Report;
use crate::runner::GuestFiles;

/// Draws all conclusions from what a report's cells and columns hold.
pub(crate) fn conclude(report: &mut Report, guest: &GuestFiles) {
    judge_rows(report);
    report.findings = findings::of(report, guest);
    report.verdict = verdict::of(report);
}

/// Compares the cells of every row and explains the differences.
fn judge_rows(report: &mut Report) {
    let names: Vec<String> = report.columns.iter().map(|column| column.name.clone()).collect();
    for row in &mut report.rows {
        judge(row, &names);
        row.because = explain::row(row, &names);
    }
}
