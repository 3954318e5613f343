//! Each two columns of a row, and the best of all.

use crate::report::model::{Cell, Pair, PairOutcome, Row};
use crate::statistics::{self, Interval, Outcome};
use crate::workload::Better;

/// Compares every two columns of a row for whose places `wanted` holds, and finds the winner.
pub(super) fn judge(row: &mut Row, names: &[String], wanted: &impl Fn(usize, usize) -> bool) {
    row.pairs.clear();
    for other in 0..row.cells.len() {
        for base in (0..other).filter(|&base| wanted(base, other)) {
            let (Some(base_name), Some(other_name)) = (names.get(base), names.get(other)) else {
                continue;
            };
            row.pairs.extend(compare_cells(
                (base_name, &row.cells[base]),
                (other_name, &row.cells[other]),
                row.better,
            ));
        }
    }
    row.winner = winner(row, names);
}

/// Compares two cells; `None` if one has no values.
fn compare_cells(
    (base, base_cell): (&str, &Cell),
    (other, other_cell): (&str, &Cell),
    better: Better,
) -> Option<Pair> {
    // What is better is above one.
    let (first, second) = match better {
        Better::Higher => (base_cell, other_cell),
        Better::Lower => (other_cell, base_cell),
    };
    let comparison = statistics::compare(&first.samples, &second.samples)?;
    let Interval { low, high } = comparison.interval;
    let outcome = match comparison.outcome {
        Outcome::TooFew => PairOutcome::TooFew,
        Outcome::Alike => PairOutcome::Alike,
        Outcome::Different if comparison.ratio > 1.0 => PairOutcome::Better,
        Outcome::Different => PairOutcome::Worse,
    };
    Some(Pair {
        base: base.to_owned(),
        other: other.to_owned(),
        gain: comparison.ratio,
        interval: Interval { low, high },
        p: comparison.p,
        outcome,
    })
}

/// The column that is better than every other one that has values, if there is one.
fn winner(row: &Row, names: &[String]) -> Option<String> {
    let valued =
        |name: &&String| row.pairs.iter().any(|pair| pair.base == **name || pair.other == **name);
    let beats_all = |name: &&String| {
        row.pairs.iter().all(|pair| {
            (pair.base != **name || pair.outcome == PairOutcome::Worse)
                && (pair.other != **name || pair.outcome == PairOutcome::Better)
        })
    };
    names.iter().filter(valued).find(beats_all).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Class, Unit};

    fn row(better: Better, columns: &[&[f64]]) -> Row {
        let cells =
            columns.iter().map(|samples| Cell { samples: samples.to_vec(), ..Cell::default() });
        let mut row = Row {
            name: "x".into(),
            class: Class::Cpu,
            about: String::new(),
            unit: Unit::Seconds,
            better,
            cells: cells.collect(),
            pairs: Vec::new(),
            winner: None,
            because: Vec::new(),
        };
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        judge(&mut row, &names[..columns.len()], &|_, _| true);
        row
    }

    const SLOW: &[f64] = &[2.0, 2.1, 2.2, 1.9, 2.05];
    const FAST: &[f64] = &[1.0, 1.05, 1.1, 0.95, 1.02];

    #[test]
    fn lower_times_and_higher_rates_win() {
        let times = row(Better::Lower, &[SLOW, FAST]);
        assert_eq!(times.winner.as_deref(), Some("b"));
        assert!(times.pairs[0].gain > 1.9 && times.pairs[0].outcome == PairOutcome::Better);
        let rates = row(Better::Higher, &[SLOW, FAST]);
        assert_eq!(rates.winner.as_deref(), Some("a"));
        assert!(rates.pairs[0].gain < 0.6 && rates.pairs[0].outcome == PairOutcome::Worse);
    }

    #[test]
    fn there_may_be_no_winner() {
        assert_eq!(row(Better::Lower, &[FAST, FAST]).winner, None);
        assert_eq!(row(Better::Lower, &[SLOW, FAST, FAST]).winner, None);
        assert_eq!(row(Better::Lower, &[FAST]).winner, None);
        assert_eq!(row(Better::Lower, &[&[], FAST]).winner, None);
        assert_eq!(
            row(Better::Lower, &[&SLOW[..2], &FAST[..2]]).pairs[0].outcome,
            PairOutcome::TooFew
        );
        assert_eq!(row(Better::Lower, &[SLOW, &[], FAST]).winner.as_deref(), Some("c"));
    }
}
