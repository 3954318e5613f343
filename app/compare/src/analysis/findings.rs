//! What was found beside speed: whether the guest was served, what it needs, what binds it, and whether
//! the numbers can be trusted.

use crate::report::Report;
use crate::report::model::{Column, Fact, Finding, FindingKind, PairOutcome};
use crate::report::numbers::{digits, percent};
use crate::runner::GuestFiles;
use ambos_boot::inspect::{self, OptionState, Technique, TechniqueReport};

/// Most kinds of unserved requests that are named.
const NAMED: usize = 4;
/// Clocks that differ by more than this are worth a warning.
const DRIFT: f64 = 0.02;
/// Features by which the levels of the x86-64 ABI are told apart: all of a level's must be there.
const LEVELS: [(&str, &[&str]); 3] = [
    ("x86-64-v2", &["cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"]),
    ("x86-64-v3", &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"]),
    ("x86-64-v4", &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
];

/// Everything that was found.
pub(super) fn of(report: &Report, guest: &GuestFiles) -> Vec<Finding> {
    let inspected = inspect::inspect(&guest.kernel).ok();
    let mut findings = Findings::default();
    for (index, column) in report.columns.iter().enumerate() {
        findings.column = column.name.clone();
        let technique = inspected.as_ref().and_then(|inspected| {
            inspected.techniques.iter().find(|one| one.technique.to_string() == column.name)
        });
        compatibility(&mut findings, report, index, column, technique);
        if let (Some(technique), Some(inspected)) = (technique, &inspected) {
            modification(&mut findings, column, technique, &inspected.xen_notes);
        }
        portability(&mut findings, column);
        measurement(&mut findings, column);
    }
    findings.column = "host".to_owned();
    host(&mut findings, report);
    findings.all
}

#[derive(Default)]
struct Findings {
    column: String,
    all: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, kind: FindingKind, text: String) {
        self.all.push(Finding { column: self.column.clone(), kind, text });
    }
}

fn compatibility(
    findings: &mut Findings,
    report: &Report,
    index: usize,
    column: &Column,
    technique: Option<&TechniqueReport>,
) {
    let kind = FindingKind::Compatibility;
    if let Some(reason) = &column.failure {
        let how = if column.boots == 0 { "does not run" } else { "failed at last" };
        findings.add(kind, format!("{how}: {reason}"));
    }
    if let Some(technique) = technique {
        for reason in &technique.reasons {
            findings.add(kind, format!("the kernel: {reason}"));
        }
    }
    if column.boots == 0 {
        return;
    }
    let mut missing: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in &report.rows {
        let Some(cell) = row.cells.get(index).filter(|cell| cell.samples.is_empty()) else {
            continue;
        };
        let reason = cell.failure.as_deref().unwrap_or("nothing was measured");
        match missing.iter_mut().find(|(other, _)| *other == reason) {
            Some((_, names)) => names.push(&row.name),
            None => missing.push((reason, vec![&row.name])),
        }
    }
    for (reason, names) in missing {
        findings.add(kind, format!("no value for {}: {reason}", names.join(", ")));
    }
    // Another monitor does not tell what it could not serve.
    if column.memory.is_none() {
        return;
    }
    let total: u64 = column.unserved.iter().map(|one| one.count).sum();
    if total == 0 {
        findings.add(kind, "every request of the guest was served".to_owned());
        return;
    }
    let mut unserved: Vec<_> = column.unserved.iter().collect();
    unserved.sort_by_key(|one| std::cmp::Reverse(one.count));
    let named: Vec<String> =
        unserved.iter().take(NAMED).map(|one| format!("{} × {}", one.count, one.what)).collect();
    let more = unserved.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    findings.add(
        kind,
        format!(
            "{} requests of {} kinds got the architectural answer because nothing serves them: {}{more}",
            digits(total as f64).trim_end_matches(".00").trim_end_matches(".0"),
            unserved.len(),
            named.join(", ")
        ),
    );
}

fn modification(
    findings: &mut Findings,
    column: &Column,
    technique: &TechniqueReport,
    notes: &[inspect::NoteReport],
) {
    let kind = FindingKind::Modification;
    let of = |state: OptionState| {
        let drivers = technique.drivers.iter().filter(|driver| driver.state == state);
        drivers.map(|driver| driver.option).collect::<Vec<_>>()
    };
    let (built_in, modules) = (of(OptionState::BuiltIn), of(OptionState::Module));
    let absent = of(OptionState::Absent);
    let mut parts = Vec::new();
    for (options, how) in [(built_in, "built in"), (modules, "as modules"), (absent, "absent")] {
        if !options.is_empty() {
            parts.push(format!("{how}: {}", options.join(", ")));
        }
    }
    if !parts.is_empty() {
        findings.add(kind, format!("options of the kernel that it rests on, {}", parts.join("; ")));
    }
    if technique.technique == Technique::Para && !notes.is_empty() {
        let names: Vec<&str> = notes.iter().map(|note| note.name).collect();
        findings.add(
            kind,
            format!(
                "the kernel is changed for the Xen ABI throughout (option XEN_PV) and says so in {} \
                 notes: {}",
                names.len(),
                names.join(", ")
            ),
        );
    }
    let drivers = drivers(column);
    if !drivers.is_empty() {
        let names: Vec<String> =
            drivers.iter().map(|(bus, name)| format!("{name} ({bus})")).collect();
        findings.add(kind, format!("drivers in use: {}", names.join(", ")));
    }
}

/// Buses and names of the drivers in use, but for those of no device of the monitor's.
fn drivers(column: &Column) -> Vec<(&str, &str)> {
    let driver = |fact: &'_ Fact| fact.about == "driver";
    let facts = column.facts.iter().filter(|fact| driver(fact));
    facts
        .filter_map(|fact| fact.value.split_once(' '))
        .filter(|(bus, _)| {
            matches!(*bus, "pci" | "virtio" | "xen" | "pnp" | "serio" | "xen-backend")
        })
        .collect()
}

fn portability(findings: &mut Findings, column: &Column) {
    let kind = FindingKind::Portability;
    let drivers = drivers(column);
    let named = |which: &dyn Fn(&str, &str) -> bool| -> Vec<&str> {
        let chosen = drivers.iter().filter(|(bus, name)| which(bus, name));
        chosen.map(|&(_, name)| name).collect()
    };
    let is_virtio = |bus: &str, name: &str| bus == "virtio" || name.starts_with("virtio");
    let virtio = named(&|bus, name| is_virtio(bus, name));
    let xen = named(&|bus, _| bus.starts_with("xen"));
    let generic = named(&|bus, name| !is_virtio(bus, name) && !bus.starts_with("xen"));
    for (names, text) in [
        (generic, "hardware that any PC and any PC emulator has"),
        (virtio, "virtio devices, which only virtual machines have: another host must offer them"),
        (xen, "devices of the Xen ABI: another host must be Xen or speak its ABI"),
    ] {
        if !names.is_empty() {
            let share = percent(names.len() as f64 / drivers.len().max(1) as f64);
            findings.add(
                kind,
                format!("{share} of its drivers in use ({}) are for {text}", names.join(", ")),
            );
        }
    }
    let fact = |about: &str| column.facts.iter().find(|fact| fact.about == about);
    if let Some(clock) = fact("clocksource") {
        let text = match clock.value.as_str() {
            "tsc" => {
                "which is the processor's: its frequency must be announced or measured anew elsewhere"
            }
            "kvm-clock" => {
                "which the monitor keeps: a host without that interface makes it choose another"
            }
            "xen" => "which the hypervisor keeps: only hosts of the Xen ABI have it",
            _ => "which any PC has",
        };
        findings.add(kind, format!("it tells the time by {}, {text}", clock.value));
    }
    if let Some(flags) = fact("flags") {
        let flags: Vec<&str> = flags.value.split(' ').collect();
        let has = |features: &[&str]| features.iter().all(|feature| flags.contains(feature));
        let level = LEVELS.iter().take_while(|(_, features)| has(features)).last();
        let level = level.map_or("x86-64", |(name, _)| name);
        let processor = fact("processor").map_or("", |fact| fact.value.as_str());
        findings.add(
            kind,
            format!(
                "it sees {} features of the host's processor ({processor}), {level}: what it has begun \
                 with them cannot go on where they are missing",
                flags.len()
            ),
        );
    }
}

fn measurement(findings: &mut Findings, column: &Column) {
    let kind = FindingKind::Measurement;
    let direction = |drift: f64| if drift < 0.0 { "less" } else { "more" };
    if let Some(drift) = column.clock_drift {
        let warning = if drift.abs() > DRIFT { "; its own times are off by as much" } else { "" };
        findings.add(
            kind,
            format!(
                "the guest's clock counted {} {} than the host's in the least disturbed window{warning}",
                percent(drift.abs()),
                direction(drift)
            ),
        );
    }
    if let Some(drift) = column.stopwatch_drift {
        findings.add(
            kind,
            format!(
                "the monitor's own time of a whole run is {} {} than a stopwatch outside tells",
                percent(drift.abs()),
                direction(drift)
            ),
        );
    }
}

fn host(findings: &mut Findings, report: &Report) {
    let kind = FindingKind::Measurement;
    let host = &report.host;
    if host.load > host.processors as f64 * 0.5 {
        findings.add(
            kind,
            format!(
                "the host was busy: {} processes wanted its {} processors before the comparison began",
                digits(host.load),
                host.processors
            ),
        );
    }
    let few = report.rows.iter().flat_map(|row| &row.pairs);
    let (few, all) = few.fold((0, 0), |(few, all), pair| {
        (few + u32::from(pair.outcome == PairOutcome::TooFew), all + 1)
    });
    if few > 0 {
        findings.add(
            kind,
            format!(
                "{few} of {all} comparisons have too few boots to tell a difference from chance: four of \
                 each column are needed; give more time or more runs"
            ),
        );
    }
    if !report.complete {
        findings.add(kind, "the comparison was interrupted: this is what there was".to_owned());
    }
}
