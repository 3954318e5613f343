//! Why one column is better than another, as far as the monitor's counts tell.

use crate::report::model::{Counts, Intercepts, PairOutcome, Per, Row};
use crate::report::numbers::{bytes, digits, percent};
use crate::workload::Better;
use std::collections::BTreeMap;

/// Differences below this part are not worth a word.
const WORTH: f64 = 0.1;
/// Most kinds of interceptions that are named.
const NAMED: usize = 2;
/// The class in which the vCPU sleeps.
const IDLE: &str = "idle";

/// Sentences about the differences in a row that are significant.
pub(crate) fn row(row: &Row, names: &[String]) -> Vec<String> {
    let counts = |name: &str| {
        let index = names.iter().position(|other| other == name)?;
        row.cells.get(index)?.counts.as_ref()
    };
    let unit = row.per();
    let best = best(row, names);
    let mut sentences = Vec::new();
    for pair in &row.pairs {
        let (better, worse) = match pair.outcome {
            PairOutcome::Better => (&pair.other, &pair.base),
            PairOutcome::Worse => (&pair.base, &pair.other),
            PairOutcome::Alike | PairOutcome::TooFew => continue,
        };
        // Every other column is compared with the best one.
        if best.is_some_and(|best| best != better) {
            continue;
        }
        if let (Some(less), Some(more)) = (counts(better), counts(worse)) {
            sentences.extend(pair_of((better, less), (worse, more), &unit));
        }
    }
    sentences
}

/// The column with the best median of those that are compared with more than one other.
fn best<'a>(row: &Row, names: &'a [String]) -> Option<&'a String> {
    let compared = |name: &String| {
        row.pairs.iter().filter(|pair| pair.base == *name || pair.other == *name).count() > 1
    };
    let candidates =
        names.iter().zip(&row.cells).filter(|(name, cell)| compared(name) && cell.counts.is_some());
    let medians = candidates.filter_map(|(name, cell)| Some((name, cell.median?)));
    let best = medians.reduce(|one, other| {
        let better = match row.better {
            Better::Lower => other.1 < one.1,
            Better::Higher => other.1 > one.1,
        };
        if better { other } else { one }
    });
    best.map(|(name, _)| name)
}

/// Sentences about one better and one worse column.
fn pair_of(
    (better, less): (&str, &Counts),
    (worse, more): (&str, &Counts),
    per: &Per,
) -> Vec<String> {
    let mut sentences = Vec::new();
    sentences.extend(total(better, less, worse, more, per));
    let extra = per.scale(more.seconds, more) - per.scale(less.seconds, less);
    if extra > 0.0 {
        sentences.extend(shares(less, worse, more, per, extra));
    }
    sentences.extend(counted(better, less, worse, more, per));
    sentences.extend(moved(better, less, worse, more, per));
    sentences.extend(busy(better, less, worse, more));
    if sentences.is_empty() {
        sentences.push(format!(
            "{better} and {worse} have the same counts within {}: they differ in what is not counted, \
             the guest's own code",
            percent(WORTH)
        ));
    }
    sentences
}

/// How many interceptions there are altogether.
fn total(better: &str, less: &Counts, worse: &str, more: &Counts, per: &Per) -> Option<String> {
    let served = |counts: &Counts| per.scale(counts.served().iter().sum(), counts);
    let (few, many) = (served(less), served(more));
    let share = 1.0 - few / many.max(f64::MIN_POSITIVE);
    if share.abs() < WORTH || few.max(many) <= 0.0 {
        return None;
    }
    let (amount, claim, word) = if share > 0.0 {
        (share, "needs", "fewer")
    } else {
        let amount = few / many.max(f64::MIN_POSITIVE) - 1.0;
        (amount, "is better although it needs", "more")
    };
    Some(format!(
        "{better} {claim} {} {word} interceptions {} than {worse}: {} instead of {}",
        percent(amount),
        per.name,
        digits(few),
        digits(many)
    ))
}

type Kinds<'a> = BTreeMap<(&'a str, &'a str), (&'a Intercepts, f64, f64)>;

/// Counts and seconds per operation, by kind.
fn kinds<'a>(counts: &'a Counts, per: &Per) -> Kinds<'a> {
    let lines = counts.intercepts.iter().filter(|line| line.class != IDLE);
    lines
        .map(|line| {
            let count = per.scale(line.count as f64, counts);
            let seconds = per.scale(line.seconds, counts);
            ((line.class.as_str(), line.label.as_str()), (line, count, seconds))
        })
        .collect()
}

/// Which part of the extra time is spent on which kind of interception.
fn shares(less: &Counts, worse: &str, more: &Counts, per: &Per, extra: f64) -> Vec<String> {
    let (few, many) = (kinds(less, per), kinds(more, per));
    let mut parts: Vec<(f64, &Intercepts, f64)> = many
        .iter()
        .map(|(key, &(line, count, seconds))| {
            let before = few.get(key).map_or(0.0, |&(_, _, seconds)| seconds);
            ((seconds - before) / extra, line, count)
        })
        .filter(|(share, _, _)| *share >= WORTH)
        .collect();
    parts.sort_by(|a, b| b.0.total_cmp(&a.0));
    let sentence = |&(share, line, count): &(f64, &Intercepts, f64)| {
        format!(
            "{} of {worse}'s extra time is {} ({} {})",
            // Parts that overlap may come out at more than all there is.
            percent(share.min(1.0)),
            kind(line),
            digits(count),
            per.name
        )
    };
    parts.iter().take(NAMED).map(sentence).collect()
}

/// What kinds that are not timed differ most in number.
fn counted(better: &str, less: &Counts, worse: &str, more: &Counts, per: &Per) -> Vec<String> {
    let (few, many) = (kinds(less, per), kinds(more, per));
    let mut differences: Vec<(f64, &Intercepts, f64, f64)> = many
        .iter()
        .filter(|(_, (line, _, _))| line.seconds == 0.0)
        .map(|(key, &(line, count, _))| {
            let before = few.get(key).map_or(0.0, |&(_, count, _)| count);
            (count - before, line, before, count)
        })
        .filter(|(difference, _, before, count)| {
            *difference >= WORTH * before.max(*count) && *count >= 0.5
        })
        .collect();
    differences.sort_by(|a, b| b.0.total_cmp(&a.0));
    let sentence = |&(_, line, before, count): &(f64, &Intercepts, f64, f64)| {
        format!(
            "{}: {} {} under {worse}, {} under {better}",
            kind(line),
            digits(count),
            per.name,
            digits(before)
        )
    };
    differences.iter().take(NAMED).map(sentence).collect()
}

/// An interception in words.
fn kind(line: &Intercepts) -> String {
    match line.class.as_str() {
        "port" => format!("port I/O to the {}", line.label),
        "mmio" => format!("memory-mapped I/O to the {}", line.label),
        "exception" => format!("exceptions ({})", line.label),
        _ => line.label.clone(),
    }
}

/// Bytes through the back-ends.
fn moved(better: &str, less: &Counts, worse: &str, more: &Counts, per: &Per) -> Option<String> {
    let all = |counts: &Counts| {
        let bytes: u64 = counts.transfers.iter().map(|line| line.to_guest + line.from_guest).sum();
        per.scale(bytes as f64, counts)
    };
    let (few, many) = (all(less), all(more));
    let differs = (few - many).abs() >= WORTH * few.max(many) && few.max(many) >= 1.0;
    differs.then(|| {
        format!(
            "bytes moved {}: {} under {worse}, {} under {better}",
            per.name,
            bytes(many),
            bytes(few)
        )
    })
}

/// How busy the monitor's processor is.
fn busy(better: &str, less: &Counts, worse: &str, more: &Counts) -> Option<String> {
    let share = |counts: &Counts| counts.cpu_seconds / counts.seconds.max(f64::MIN_POSITIVE);
    let (one, other) = (share(less), share(more));
    ((one - other).abs() >= WORTH).then(|| {
        format!(
            "the monitor's processor is busy {} of the time under {worse}, {} under {better}",
            percent(other),
            percent(one)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(class: &str, label: &str, count: u64, seconds: f64) -> Intercepts {
        Intercepts { class: class.into(), label: label.into(), count, seconds }
    }

    fn counts(operations: f64, seconds: f64, intercepts: Vec<Intercepts>) -> Counts {
        Counts { operations, seconds, cpu_seconds: seconds, intercepts, transfers: Vec::new() }
    }

    const PER: Per = Per { operations: 1.0, name: "per operation" };

    #[test]
    fn sentences_come_from_the_numbers() {
        let full = counts(
            100.0,
            2.0,
            vec![
                line("port", "IDE controller", 2000, 0.61),
                line("privileged", "time-stamp counter read", 10_000, 0.0),
                line("idle", "idle", 10, 0.5),
            ],
        );
        let hybrid = counts(
            200.0,
            2.0,
            vec![
                line("mmio", "virtio disk", 200, 0.002),
                line("privileged", "time-stamp counter read", 1000, 0.0),
            ],
        );
        let sentences = pair_of(("hybrid", &hybrid), ("full", &full), &PER);
        let expected = [
            "hybrid needs 95 % fewer interceptions per operation than full: 6.00 instead of 120",
            "61 % of full's extra time is port I/O to the IDE controller (20.0 per operation)",
            "time-stamp counter read: 100 per operation under full, 5.00 under hybrid",
        ];
        assert_eq!(sentences, expected);
    }

    #[test]
    fn a_better_column_may_need_more() {
        let more = counts(1.0, 2.0, vec![line("privileged", "CPUID", 10, 0.0)]);
        let less = counts(1.0, 1.0, vec![line("hypercall", "iret", 15, 0.0)]);
        let sentences = pair_of(("para", &less), ("full", &more), &PER);
        let first = "para is better although it needs 50 % more interceptions per operation than \
                     full: 15.0 instead of 10.0";
        assert_eq!(sentences[0], first);
    }

    #[test]
    fn what_is_not_counted_is_said_to_be_so() {
        let one = counts(1.0, 2.0, vec![line("privileged", "CPUID", 10, 0.0)]);
        let mut other = one.clone();
        other.seconds = 1.0;
        other.cpu_seconds = 1.0;
        let sentences = pair_of(("a", &other), ("b", &one), &PER);
        assert_eq!(sentences.len(), 1);
        assert!(sentences[0].contains("the guest's own code"), "{sentences:?}");
    }
}
