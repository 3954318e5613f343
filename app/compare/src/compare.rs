//! The comparison itself: boots the contenders again and again, and makes a report of what comes out.

use crate::analysis;
use crate::campaign::{Bounds, order};
use crate::collected::Collected;
use crate::errands::{self, Equipment, Pace};
use crate::error::CompareError;
use crate::report::model::{
    Column, Fact, Guest, Host, MemoryUse, Report, Row, SCHEMA, Settings, Unserved,
};
use crate::report::numbers;
use crate::runner::{self, Contender, GuestFiles, Laboratory, Monitor, Outcome, Said};
use crate::service::{self, Service, measure};
use crate::statistics::{LEVEL, median};
use crate::workload::{Measure, Unit, Workload};
use crate::{Progress, guest_programs, host, operations, rows};
use ambos_guest::TerminalProgress;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Failures in a row after which a contender is not tried again.
const PATIENCE: u32 = 2;
/// What the task of the single operations is called.
const OPERATIONS_TASK: &str = "operations";

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
    /// Whether single privileged operations are timed, too.
    pub operations: bool,
    /// Services of the user's own.
    pub services: Vec<Service>,
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

/// What is done in one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Task {
    /// All built-in workloads.
    Workloads,
    /// Single operations, by the probe in this file.
    Operations(PathBuf),
    /// One service, by its place, with its root file system.
    Service(usize, PathBuf),
}

/// What has been seen of one contender at one task.
#[derive(Debug, Clone, Default)]
struct Attempts {
    /// Failures in a row.
    failures: u32,
    /// How long a boot took last.
    last: Duration,
}

/// What has been seen of one contender.
struct Contestant {
    contender: Contender,
    equipment: Equipment,
    /// For each task.
    attempts: Vec<Attempts>,
    boots: u32,
    failure: Option<String>,
    memory: Vec<runner::MemoryOf>,
    clock: Vec<f64>,
    stopwatch: Vec<f64>,
    unserved: Vec<Unserved>,
    facts: Vec<Fact>,
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
    host: Host,
    tasks: Vec<Task>,
    contestants: Vec<Contestant>,
    /// The rows of the report, still without cells: the workloads, the services, the
    /// operations.
    rows: Vec<Row>,
    /// For each row, for each contender.
    collected: Vec<Vec<Collected>>,
}

impl<'a> Comparison<'a> {
    fn new(
        options: &'a Options,
        progress: &'a Progress,
        interrupt: &'a AtomicBool,
    ) -> Result<Self, CompareError> {
        if options.workloads.is_empty() && options.services.is_empty() && !options.operations {
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
        let rows: Vec<Row> = options
            .workloads
            .iter()
            .map(|workload| rows::of_workload(workload))
            .chain(options.services.iter().map(rows::of_service))
            .chain(operations::rows().filter(|_| options.operations))
            .collect();
        let mut comparison = Self {
            collected: vec![vec![Collected::default(); options.contenders.len()]; rows.len()],
            rows,
            options,
            progress,
            interrupt,
            laboratory,
            began: host::now(),
            started: Instant::now(),
            host: host::describe(),
            tasks: Vec::new(),
            contestants: Vec::new(),
        };
        comparison.prepare()?;
        let attempts = vec![Attempts::default(); comparison.tasks.len()];
        comparison.contestants = options
            .contenders
            .iter()
            .map(|&contender| Contestant::new(contender, equipment, attempts.clone()))
            .collect();
        Ok(comparison)
    }

    /// Makes what the tasks need. A service that cannot be made is told in its row.
    fn prepare(&mut self) -> Result<(), CompareError> {
        if !self.options.workloads.is_empty() {
            self.tasks.push(Task::Workloads);
        }
        for (index, service) in self.options.services.iter().enumerate() {
            let made = service::prepare(service, &TerminalProgress::new())
                .map_err(|error| error.to_string())
                .and_then(|archive| {
                    let name = format!("initrd-{}", service.name);
                    let made = self.laboratory.service_initrd(&name, &archive);
                    made.map_err(|error| error.to_string())
                });
            match made {
                Ok(initrd) => self.tasks.push(Task::Service(index, initrd)),
                Err(reason) => {
                    self.progress.note(&format!("{} cannot be measured: {reason}", service.name));
                    let row = &mut self.collected[self.options.workloads.len() + index];
                    row.iter_mut().for_each(|collected| collected.fail(&reason));
                }
            }
        }
        if self.options.operations {
            let kernel = self.laboratory.scratch("probe");
            std::fs::write(&kernel, guest_programs::PROBE).map_err(CompareError::Prepare)?;
            self.tasks.push(Task::Operations(kernel));
        }
        Ok(())
    }

    /// Runs all rounds; `false` if the user ended them.
    fn run(&mut self) -> bool {
        let bounds = Bounds {
            runs: self.options.runs,
            least: self.options.least_runs,
            time_limit: self.options.time_limit,
        };
        for round in 1.. {
            let order = order(round, self.contestants.len());
            for task in 0..self.tasks.len() {
                for &index in &order {
                    let attempts = &self.contestants[index].attempts[task];
                    if attempts.failures >= PATIENCE {
                        continue;
                    }
                    if !bounds.allow(round, self.started.elapsed(), attempts.last) {
                        return true;
                    }
                    self.boot(round, task, index);
                    if self.interrupt.load(Ordering::Relaxed) {
                        return false;
                    }
                }
            }
            let attempts = self.contestants.iter().flat_map(|one| &one.attempts);
            let alive = attempts.into_iter().any(|attempts| attempts.failures < PATIENCE);
            let uncertainties = self.collected.iter().flatten().filter_map(Collected::uncertainty);
            if !alive || bounds.enough(round, uncertainties) {
                break;
            }
        }
        true
    }

    /// Boots one contender once for one task.
    fn boot(&mut self, round: u32, task: usize, index: usize) {
        let column = self.contestants[index].contender.name();
        let begun = Instant::now();
        let (name, outcome) = match &self.tasks[task] {
            Task::Workloads => {
                self.progress.boot(round, &column, "workloads");
                let outcome = self.workloads(index);
                if !outcome.interrupted {
                    for (workload, row) in self.options.workloads.iter().zip(&mut self.collected) {
                        errands::take(workload, &outcome, &mut row[index]);
                    }
                }
                ("workloads", outcome)
            }
            Task::Service(place, initrd) => {
                let (place, service) = (*place, &self.options.services[*place]);
                self.progress.boot(round, &column, &service.name);
                let (outcome, load) = self.service(service, initrd.clone(), index);
                if !outcome.interrupted {
                    let row = &mut self.collected[self.options.workloads.len() + place];
                    measure::take(service, &outcome, &load, &mut row[index]);
                }
                (service.name.as_str(), outcome)
            }
            Task::Operations(kernel) => {
                self.progress.boot(round, &column, OPERATIONS_TASK);
                let errand = operations::errand(kernel.clone());
                let contender = self.contestants[index].contender;
                let outcome =
                    runner::run(&self.laboratory, contender, &errand, self.interrupt, &mut |_| {
                        None
                    });
                let first = self.options.workloads.len() + self.options.services.len();
                if !outcome.interrupted {
                    for ((name, _), row) in
                        operations::OPERATIONS.iter().zip(&mut self.collected[first..])
                    {
                        operations::take(name, &outcome, &mut row[index]);
                    }
                }
                (OPERATIONS_TASK, outcome)
            }
        };
        if outcome.interrupted {
            return;
        }
        let known = self.contestants[index].attempts[task].failures > 0;
        if outcome.boot.is_none() && outcome.failure.is_some() && !known {
            let reason = outcome.failure.clone().unwrap_or_default();
            self.progress.note(&format!("{column} does not run: {reason}"));
        }
        self.progress.ended(round, &column, name, outcome.seconds);
        let took = begun.elapsed();
        if matches!(self.tasks[task], Task::Operations(_)) {
            // The probe is no boot of the guest.
            self.contestants[index].attempt(&outcome, task, took);
        } else {
            self.contestants[index].take(&outcome, task, took);
        }
    }

    /// Boots the workloads; with fewer devices if the technique lacks some.
    fn workloads(&mut self, index: usize) -> Outcome {
        loop {
            let outcome = self.workloads_with(index);
            // A technique that lacks a device fails before the guest's first program.
            match self.contestants[index].equipment.less() {
                Some(less) if outcome.boot.is_none() && !outcome.interrupted => {
                    tracing::info!("trying with fewer devices: {:?}", outcome.failure);
                    self.contestants[index].equipment = less;
                }
                _ => return outcome,
            }
        }
    }

    fn workloads_with(&self, index: usize) -> Outcome {
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

    fn service(
        &self,
        service: &Service,
        initrd: PathBuf,
        index: usize,
    ) -> (Outcome, measure::HostLoad) {
        let mut load = measure::HostLoad::default();
        let (memory, cpus) = (self.options.memory, self.options.cpus);
        let errand = match measure::errand(service, initrd, memory, cpus) {
            Ok(errand) => errand,
            Err(error) => {
                let failure = Some(format!("the host has no free port: {error}"));
                return (Outcome { failure, ..Outcome::default() }, load);
            }
        };
        let contender = self.contestants[index].contender;
        let mut listener = |said: &Said| {
            if let Said::Time { nanoseconds, .. } = said {
                let seconds = *nanoseconds as f64 / 1e9;
                self.progress.measured(&service.name, &numbers::value(seconds, &Unit::Seconds));
            }
            load.listen(service, &errand, said, self.interrupt)
        };
        let outcome =
            runner::run(&self.laboratory, contender, &errand, self.interrupt, &mut listener);
        (outcome, load)
    }

    fn report(&self, complete: bool) -> Report {
        let rows = self.rows.iter().zip(&self.collected).map(|(row, collected)| Row {
            cells: collected.iter().map(Collected::cell).collect(),
            ..row.clone()
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
            columns: self.contestants.iter().map(Contestant::column).collect(),
            findings: Vec::new(),
            verdict: Vec::new(),
        };
        analysis::conclude(&mut report, &self.laboratory.guest);
        report
    }
}

impl Contestant {
    fn new(contender: Contender, equipment: Equipment, attempts: Vec<Attempts>) -> Self {
        Self {
            contender,
            equipment,
            attempts,
            boots: 0,
            failure: None,
            memory: Vec::new(),
            clock: Vec::new(),
            stopwatch: Vec::new(),
            unserved: Vec::new(),
            facts: Vec::new(),
        }
    }

    /// Takes how an attempt at a task went.
    fn attempt(&mut self, outcome: &Outcome, task: usize, took: Duration) {
        let attempts = &mut self.attempts[task];
        attempts.last = took;
        attempts.failures = if outcome.failure.is_some() { attempts.failures + 1 } else { 0 };
    }

    /// Takes what one boot tells of the contender, whatever the workloads say.
    fn take(&mut self, outcome: &Outcome, task: usize, took: Duration) {
        self.attempt(outcome, task, took);
        match &outcome.failure {
            Some(reason) => self.failure = Some(reason.clone()),
            None => self.boots += 1,
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
            // Whatever disturbs a window makes it longer for the host: the best one tells of the clock.
            clock_drift: self.clock.iter().copied().reduce(f64::max),
            stopwatch_drift: median(&self.stopwatch),
            unserved: self.unserved.clone(),
            facts: self.facts.clone(),
        }
    }
}
