//! The parts of the page that are text and tables.

use super::{Escaped, colour};
use crate::report::Report;
use crate::report::model::{Cell, FindingKind, PairOutcome, Row};
use crate::report::numbers::{bytes, digits, percent, value};
use crate::workload::Better;
use std::fmt::{self, Write};

/// Most kinds of interceptions that are listed for a workload.
const KINDS: usize = 12;

/// What the report is about.
pub(super) fn title(report: &Report) -> String {
    let names: Vec<&str> = report.columns.iter().map(|column| column.name.as_str()).collect();
    format!("Ambos: {}", names.join(", "))
}

pub(super) fn head(page: &mut String, report: &Report, title: &str) -> fmt::Result {
    let (guest, host) = (&report.guest, &report.host);
    let release = guest.release.as_ref().map(|name| format!(" with Linux {name}"));
    let partial = if report.complete { "" } else { " It was interrupted." };
    write!(
        page,
        "<header><div><h1>{}</h1>\n<p class=\"soft\">{}{}, {}, {} vCPU, on {} × {} (Linux {}, {}). \
         Begun {}, {:.0} s.{partial}</p></div>\n<button id=\"theme\" type=\"button\">dark/light</button></header>\n",
        Escaped(title),
        Escaped(&guest.name),
        Escaped(&release.unwrap_or_default()),
        bytes(guest.memory as f64),
        guest.cpus,
        host.processors,
        Escaped(&host.processor),
        Escaped(&host.kernel),
        bytes(host.memory as f64),
        Escaped(&report.began),
        report.seconds
    )
}

/// A section that is a list; nothing if there is nothing to list.
pub(super) fn list<'a>(
    page: &mut String,
    id: &str,
    title: &str,
    lines: impl Iterator<Item = &'a str>,
) -> fmt::Result {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return Ok(());
    }
    write!(page, "<section id=\"{id}\"><h2>{title}</h2>\n<ul>\n")?;
    for line in lines {
        writeln!(page, "<li>{}</li>", Escaped(line))?;
    }
    page.write_str("</ul></section>\n")
}

/// A card for each column.
pub(super) fn columns(page: &mut String, report: &Report) -> fmt::Result {
    page.write_str("<section id=\"columns\"><h2>What was compared</h2>\n<div class=\"cards\">\n")?;
    for (place, column) in report.columns.iter().enumerate() {
        let failed = if column.boots == 0 { " failed" } else { "" };
        write!(
            page,
            "<div class=\"card{failed}\" style=\"--column: {}\"><h3>{}</h3><p class=\"soft\">{}</p><p>{} \
             boots",
            colour(place),
            Escaped(&column.name),
            Escaped(&column.about),
            column.boots
        )?;
        if let Some(memory) = column.memory {
            write!(
                page,
                ", {} of guest memory touched, {} beside it",
                bytes(memory.guest as f64),
                bytes(memory.monitor as f64)
            )?;
        }
        page.write_str("</p>")?;
        if let Some(failure) = &column.failure {
            write!(page, "<p>{}</p>", Escaped(failure))?;
        }
        page.write_str("</div>\n")?;
    }
    page.write_str("</div></section>\n")
}

/// The table of values.
pub(super) fn results(page: &mut String, report: &Report) -> fmt::Result {
    page.write_str(
        "<section id=\"results\"><h2>Results</h2>\n<table><thead><tr>\
         <th><button type=\"button\">workload</button></th><th><button type=\"button\">class</button></th>",
    )?;
    for column in &report.columns {
        write!(page, "<th><button type=\"button\">{}</button></th>", Escaped(&column.name))?;
    }
    page.write_str("<th><button type=\"button\">best</button></th></tr></thead>\n<tbody>\n")?;
    for row in &report.rows {
        write!(
            page,
            "<tr><td><strong>{}</strong><small>{}</small></td><td data-label=\"class\">{}</td>",
            Escaped(&row.name),
            Escaped(&row.about),
            row.class
        )?;
        for (place, (column, cell)) in report.columns.iter().zip(&row.cells).enumerate() {
            let best = row.winner.as_ref() == Some(&column.name);
            result(page, row, (&column.name, column.boots > 0), place, cell, best)?;
        }
        let winner = row.winner.as_deref();
        writeln!(
            page,
            "<td data-label=\"best\" class=\"{}\" data-key=\"{}\">{}</td></tr>",
            if winner.is_some() { "winner" } else { "soft" },
            Escaped(winner.unwrap_or("")),
            Escaped(&winner.map_or_else(|| no_winner(row), str::to_owned))
        )?;
    }
    page.write_str("</tbody></table></section>\n")
}

fn no_winner(row: &Row) -> String {
    let every =
        |outcome| !row.pairs.is_empty() && row.pairs.iter().all(|pair| pair.outcome == outcome);
    if row.pairs.is_empty() {
        "nothing to compare"
    } else if every(PairOutcome::TooFew) {
        "too few samples"
    } else if every(PairOutcome::Alike) {
        "no significant difference"
    } else {
        "no single best"
    }
    .to_owned()
}

fn result(
    page: &mut String,
    row: &Row,
    (column, runs): (&str, bool),
    place: usize,
    cell: &Cell,
    best: bool,
) -> fmt::Result {
    let class = if best { " class=\"best\"" } else { "" };
    let (label, colour) = (Escaped(column), colour(place));
    let Some(median) = cell.median else {
        // Why a column did not run at all is on its card.
        let reason = cell.failure.as_deref().filter(|_| runs).unwrap_or("");
        return write!(
            page,
            "<td data-label=\"{label}\" data-key=\"\"><span class=\"soft\">— {}</span></td>",
            Escaped(reason)
        );
    };
    let range =
        cell.interval.filter(|_| cell.samples.len() > 1).map_or_else(String::new, |interval| {
            format!("{} to {}", value(interval.low, &row.unit), value(interval.high, &row.unit))
        });
    write!(
        page,
        "<td{class} data-label=\"{label}\" data-key=\"{median:e}\" style=\"--column: {colour}\"><span \
         class=\"value\">{}</span><small>{}</small><span class=\"track\"><span class=\"fill\" \
         style=\"width: {:.1}%\"></span></span></td>",
        Escaped(&value(median, &row.unit)),
        Escaped(&range),
        goodness(row, median) * 100.0
    )
}

/// A value as a part of the best one of its row.
fn goodness(row: &Row, median: f64) -> f64 {
    let medians = row.cells.iter().filter_map(|cell| cell.median);
    let part = match row.better {
        Better::Lower => medians.fold(f64::INFINITY, f64::min) / median,
        Better::Higher => median / medians.fold(0.0, f64::max),
    };
    if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 }
}

/// Why columns differ.
pub(super) fn because(page: &mut String, report: &Report) -> fmt::Result {
    if report.rows.iter().all(|row| row.because.is_empty()) {
        return Ok(());
    }
    page.write_str("<section id=\"because\"><h2>Why</h2>\n")?;
    for row in report.rows.iter().filter(|row| !row.because.is_empty()) {
        write!(page, "<details open><summary>{}</summary><ul>", Escaped(&row.name))?;
        for sentence in &row.because {
            write!(page, "<li>{}</li>", Escaped(sentence))?;
        }
        page.write_str("</ul></details>\n")?;
    }
    page.write_str("</section>\n")
}

/// What was found beside speed.
pub(super) fn findings(page: &mut String, report: &Report) -> fmt::Result {
    for kind in [
        FindingKind::Compatibility,
        FindingKind::Modification,
        FindingKind::Portability,
        FindingKind::Measurement,
    ] {
        let mut findings = report.findings.iter().filter(|finding| finding.kind == kind).peekable();
        if findings.peek().is_none() {
            continue;
        }
        write!(page, "<section><h2>{}</h2>\n<ul>\n", kind.title())?;
        for finding in findings {
            writeln!(
                page,
                "<li><span class=\"kind\">{}</span> {}</li>",
                Escaped(&finding.column),
                Escaped(&finding.text)
            )?;
        }
        page.write_str("</ul></section>\n")?;
    }
    Ok(())
}

/// Every count, folded away.
pub(super) fn counts(page: &mut String, report: &Report) -> fmt::Result {
    let counted = |row: &&Row| {
        row.cells
            .iter()
            .any(|cell| cell.counts.as_ref().is_some_and(|counts| counts.operations > 0.0))
    };
    let mut rows = report.rows.iter().filter(counted).peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    page.write_str("<section id=\"counts\"><h2>What the monitor did</h2>\n")?;
    for row in rows {
        writeln!(page, "<details><summary>{}</summary>", Escaped(&row.name))?;
        for (column, cell) in report.columns.iter().zip(&row.cells) {
            let Some(counts) = &cell.counts else { continue };
            let per = row.per();
            write!(
                page,
                "<p><strong>{}</strong> <span class=\"soft\">{} operations in {}, processor busy {}\
                 </span></p><table><tr><th>class</th><th>what</th><th>{}</th><th>per second\
                 </th><th>share of the time</th></tr>",
                Escaped(&column.name),
                digits(counts.operations),
                value(counts.seconds, &crate::workload::Unit::Seconds),
                percent(counts.cpu_seconds / counts.seconds.max(f64::MIN_POSITIVE)),
                per.name
            )?;
            for line in counts.intercepts.iter().take(KINDS) {
                let share = if line.seconds > 0.0 {
                    percent(line.seconds / counts.seconds.max(f64::MIN_POSITIVE))
                } else {
                    "only counted".to_owned()
                };
                write!(
                    page,
                    "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{share}</td></tr>",
                    Escaped(&line.class),
                    Escaped(&line.label),
                    digits(per.scale(line.count as f64, counts)),
                    digits(line.count as f64 / counts.seconds.max(f64::MIN_POSITIVE))
                )?;
            }
            page.write_str("</table>\n")?;
            for transfer in &counts.transfers {
                writeln!(
                    page,
                    "<p class=\"soft\">{}: {} to the guest, {} from it, {} requests</p>",
                    Escaped(&transfer.label),
                    bytes(transfer.to_guest as f64),
                    bytes(transfer.from_guest as f64),
                    transfer.requests
                )?;
            }
        }
        page.write_str("</details>\n")?;
    }
    page.write_str("</section>\n")
}

/// How it was measured.
pub(super) fn method(page: &mut String, report: &Report) -> fmt::Result {
    let settings = &report.settings;
    write!(
        page,
        "<section id=\"method\"><h2>Method</h2>\n<p class=\"soft\">Every column boots the same kernel and \
         user land, in alternating order, at most {} times and {:.0} s altogether. One boot gives one \
         sample: the best of {} repetitions of at least {}. Values are medians; ranges are bootstrap \
         intervals at {}. Two columns differ where an exact rank-sum test at {} says so and the interval \
         of their ratio excludes one. Counts come from the monitor's own accounting. Ambos {}, form {}.\
         </p></section>\n",
        settings.runs,
        settings.time_limit,
        settings.repetitions,
        value(settings.repetition_seconds, &crate::workload::Unit::Seconds),
        percent(1.0 - settings.level),
        percent(settings.level),
        Escaped(&settings.ambos),
        report.schema
    )
}
