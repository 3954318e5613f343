//! Runs one guest once and gathers what it says and what its monitor counts.

mod ambos;
mod contender;
mod laboratory;
mod lines;
mod process;
mod qemu;
mod stats;

pub use contender::{Accelerator, Contender};
pub(crate) use laboratory::Laboratory;
pub use laboratory::{GuestFiles, Monitor};
pub(crate) use lines::Said;
pub use process::processor_seconds;
pub(crate) use process::{Next, Process};
pub(crate) use stats::{Unserved, Window};

use lines::Lines;
pub(crate) use stats::Memory as MemoryOf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// A guest to run: what is the same under every technique.
#[derive(Debug, Clone)]
pub(crate) struct Errand {
    /// The command that the guest's shell runs.
    pub(crate) command: String,
    /// What the guest's root file system holds.
    pub(crate) root: Root,
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) cpus: u32,
    pub(crate) disk: bool,
    pub(crate) network: bool,
    /// The guest's port that is to be reached from the host.
    pub(crate) forward: Option<Forward>,
    /// The longest it may take.
    pub(crate) limit: Duration,
}

/// A port of the host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) host: u16,
    pub(crate) guest: u16,
}

/// What a guest's root file system holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Root {
    /// The guest's own initramfs and the workload program.
    Workloads,
    /// An initramfs made for a service.
    Service(std::path::PathBuf),
    /// Nothing: a freestanding kernel.
    Probe(std::path::PathBuf),
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// From the start of the monitor to the guest's first program, by the stopwatch here.
    pub(crate) boot: Option<f64>,
    /// What the guest said, in order.
    pub(crate) said: Vec<Said>,
    /// What happened between marks.
    pub(crate) windows: Vec<Window>,
    pub(crate) memory: Option<MemoryOf>,
    pub(crate) unserved: Vec<Unserved>,
    /// Frequency of the time-stamp counter, in hertz.
    pub(crate) tsc_hz: Option<u64>,
    /// From the start of the monitor to its end, by the stopwatch here.
    pub(crate) seconds: f64,
    /// The same by the monitor.
    pub(crate) own_seconds: Option<f64>,
    /// Why it did not come to its proper end.
    pub(crate) failure: Option<String>,
    /// The user has asked for the end.
    pub(crate) interrupted: bool,
}

/// Called with what the guest says, as it says it. What it returns is the reason to end the guest.
pub(crate) type Listener<'a> = &'a mut dyn FnMut(&Said) -> Option<Stop>;

/// Why a guest is to be ended by the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It has done what it was for.
    Done,
    /// It is of no use any more.
    Failed(String),
}

/// What reads a monitor's output.
trait Reader {
    /// The guest's own output in what the monitor printed.
    fn feed(&mut self, chunk: &process::Chunk, process: &Process) -> Vec<u8>;
}

/// Runs the guest under one technique or monitor.
pub(crate) fn run(
    laboratory: &Laboratory,
    contender: Contender,
    errand: &Errand,
    interrupt: &AtomicBool,
    listener: Listener<'_>,
) -> Outcome {
    match contender {
        Contender::Technique(technique) => {
            ambos::run(laboratory, technique, errand, interrupt, listener)
        }
        Contender::Qemu(accelerator) => {
            qemu::run(laboratory, accelerator, errand, interrupt, listener)
        }
    }
}

/// Follows a process to its end and gathers what its guest says.
fn follow(
    process: Process,
    reader: &mut dyn Reader,
    limit: Duration,
    interrupt: &AtomicBool,
    listener: Listener<'_>,
) -> (Outcome, Option<process::Ended>) {
    let mut outcome = Outcome::default();
    let deadline = Instant::now() + limit;
    let mut lines = Lines::default();
    let mut stop = None;
    loop {
        match process.next(deadline, interrupt) {
            Next::End => break,
            Next::Deadline => {
                let reason = format!("it did not end within {} s", limit.as_secs());
                stop = Some(Stop::Failed(reason));
            }
            Next::Interrupted => outcome.interrupted = true,
            Next::Chunk(chunk) => {
                let output = reader.feed(&chunk, &process);
                for said in lines.feed(&output).iter().filter_map(|line| Said::parse(line)) {
                    if said == Said::Ready && outcome.boot.is_none() {
                        outcome.boot = Some((chunk.at - process.started).as_secs_f64());
                    }
                    stop = stop.or_else(|| listener(&said));
                    outcome.said.push(said);
                }
            }
        }
        if stop.is_some() || outcome.interrupted {
            process.terminate();
            break;
        }
    }
    match process.finish() {
        Ok(ended) => {
            outcome.seconds = ended.seconds;
            match stop {
                Some(Stop::Failed(reason)) => outcome.failure = Some(reason),
                Some(Stop::Done) => {}
                None if ended.status.success() || outcome.interrupted => {}
                None => outcome.failure = Some(reason(&ended)),
            }
            (outcome, Some(ended))
        }
        Err(error) => {
            outcome.failure = Some(format!("it could not be waited for: {error}"));
            (outcome, None)
        }
    }
}

/// Why a monitor failed, in its own words where it has some.
fn reason(ended: &process::Ended) -> String {
    let line = ended.errors.lines().rfind(|line| !line.trim().is_empty());
    match line {
        Some(line) => line.trim().strip_prefix("ambos: ").unwrap_or(line.trim()).to_owned(),
        None => format!("it ended with {}", ended.status),
    }
}
