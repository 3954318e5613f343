//! What is asked of a guest for each kind of task, and what its answers mean.

use crate::collected::Collected;
use crate::report::model::Fact;
use crate::runner::{Errand, Outcome, Root, Said, Window};
use crate::workload::{BOOT, Better, Measure, Need, Workload};
use std::time::Duration;

/// Longest boot that is waited for.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Windows shorter than this say little about clocks, in seconds.
const CLOCK_WINDOW: f64 = 0.1;

/// What a guest is given beside its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Equipment {
    pub(crate) disk: bool,
    pub(crate) network: bool,
}

impl Equipment {
    /// What the workloads need.
    pub(crate) fn needed(workloads: &[&Workload]) -> Self {
        let need = |need| workloads.iter().any(|workload| workload.needs == need);
        Self { disk: need(Need::Disk), network: need(Need::Network) }
    }

    /// A little less, for a technique that has no such device; `None` if there is nothing to leave out.
    pub(crate) fn less(self) -> Option<Self> {
        match self {
            Self { network: true, .. } => Some(Self { network: false, ..self }),
            Self { disk: true, .. } => Some(Self { disk: false, ..self }),
            _ => None,
        }
    }
}

/// How the workloads are run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) repetitions: u32,
    pub(crate) repetition: Duration,
}

/// A boot in which the guest runs the workloads, one after the other.
pub(crate) fn workloads(
    workloads: &[&Workload],
    pace: Pace,
    equipment: Equipment,
    (memory, cpus): (u64, u32),
    facts: bool,
) -> Errand {
    let mut command = "echo ready".to_owned();
    let names: Vec<&str> =
        workloads.iter().map(|workload| workload.name).filter(|&name| name != BOOT).collect();
    if !names.is_empty() {
        let milliseconds = pace.repetition.as_millis();
        let names = names.join(" ");
        command
            .push_str(&format!("; ambos-workload run {} {milliseconds} {names}", pace.repetitions));
    }
    if facts {
        command.push_str("; ambos-facts");
    }
    let work = pace.repetition * (pace.repetitions + 2) * names.len() as u32;
    Errand {
        command,
        root: Root::Workloads,
        memory,
        cpus,
        disk: equipment.disk,
        network: equipment.network,
        forward: None,
        limit: BOOT_LIMIT + work * 4,
    }
}

/// Takes what a guest said of one workload.
pub(crate) fn take(workload: &Workload, outcome: &Outcome, collected: &mut Collected) {
    let window = outcome.windows.iter().find(|window| window.name == workload.name);
    let results = results(workload.name, outcome);
    let rates = |scale: &dyn Fn(f64, f64) -> f64| {
        results.iter().map(|&(operations, seconds)| scale(operations, seconds)).reduce(|a, b| {
            // The best repetition is the one that other work of the host disturbed least.
            match workload.better() {
                Better::Lower => a.min(b),
                Better::Higher => a.max(b),
            }
        })
    };
    let value = match workload.measure {
        Measure::Boot => outcome.boot,
        Measure::Time => rates(&|operations, seconds| seconds / operations),
        Measure::Bytes => rates(&|operations, seconds| operations / seconds),
        Measure::Processor => window
            .filter(|window| window.seconds > 0.0 && !results.is_empty())
            .map(|window| window.cpu_seconds / window.seconds),
    };
    if let Some(window) = window {
        let operations = match workload.measure {
            Measure::Boot => 1.0,
            _ => results.iter().map(|(operations, _)| operations).sum(),
        };
        collected.count(window, operations);
    }
    match value {
        Some(value) if value.is_finite() => collected.sample(value),
        _ => collected.fail(&reason(workload.name, outcome)),
    }
}

/// Operations and seconds of a workload's repetitions.
fn results(workload: &str, outcome: &Outcome) -> Vec<(f64, f64)> {
    let result = |said: &Said| match said {
        Said::Result { name, operations, nanoseconds }
            if name == workload && *operations > 0 && *nanoseconds > 0 =>
        {
            Some((*operations as f64, *nanoseconds as f64 / 1e9))
        }
        _ => None,
    };
    outcome.said.iter().filter_map(result).collect()
}

/// Why there is no value.
fn reason(workload: &str, outcome: &Outcome) -> String {
    let told = outcome.said.iter().find_map(|said| match said {
        Said::Skipped { name, reason } | Said::Failed { name, reason } if name == workload => {
            Some(reason.clone())
        }
        _ => None,
    });
    told.or_else(|| outcome.failure.clone())
        .unwrap_or_else(|| "the guest said nothing of it".to_owned())
}

/// How much faster the guest's clock went than the host's in each window that is long enough.
pub(crate) fn clock_drifts(outcome: &Outcome) -> Vec<f64> {
    let drift = |window: &Window| {
        let seconds: f64 = results(&window.name, outcome).iter().map(|(_, seconds)| seconds).sum();
        (window.seconds >= CLOCK_WINDOW && seconds > 0.0).then(|| seconds / window.seconds - 1.0)
    };
    outcome.windows.iter().filter_map(drift).collect()
}

/// What the guest said of itself.
pub(crate) fn facts(outcome: &Outcome) -> Vec<Fact> {
    let fact = |said: &Said| match said {
        Said::Fact { about, value } => Some(Fact { about: about.clone(), value: value.clone() }),
        _ => None,
    };
    outcome.said.iter().filter_map(fact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::find;

    fn result(name: &str, operations: u64, nanoseconds: u64) -> Said {
        Said::Result { name: name.to_owned(), operations, nanoseconds }
    }

    fn window(name: &str, seconds: f64, cpu_seconds: f64) -> Window {
        Window { name: name.to_owned(), seconds, cpu_seconds, ..Window::default() }
    }

    #[test]
    fn values_are_those_of_the_best_repetition() {
        let outcome = Outcome {
            boot: Some(2.5),
            said: vec![
                result("syscall", 1000, 1_000_000),
                result("syscall", 1000, 3_000_000),
                result("syscall", 1000, 2_000_000),
                result("disk-sequential", 1 << 20, 1_000_000_000),
                result("idle", 1, 500_000_000),
                Said::Skipped { name: "net-request".to_owned(), reason: "no network".to_owned() },
            ],
            windows: vec![window("idle", 0.5, 0.01), window("syscall", 0.0061, 0.006)],
            failure: Some("it crashed".to_owned()),
            ..Outcome::default()
        };
        let value = |name: &str| {
            let mut collected = Collected::default();
            take(find(name).unwrap(), &outcome, &mut collected);
            let cell = collected.cell();
            cell.median.ok_or(cell.failure.unwrap_or_default())
        };
        assert_eq!(value("syscall"), Ok(1e-6));
        assert_eq!(value("disk-sequential"), Ok(1_048_576.0));
        assert_eq!(value("idle"), Ok(0.02));
        assert_eq!(value("boot"), Ok(2.5));
        assert_eq!(value("net-request"), Err("no network".to_owned()));
        assert_eq!(value("timer"), Err("it crashed".to_owned()));
        // Only one window is long enough, and in it both clocks agree.
        assert_eq!(clock_drifts(&outcome), [0.0]);
    }

    #[test]
    fn the_command_names_the_workloads() {
        let chosen: Vec<&Workload> =
            ["boot", "timer", "disk-fsync"].map(|name| find(name).unwrap()).into();
        let equipment = Equipment::needed(&chosen);
        let pace = Pace { repetitions: 3, repetition: Duration::from_millis(50) };
        let errand = workloads(&chosen, pace, equipment, (512 << 20, 1), true);
        let command = "echo ready; ambos-workload run 3 50 timer disk-fsync; ambos-facts";
        assert_eq!(errand.command, command);
        assert!(errand.disk && !errand.network);
        assert_eq!(equipment.less(), Some(Equipment { disk: false, network: false }));
        assert_eq!(equipment.less().unwrap().less(), None);
    }
}
