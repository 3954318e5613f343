//! What all rows together come to.

use crate::report::Report;
use crate::report::model::{Pair, PairOutcome, Row};
use crate::report::numbers::digits;
use crate::statistics::{Interval, median, resample};
use crate::workload::{Better, Class};
use std::collections::BTreeMap;

/// The sentences of the verdict, the most important first.
pub(crate) fn of(report: &Report) -> Vec<String> {
    // Single operations are parts of the others, not workloads of anyone's.
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.class != Class::Operation).collect();
    let mut sentences = Vec::new();
    let mut names: Vec<(&str, &str)> = Vec::new();
    for pair in rows.iter().flat_map(|row| &row.pairs) {
        if !names.contains(&(&pair.base, &pair.other)) {
            names.push((&pair.base, &pair.other));
        }
    }
    for (base, other) in names {
        sentences.extend(overall(report, &rows, base, other));
    }
    sentences.extend(by_class(&rows));
    if sentences.is_empty() {
        sentences.push("there are not two columns with values to compare".to_owned());
    }
    sentences
}

/// How two columns compare over all rows that both have.
fn overall(report: &Report, rows: &[&Row], base: &str, other: &str) -> Option<String> {
    let pairs: Vec<(&Row, &Pair)> = rows
        .iter()
        .filter_map(|row| {
            let pair = row.pairs.iter().find(|pair| pair.base == base && pair.other == other)?;
            Some((*row, pair))
        })
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let count = |outcome| pairs.iter().filter(|(_, pair)| pair.outcome == outcome).count();
    let (better, worse) = (count(PairOutcome::Better), count(PairOutcome::Worse));
    let (alike, few) = (count(PairOutcome::Alike), count(PairOutcome::TooFew));
    let mut parts = Vec::new();
    let mut part = |number: usize, what: String| {
        if number > 0 {
            parts.push(format!("{what} in {number}"));
        }
    };
    part(better, format!("{other} better"));
    part(worse, format!("{base} better"));
    part(alike, "no significant difference".to_owned());
    part(few, "too few samples to tell".to_owned());
    let of = |number: usize| if number == 1 { "workload" } else { "workloads" };
    let detail = format!("over {} {}: {}", pairs.len(), of(pairs.len()), parts.join(", "));
    if few == pairs.len() {
        return Some(format!("{other} and {base}: too few samples for a verdict ({detail})"));
    }
    let (gain, interval) = mean_gain(report, &pairs, base, other)?;
    Some(if interval.contains(1.0) || better + worse == 0 {
        format!("{other} and {base}: no significant difference over all ({detail})")
    } else if gain >= 1.0 {
        format!("{} ({detail})", times(other, base, gain, interval))
    } else {
        let interval = Interval { low: 1.0 / interval.high, high: 1.0 / interval.low };
        format!("{} ({detail})", times(base, other, 1.0 / gain, interval))
    })
}

fn times(better: &str, worse: &str, gain: f64, interval: Interval) -> String {
    format!(
        "{better} is {} times as good as {worse} over all, between {} and {}",
        digits(gain),
        digits(interval.low),
        digits(interval.high)
    )
}

/// The geometric mean of the gains, and where it lies.
fn mean_gain(
    report: &Report,
    pairs: &[(&Row, &Pair)],
    base: &str,
    other: &str,
) -> Option<(f64, Interval)> {
    let (base, other) = (report.column(base)?, report.column(other)?);
    let sets: Vec<(&[f64], &[f64])> = pairs
        .iter()
        .map(|(row, _)| {
            let (base, other) = (&row.cells[base].samples, &row.cells[other].samples);
            match row.better {
                Better::Lower => (other.as_slice(), base.as_slice()),
                Better::Higher => (base.as_slice(), other.as_slice()),
            }
        })
        .collect();
    let mean = |values: &mut dyn Iterator<Item = Option<f64>>| {
        let logs: Vec<f64> = values.flatten().map(f64::ln).filter(|log| log.is_finite()).collect();
        (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
    };
    let gain =
        mean(&mut sets.iter().map(|(first, second)| Some(median(second)? / median(first)?)))?;
    let interval = resample(|draw| {
        let mut ratios = sets.iter().map(|(first, second)| Some(draw(second)? / draw(first)?));
        mean(&mut ratios).unwrap_or(1.0)
    })?;
    Some((gain, interval))
}

/// Which column is best for which class of workloads.
fn by_class(rows: &[&Row]) -> Vec<String> {
    let mut classes: BTreeMap<Class, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.pairs.is_empty()) {
        classes.entry(row.class).or_default().push(row);
    }
    let sentence = |(class, rows): (Class, Vec<&Row>)| {
        let mut wins: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for row in rows {
            wins.entry(row.winner.as_deref().unwrap_or("")).or_default().push(&row.name);
        }
        let mut parts: Vec<String> = Vec::new();
        for (winner, names) in wins.iter().rev() {
            let names = names.join(", ");
            parts.push(if winner.is_empty() {
                format!("no single best for {names}")
            } else {
                format!("{winner} is best for {names}")
            });
        }
        format!("{class}: {}", parts.join("; "))
    };
    classes.into_iter().map(sentence).collect()
}
