//! The comparison itself: boots the contenders again and again, and makes a report of what comes out.

use crate::analysis;
use crate::campaign::{Bounds, order};
use crate::collected::Collected;
use crate::errands::{self, Equipment, Pace};
use crate::error::CompareError;
use crate::report::model::{Column, Guest, MemoryUse, Report, Row, SCHEMA, Settings, Unserved};
use crate::report::numbers;
use crate::runner::{self, Contender, GuestFiles, Laboratory, Monitor, Outcome, Said};
use crate::statistics::{LEVEL, median};
use crate::workload::{Measure, Workload};
use crate::{Progress, host};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Failures in a row after which a contender is not tried again.
const PATIENCE: u32 = 2;

/// What is to be compared, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The monitor whose techniques are compared.
    pub monitor: Monitor,
    /// The guest.
    pub guest: GuestFiles,
    /// Bytes of the guest's memory.
    pub memory: u64,
    /// Number of vCPUs.
    pub cpus: u32,
    /// The built-in workloads.
    pub workloads: Vec<&'static Workload>,
    /// What is compared.
    pub contenders: Vec<Contender>,
    /// Most rounds.
    pub runs: u32,
    /// Rounds before the result can be clear enough.
    pub least_runs: u32,
    /// How long it may take.
    pub time_limit: Duration,
    /// Repetitions within a boot.
    pub repetitions: u32,
    /// How long one takes at least.
    pub repetition: Duration,
}

/// What has been seen of one contender.
struct Contestant {
    contender: Contender,
    equipment: Equipment,
    boots: u32,
    failures: u32,
    failure: Option<String>,
    memory: Vec<runner::MemoryOf>,
    clock: Vec<f64>,
    stopwatch: Vec<f64>,
    unserved: Vec<Unserved>,
    facts: Vec<crate::report::model::Fact>,
    /// How long a boot took last.
    last: Duration,
}

/// Measures until it is enough.
///
/// A contender that cannot run, and a workload that fails, is told in the report; the rest goes on. If
/// `interrupt` becomes true, the report holds what there is.
///
/// # Errors
///
/// [`CompareError`] if nothing can be measured at all.
pub fn compare(
    options: &Options,
    progress: &Progress,
    interrupt: &AtomicBool,
) -> Result<Report, CompareError> {
    let mut comparison = Comparison::new(options, progress, interrupt)?;
    let complete = comparison.run();
    progress.done();
    Ok(comparison.report(complete))
}

struct Comparison<'a> {
    options: &'a Options,
    progress: &'a Progress,
    interrupt: &'a AtomicBool,
    laboratory: Laboratory,
    began: String,
    started: Instant,
    host: crate::report::model::Host,
    contestants: Vec<Contestant>,
    /// For each workload, for each contender.
    collected: Vec<Vec<Collected>>,
}

impl<'a> Comparison<'a> {
    fn new(
        options: &'a Options,
        progress: &'a Progress,
        interrupt: &'a AtomicBool,
    ) -> Result<Self, CompareError> {
        if options.workloads.is_empty() {
            return Err(CompareError::Nothing("there is no workload".to_owned()));
        }
        if options.contenders.is_empty() {
            return Err(CompareError::Nothing("there is no technique".to_owned()));
        }
        let equipment = Equipment::needed(&options.workloads);
        let laboratory = Laboratory::new(
            options.monitor.clone(),
            options.guest.clone(),
            equipment.disk,
            equipment.network,
        )
        .map_err(CompareError::Prepare)?;
        let contestants: Vec<Contestant> = options
            .contenders
            .iter()
            .map(|&contender| Contestant {
                contender,
                equipment,
                boots: 0,
                failures: 0,
                failure: None,
                memory: Vec::new(),
                clock: Vec::new(),
                stopwatch: Vec::new(),
                unserved: Vec::new(),
                facts: Vec::new(),
                last: Duration::ZERO,
            })
            .collect();
        Ok(Self {
            collected: vec![vec![Collected::default(); contestants.len()]; options.workloads.len()],
            options,
            progress,
            interrupt,
            laboratory,
            began: host::now(),
            started: Instant::now(),
            host: host::describe(),
            contestants,
        })
    }

    /// Runs all rounds; `false` if the user ended them.
    fn run(&mut self) -> bool {
        let bounds = Bounds {
            runs: self.options.runs,
            least: self.options.least_runs,
            time_limit: self.options.time_limit,
        };
        for round in 1.. {
            for index in order(round, self.contestants.len()) {
                if self.contestants[index].failures >= PATIENCE {
                    continue;
                }
                let expected = self.contestants[index].last;
                if !bounds.allow(round, self.started.elapsed(), expected) {
                    return true;
                }
                self.boot(round, index);
                if self.interrupt.load(Ordering::Relaxed) {
                    return false;
                }
            }
            let alive = self.contestants.iter().any(|one| one.failures < PATIENCE);
            let uncertainties = self.collected.iter().flatten().filter_map(Collected::uncertainty);
            if !alive || bounds.enough(round, uncertainties) {
                break;
            }
        }
        true
    }

    /// Boots one contender once.
    fn boot(&mut self, round: u32, index: usize) {
        let contender = self.contestants[index].contender;
        let (name, task) = (contender.name(), "workloads");
        let begun = Instant::now();
        let mut outcome;
        loop {
            self.progress.boot(round, &name, task);
            outcome = self.errand(index);
            let less = self.contestants[index].equipment.less();
            // A technique that lacks a device fails before the guest's first program.
            match less {
                Some(less) if outcome.boot.is_none() && !outcome.interrupted => {
                    self.contestants[index].equipment = less;
                    let reason = outcome.failure.clone().unwrap_or_default();
                    tracing::info!("{name}: trying with fewer devices: {reason}");
                }
                _ => break,
            }
        }
        if outcome.interrupted {
            return;
        }
        self.contestants[index].take(&outcome, begun.elapsed());
        if outcome.boot.is_none() {
            let reason = outcome.failure.clone().unwrap_or_default();
            self.progress.note(&format!("{name} does not run: {reason}"));
        }
        for (workload, row) in self.options.workloads.iter().zip(&mut self.collected) {
            errands::take(workload, &outcome, &mut row[index]);
        }
        self.progress.ended(round, &name, task, outcome.seconds);
    }

    fn errand(&self, index: usize) -> Outcome {
        let one = &self.contestants[index];
        let pace =
            Pace { repetitions: self.options.repetitions, repetition: self.options.repetition };
        let errand = errands::workloads(
            &self.options.workloads,
            pace,
            one.equipment,
            (self.options.memory, self.options.cpus),
            one.facts.is_empty(),
        );
        let mut listener = |said: &Said| {
            if let Said::Result { name, operations, nanoseconds } = said
                && let Some(workload) = crate::workload::find(name)
            {
                let (operations, seconds) = (*operations as f64, *nanoseconds as f64 / 1e9);
                let value = match workload.measure {
                    Measure::Bytes => operations / seconds,
                    _ => seconds / operations,
                };
                self.progress.measured(name, &numbers::value(value, &workload.unit()));
            }
            None
        };
        runner::run(&self.laboratory, one.contender, &errand, self.interrupt, &mut listener)
    }

    fn report(&self, complete: bool) -> Report {
        let columns: Vec<Column> = self.contestants.iter().map(Contestant::column).collect();
        let rows = self.options.workloads.iter().zip(&self.collected).map(|(workload, row)| Row {
            name: workload.name.to_owned(),
            class: workload.class,
            about: workload.about.to_owned(),
            unit: workload.unit(),
            better: workload.better(),
            cells: row.iter().map(Collected::cell).collect(),
            pairs: Vec::new(),
            winner: None,
            because: Vec::new(),
        });
        let mut report = Report {
            schema: SCHEMA,
            began: self.began.clone(),
            seconds: self.started.elapsed().as_secs_f64(),
            complete,
            host: self.host.clone(),
            guest: Guest {
                name: self.options.guest.name.clone(),
                release: self.options.guest.release.clone(),
                memory: self.options.memory,
                cpus: self.options.cpus,
            },
            settings: Settings {
                ambos: env!("CARGO_PKG_VERSION").to_owned(),
                runs: self.options.runs,
                time_limit: self.options.time_limit.as_secs_f64(),
                repetitions: self.options.repetitions,
                repetition_seconds: self.options.repetition.as_secs_f64(),
                level: LEVEL,
            },
            rows: rows.collect(),
            columns,
            findings: Vec::new(),
            verdict: Vec::new(),
        };
        analysis::conclude(&mut report, &self.options.guest);
        report
    }
}

impl Contestant {
    /// Takes what one boot tells of the contender, whatever the workloads say.
    fn take(&mut self, outcome: &Outcome, took: Duration) {
        self.last = took;
        match &outcome.failure {
            Some(reason) => {
                self.failure = Some(reason.clone());
                self.failures += 1;
            }
            None => {
                self.boots += 1;
                self.failures = 0;
                self.failure = None;
            }
        }
        self.memory.extend(outcome.memory);
        self.clock.extend(errands::clock_drifts(outcome));
        if let Some(own) = outcome.own_seconds
            && outcome.failure.is_none()
            && outcome.seconds > 0.0
        {
            self.stopwatch.push(own / outcome.seconds - 1.0);
        }
        if !outcome.unserved.is_empty() {
            let unserved = outcome.unserved.iter();
            let unserved =
                unserved.map(|one| Unserved { what: one.what.clone(), count: one.count });
            self.unserved = unserved.collect();
        }
        let facts = errands::facts(outcome);
        if !facts.is_empty() {
            self.facts = facts;
        }
    }

    fn column(&self) -> Column {
        let middle = |value: fn(&runner::MemoryOf) -> u64| {
            let values: Vec<f64> = self.memory.iter().map(|memory| value(memory) as f64).collect();
            median(&values).map(|bytes| bytes as u64)
        };
        let memory = middle(|memory| memory.guest).zip(middle(|memory| memory.monitor));
        Column {
            name: self.contender.name(),
            about: self.contender.about().to_owned(),
            boots: self.boots,
            failure: self.failure.clone(),
            memory: memory.map(|(guest, monitor)| MemoryUse { guest, monitor }),
            clock_drift: median(&self.clock),
            stopwatch_drift: median(&self.stopwatch),
            unserved: self.unserved.clone(),
            facts: self.facts.clone(),
        }
    }
}
