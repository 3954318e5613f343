//! A report for a terminal: a table with bars, then what follows from it.

use super::model::{Cell, FindingKind, PairOutcome, Report, Row};
use super::numbers::{bytes, percent, value};
use crate::workload::Better;
use console::{Alignment, Style, measure_text_width, pad_str};
use std::fmt::Write;

/// How wide a bar is at most.
const BAR: usize = 6;
/// Parts of a bar's last place.
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// How much to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Colours, as far as the terminal has them.
    pub colours: bool,
    /// Columns of the terminal.
    pub width: usize,
}

/// The report as text.
pub fn render(report: &Report, look: Look) -> String {
    let paint = Paint { colours: look.colours };
    let mut text = String::new();
    head(&mut text, report, paint);
    table(&mut text, report, paint);
    section(&mut text, paint, "Verdict", report.verdict.iter().cloned(), look.width);
    let because = report.rows.iter().filter(|row| !row.because.is_empty()).flat_map(|row| {
        row.because.iter().map(move |sentence| format!("{}: {sentence}", row.name))
    });
    section(&mut text, paint, "Why", because, look.width);
    section(
        &mut text,
        paint,
        "Cost",
        report.columns.iter().enumerate().filter_map(|(place, column)| {
            cost(report, place).map(|cost| format!("{}: {cost}", column.name))
        }),
        look.width,
    );
    for kind in [
        FindingKind::Compatibility,
        FindingKind::Modification,
        FindingKind::Portability,
        FindingKind::Measurement,
    ] {
        let findings = report.findings.iter().filter(|finding| finding.kind == kind);
        let lines = findings.map(|finding| format!("{}: {}", finding.column, finding.text));
        section(&mut text, paint, kind.title(), lines, look.width);
    }
    text
}

#[derive(Clone, Copy)]
struct Paint {
    colours: bool,
}

impl Paint {
    fn with(self, style: Style, text: &str) -> String {
        style.force_styling(self.colours).apply_to(text).to_string()
    }

    fn bold(self, text: &str) -> String {
        self.with(Style::new().bold(), text)
    }

    fn dim(self, text: &str) -> String {
        self.with(Style::new().dim(), text)
    }

    fn good(self, text: &str) -> String {
        self.with(Style::new().green(), text)
    }
}

fn head(text: &mut String, report: &Report, paint: Paint) {
    let guest = &report.guest;
    let release = guest.release.as_ref().map(|name| format!(", Linux {name}")).unwrap_or_default();
    let boots: Vec<String> =
        report.columns.iter().map(|column| format!("{} × {}", column.boots, column.name)).collect();
    let partial = if report.complete { "" } else { ", interrupted" };
    let line = format!(
        "{}{release}, {}, {} vCPU on {} × {}; {} in {:.0} s{partial}",
        guest.name,
        bytes(guest.memory as f64),
        guest.cpus,
        report.host.processors,
        report.host.processor,
        boots.join(", "),
        report.seconds
    );
    let _ = writeln!(text, "{}\n", paint.dim(&line));
}

fn table(text: &mut String, report: &Report, paint: Paint) {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut first = vec![paint.bold("workload")];
    first.extend(report.columns.iter().map(|column| paint.bold(&column.name)));
    first.push(paint.bold("best"));
    rows.push(first);
    for row in &report.rows {
        let mut cells = vec![row.name.clone()];
        for (column, cell) in report.columns.iter().zip(&row.cells) {
            let best = row.winner.as_ref() == Some(&column.name);
            cells.push(cell_text(row, cell, best, paint));
        }
        cells.push(conclusion(row, paint));
        rows.push(cells);
    }
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| measure_text_width(cell)).max().unwrap_or(0)
        })
        .collect();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| pad_str(cell, *width, Alignment::Left, None).into_owned())
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
}

/// A value, how sure it is, and a bar that is as long as the value is good.
fn cell_text(row: &Row, cell: &Cell, best: bool, paint: Paint) -> String {
    let Some(median) = cell.median else {
        return paint.dim("—");
    };
    let number = format!("{:>9}", value(median, &row.unit));
    let spread = match cell.interval {
        Some(interval) if cell.samples.len() > 1 => {
            format!("±{:<5}", percent(interval.relative(median)))
        }
        _ => " ".repeat(6),
    };
    let spread = paint.dim(&spread);
    let bar = bar(goodness(row, median));
    let (number, bar) =
        if best { (paint.good(&number), paint.good(&bar)) } else { (number, paint.dim(&bar)) };
    format!("{number} {spread} {bar}")
}

/// A value as a part of the best one of its row.
fn goodness(row: &Row, median: f64) -> f64 {
    let medians = row.cells.iter().filter_map(|cell| cell.median);
    match row.better {
        Better::Lower => medians.fold(f64::INFINITY, f64::min) / median,
        Better::Higher => median / medians.fold(0.0, f64::max),
    }
}

fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(EIGHTHS[eighths % 8]);
    }
    pad_str(&bar, BAR, Alignment::Left, None).into_owned()
}

/// What is best, and by how much at least against the next.
fn conclusion(row: &Row, paint: Paint) -> String {
    if let Some(winner) = &row.winner {
        let gains = row.pairs.iter().filter_map(|pair| {
            if pair.other == *winner {
                Some(pair.gain)
            } else if pair.base == *winner {
                Some(1.0 / pair.gain)
            } else {
                None
            }
        });
        let least = gains.fold(f64::INFINITY, f64::min);
        return paint.good(&format!("{winner}, {} ×", super::numbers::digits(least)));
    }
    let all =
        |outcome| !row.pairs.is_empty() && row.pairs.iter().all(|pair| pair.outcome == outcome);
    if row.pairs.is_empty() {
        let mut reasons: Vec<&str> =
            row.cells.iter().filter_map(|cell| cell.failure.as_deref()).collect();
        reasons.dedup();
        paint.dim(reasons.first().copied().unwrap_or("nothing to compare"))
    } else if all(PairOutcome::TooFew) {
        paint.dim("too few samples")
    } else if all(PairOutcome::Alike) {
        paint.dim("no significant difference")
    } else {
        let worse: Vec<String> = row
            .pairs
            .iter()
            .filter_map(|pair| match pair.outcome {
                PairOutcome::Better => Some(format!("{} > {}", pair.other, pair.base)),
                PairOutcome::Worse => Some(format!("{} > {}", pair.base, pair.other)),
                _ => None,
            })
            .collect();
        if worse.is_empty() { paint.dim("no significant difference") } else { worse.join(", ") }
    }
}

fn section(
    text: &mut String,
    paint: Paint,
    title: &str,
    lines: impl Iterator<Item = String>,
    width: usize,
) {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return;
    }
    let _ = writeln!(text, "\n{}", paint.bold(title));
    for line in lines {
        for (index, piece) in wrap(&line, width.saturating_sub(4).max(20)).iter().enumerate() {
            let _ = writeln!(text, "{}{piece}", if index == 0 { "  " } else { "    " });
        }
    }
}

/// What a column costs its host in memory and processor time.
fn cost(report: &Report, place: usize) -> Option<String> {
    let memory = report.columns.get(place)?.memory?;
    let counts = report.rows.iter().filter_map(|row| row.cells.get(place)?.counts.as_ref());
    let (busy, all) = counts
        .fold((0.0, 0.0), |(busy, all), counts| (busy + counts.cpu_seconds, all + counts.seconds));
    let busy = if all > 0.0 {
        format!("; its processor was busy {} of the measured time", percent(busy / all))
    } else {
        String::new()
    };
    Some(format!(
        "{} of guest memory touched, {} beside it{busy}",
        bytes(memory.guest as f64),
        bytes(memory.monitor as f64)
    ))
}

/// Breaks text between words.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |line| measure_text_width(line));
        if line > 0 && line + 1 + measure_text_width(word) > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_values_are_good() {
        assert_eq!(bar(1.0), "██████");
        assert_eq!(bar(0.5), "███   ");
        assert_eq!(bar(0.0), "      ");
        assert_eq!(bar(f64::NAN), "      ");
        assert_eq!(measure_text_width(&bar(0.77)), BAR);
    }

    #[test]
    fn long_lines_are_broken_between_words() {
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrap("aaaaaaaaaa b", 5), ["aaaaaaaaaa", "b"]);
    }
}
