//! A guest under one of this monitor's techniques: `ambos run` in a process of its own.

use super::process::{Chunk, Process};
use super::stats::Stats;
use super::{Errand, Laboratory, Listener, Outcome, Reader, Root, follow};
use ambos_boot::inspect::Technique;
use std::process::Command;
use std::sync::atomic::AtomicBool;

/// Exit status of a guest that our probe ends: its value 0 at the debug-exit port.
const PROBE_DONE: i32 = 1;

pub(super) fn run(
    laboratory: &Laboratory,
    technique: Technique,
    errand: &Errand,
    interrupt: &AtomicBool,
    listener: Listener<'_>,
) -> Outcome {
    let stats = laboratory.scratch("stats.json");
    // What another run left must not be taken for this one's.
    let _ = std::fs::remove_file(&stats);
    let mut command = Command::new(&laboratory.monitor.program);
    command.args(["run", "-t", &technique.to_string(), "--engine", &laboratory.monitor.engine]);
    command.arg("--memory").arg(format!("{}K", errand.memory / 1024));
    command.arg("--stats").arg(&stats);
    if let Root::Probe(kernel) = &errand.root {
        command.arg("--debug-exit").arg("--kernel").arg(kernel);
    } else {
        command.args(["--cpus", &errand.cpus.to_string(), "--exec", &errand.command]);
        command.arg("--kernel").arg(&laboratory.guest.kernel);
        command.arg("--initrd").arg(laboratory.initrd(&errand.root));
        command.arg("--append").arg(laboratory.append(errand));
        if errand.disk {
            command.arg("--disk").arg(laboratory.disk());
        }
    }
    let network = match (errand.network, errand.forward) {
        (false, _) => "none".to_owned(),
        (true, None) => "user".to_owned(),
        (true, Some(forward)) => format!("user,forward={}:{}", forward.host, forward.guest),
    };
    command.args(["--net", &network]);
    let process = match Process::start(command) {
        Ok(process) => process,
        Err(error) => {
            let failure = format!("{}: {error}", laboratory.monitor.program.display());
            return Outcome { failure: Some(failure), ..Outcome::default() };
        }
    };
    let (mut outcome, ended) = follow(process, &mut Plain, errand.limit, interrupt, listener);
    let probed = matches!(errand.root, Root::Probe(_))
        && ended.is_some_and(|ended| ended.status.code() == Some(PROBE_DONE))
        && !outcome.said.is_empty();
    if probed {
        outcome.failure = None;
    }
    if let Some(stats) = Stats::read(&stats) {
        outcome.own_seconds = Some(stats.seconds);
        outcome.tsc_hz = Some(stats.tsc_hz).filter(|&hz| hz > 0);
        outcome.memory = Some(stats.memory);
        outcome.windows = stats.windows;
        outcome.unserved = stats.unserved;
    }
    outcome
}

/// The output is the guest's already.
struct Plain;

impl Reader for Plain {
    fn feed(&mut self, chunk: &Chunk, _process: &Process) -> Vec<u8> {
        chunk.bytes.clone()
    }
}
