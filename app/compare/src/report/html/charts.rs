//! The charts, as SVG inside the page.

use super::{Escaped, colour};
use crate::report::Report;
use crate::report::model::{Counts, Pair, PairOutcome, Per, Row};
use crate::report::numbers::{digits, percent};
use std::fmt::{self, Write};

const WIDTH: f64 = 760.0;
const LABELS: f64 = 130.0;
const RIGHT: f64 = 20.0;
const LINE: f64 = 15.0;
/// Farthest that gains are drawn.
const FARTHEST: f64 = 64.0;

/// The words for each class that [`Counts::served`] counts.
const WORDS: [&str; 6] = [
    "privileged instructions",
    "port I/O",
    "memory-mapped I/O",
    "hypercalls",
    "exceptions",
    "interrupts",
];

/// A column's place, and how many interceptions of each class it has.
type Bar = (usize, [f64; 6]);

/// How much better each column is than the first, with intervals, on a logarithmic axis.
pub(super) fn gains(page: &mut String, report: &Report) -> fmt::Result {
    let bases = base_pairs(report);
    if bases.is_empty() {
        return Ok(());
    }
    let farthest = bases
        .iter()
        .flat_map(|(_, pairs)| pairs)
        .flat_map(|(_, pair)| [pair.interval.low, pair.interval.high, pair.gain])
        .filter(|gain| gain.is_finite() && *gain > 0.0)
        .map(|gain| gain.max(1.0 / gain))
        .fold(1.5, f64::max)
        .min(FARTHEST);
    let middle = f64::midpoint(LABELS, WIDTH - RIGHT);
    let half = (WIDTH - RIGHT - LABELS) / 2.0 - 10.0;
    let place = |gain: f64| middle + half * (gain.max(1e-9).ln() / farthest.ln()).clamp(-1.0, 1.0);
    let lines: usize = bases.iter().map(|(_, pairs)| pairs.len()).sum();
    let height = 30.0 + LINE * lines as f64 + 6.0 * bases.len() as f64;
    write!(
        page,
        "<section><h2>How much better</h2>\n<figure><figcaption>Right of the line: better than {}. Bars are \
         95 % intervals; hollow points are no significant difference.</figcaption>\n<svg viewBox=\"0 0 \
         {WIDTH} {height}\" role=\"img\" aria-label=\"gains by workload\">\n",
        Escaped(&base_name(report))
    )?;
    for tick in [1.0 / 32.0, 1.0 / 8.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0] {
        if tick > farthest || 1.0 / tick > farthest {
            continue;
        }
        let x = place(tick);
        let class = if (tick - 1.0_f64).abs() < 1e-9 { "one" } else { "grid" };
        let text =
            if tick < 1.0 { format!("1/{:.0} ×", 1.0 / tick) } else { format!("{tick:.0} ×") };
        writeln!(
            page,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"18\" y2=\"{:.1}\"/><text \
             class=\"soft\" x=\"{x:.1}\" y=\"12\" text-anchor=\"middle\">{text}</text>",
            height - 4.0
        )?;
    }
    let mut y = 28.0;
    for (row, pairs) in &bases {
        let centre = y + LINE * (pairs.len() as f64 - 1.0) / 2.0 + 4.0;
        writeln!(page, "<text x=\"0\" y=\"{centre:.1}\">{}</text>", Escaped(&row.name))?;
        for (column, pair) in pairs {
            point(page, y, *column, pair, &place)?;
            y += LINE;
        }
        y += 6.0;
    }
    page.write_str("</svg>\n")?;
    let columns: Vec<usize> = (0..report.columns.len()).collect();
    column_legend(page, report, &columns[1..])?;
    page.write_str("</figure></section>\n")
}

/// The first column's name, which the others are compared with.
fn base_name(report: &Report) -> String {
    let base = report.columns.first().map(|column| column.name.as_str()).unwrap_or_default();
    // Of two reports, each column is compared with that of the same technique.
    base.split_once('@').map_or_else(|| base.to_owned(), |(_, file)| file.to_owned())
}

/// For each row, the pairs to draw, with the place of the column that is compared.
fn base_pairs(report: &Report) -> Vec<(&Row, Vec<(usize, &Pair)>)> {
    let two_reports = report.columns.iter().all(|column| column.name.contains('@'));
    let first = report.columns.first().map(|column| column.name.as_str());
    let drawn = |pair: &Pair| two_reports || Some(pair.base.as_str()) == first;
    let rows = report.rows.iter().map(|row| {
        let pairs = row.pairs.iter().filter(|pair| drawn(pair));
        let pairs = pairs.filter_map(|pair| Some((report.column(&pair.other)?, pair)));
        (row, pairs.collect::<Vec<_>>())
    });
    rows.filter(|(_, pairs)| !pairs.is_empty()).collect()
}

fn point(
    page: &mut String,
    y: f64,
    column: usize,
    pair: &Pair,
    place: &impl Fn(f64) -> f64,
) -> fmt::Result {
    let significant = matches!(pair.outcome, PairOutcome::Better | PairOutcome::Worse);
    let colour = colour(column);
    let fill = if significant { colour.as_str() } else { "var(--card)" };
    writeln!(
        page,
        "<g><title>{}: {} times as good as {} ({} to {}), p = {:.3}</title><line x1=\"{:.1}\" \
         x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"3\" \
         stroke-linecap=\"round\" opacity=\"0.55\"/><circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4.5\" \
         fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"2\"/></g>",
        Escaped(&pair.other),
        digits(pair.gain),
        Escaped(&pair.base),
        digits(pair.interval.low),
        digits(pair.interval.high),
        pair.p,
        place(pair.interval.low),
        place(pair.interval.high),
        place(pair.gain)
    )
}

fn column_legend(page: &mut String, report: &Report, columns: &[usize]) -> fmt::Result {
    page.write_str("<ul class=\"legend\">")?;
    for &place in columns {
        let name = Escaped(&report.columns[place].name);
        write!(page, "<li><i style=\"--key: {}\"></i>{name}</li>", colour(place))?;
    }
    page.write_str("</ul>\n")
}

/// What has to be intercepted for one operation, by class: bars relative to the row's longest.
pub(super) fn interceptions(page: &mut String, report: &Report) -> fmt::Result {
    let rows: Vec<(&Row, Vec<Bar>)> = report
        .rows
        .iter()
        .map(|row| {
            let columns = row.cells.iter().enumerate();
            let bars = columns.filter_map(|(place, cell)| {
                Some((place, by_class(cell.counts.as_ref()?, row.per())?))
            });
            (row, bars.collect())
        })
        .filter(|(_, bars): &(_, Vec<Bar>)| !bars.is_empty())
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let lines: usize = rows.iter().map(|(_, bars)| bars.len()).sum();
    let height = 10.0 + LINE * lines as f64 + 8.0 * rows.len() as f64;
    let (start, room) = (LABELS + 62.0, WIDTH - LABELS - 62.0 - 90.0);
    write!(
        page,
        "<section><h2>Interceptions</h2>\n<figure><figcaption>How many there are for one \
         operation, one boot, or one MiB moved. Bars are relative to the longest of each workload.</figcaption>\n<svg viewBox=\"0 0 \
         {WIDTH} {height}\" role=\"img\" aria-label=\"interceptions by class\">\n"
    )?;
    let mut y = 8.0;
    for (row, bars) in &rows {
        let total = |parts: &[f64; 6]| parts.iter().sum::<f64>();
        let most = bars.iter().map(|(_, parts)| total(parts)).fold(0.0, f64::max);
        writeln!(
            page,
            "<text x=\"0\" y=\"{:.1}\">{}</text>",
            y + LINE * bars.len() as f64 / 2.0 + 3.0,
            Escaped(&row.name)
        )?;
        for (column, parts) in bars {
            write!(
                page,
                "<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"10\">{}</text>",
                start - 6.0,
                y + 10.0,
                Escaped(&report.columns[*column].name)
            )?;
            let mut x = start;
            for (class, part) in parts.iter().enumerate() {
                let width = if most > 0.0 { part / most * room } else { 0.0 };
                if width > 0.05 {
                    let share = percent(part / total(parts).max(f64::MIN_POSITIVE));
                    write!(
                        page,
                        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"11\" \
                         fill=\"var(--k{class})\"><title>{}: {} {}, {share}</title></rect>",
                        WORDS[class],
                        digits(*part),
                        row.per().name
                    )?;
                }
                x += width;
            }
            writeln!(
                page,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\">{}</text>",
                x + 5.0,
                y + 10.0,
                digits(total(parts))
            )?;
            y += LINE;
        }
        y += 8.0;
    }
    page.write_str("</svg>\n<ul class=\"legend\">")?;
    for (class, words) in WORDS.iter().enumerate() {
        write!(page, "<li><i style=\"--key: var(--k{class})\"></i>{words}</li>")?;
    }
    page.write_str("</ul>\n</figure></section>\n")
}

/// Interceptions, by class.
fn by_class(counts: &Counts, per: Per) -> Option<[f64; 6]> {
    (counts.operations > 0.0).then(|| counts.served().map(|count| per.scale(count, counts)))
}
