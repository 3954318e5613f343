//! The program that runs inside a guest of `ambos compare`: small workloads, each of which exercises
//! one thing that a technique of virtualization makes cheap or dear.
//!
//! It is static and needs neither a C library nor anything else of the guest but its kernel, so that
//! it goes with any Linux guest. It measures with the guest's monotonic clock and marks on the console
//! when a workload begins and ends, so that the monitor counts what it did in between and checks the
//! guest's clock against the host's.
//!
//! ```text
//! ambos-workload run REPETITIONS MILLISECONDS NAME...    the workloads, one after the other
//! ambos-workload mark open|close NAME                    marks a window on the console
//! ambos-workload time COMMAND [ARGUMENT]...              how long a command takes
//! ambos-workload jit ROUNDS                              code that two processes write and run, checked
//! ambos-workload vsock echo PORT                         sends back what one connection sends
//! ambos-workload vsock ask PORT BYTES                    has the host send back so many bytes
//! ```
//!
//! What it prints is lines of words: `result NAME OPERATIONS NANOSECONDS` for each repetition,
//! `failed NAME REASON...`, `skipped NAME REASON...`, `time NANOSECONDS STATUS`.

#![no_std]
#![no_main]

mod bench;
#[path = "../shared/c_library.rs"]
mod c_library;
mod compute;
mod disk;
mod jit;
mod mark;
mod memory;
mod network;
mod output;
mod process;
mod sys;
mod timer;
mod vdso;
mod vsock;

use bench::{Bench, Failure};

/// A workload by its name.
type Workload = fn(&mut Bench) -> Result<(), Failure>;

/// All workloads. Their names are the host's too.
const WORKLOADS: &[(&str, Workload)] = &[
    ("integer", compute::integer),
    ("float", compute::float),
    ("memory", memory::chase),
    ("syscall", process::syscall),
    ("fork-exec", process::fork_exec),
    ("context-switch", process::context_switch),
    ("wake-up", process::wake_up),
    ("page-fault", memory::page_fault),
    ("page-table", memory::page_table),
    ("timer", timer::latency),
    ("clock", timer::clock),
    ("disk-random", disk::random),
    ("disk-sequential", disk::sequential),
    ("disk-fsync", disk::fsync),
    ("net-throughput", network::throughput),
    ("net-request", network::request),
    ("idle", timer::idle),
];

/// The program: its arguments, the first one being its own name. Returns its exit status.
pub(crate) fn main(arguments: &[&str]) -> i32 {
    match arguments {
        [_, "run", repetitions, milliseconds, names @ ..] => {
            let (Ok(repetitions), Ok(milliseconds)) = (repetitions.parse(), milliseconds.parse())
            else {
                return usage();
            };
            for name in names {
                run(name, repetitions, milliseconds);
            }
            0
        }
        [_, "mark", "open", name] => {
            mark::open(name);
            0
        }
        [_, "mark", "close", name] => {
            mark::close(name);
            0
        }
        [_, "time", command @ ..] if !command.is_empty() => process::time(command),
        [_, "jit", rounds] => rounds.parse().map_or_else(|_| usage(), jit::check),
        [_, "vsock", "echo", port] => port.parse().map_or_else(|_| usage(), vsock::echo),
        [_, "vsock", "ask", port, bytes] => match (port.parse(), bytes.parse()) {
            (Ok(port), Ok(bytes)) => vsock::ask(port, bytes),
            _ => usage(),
        },
        // What `fork-exec` executes.
        [_, "nothing"] => 0,
        _ => usage(),
    }
}

fn usage() -> i32 {
    output::line(&["usage: ambos-workload run|mark|time|jit|vsock ..."]);
    2
}

/// Runs a workload in a process of its own, so that one that dies takes nothing with it.
fn run(name: &str, repetitions: u32, milliseconds: u64) {
    let Some((_, workload)) = WORKLOADS.iter().find(|(known, _)| *known == name) else {
        output::line(&["skipped ", name, " there is no such workload"]);
        return;
    };
    let status = process::in_child(|| {
        let mut bench = Bench::new(name, repetitions, milliseconds);
        match workload(&mut bench) {
            Ok(()) => 0,
            Err(Failure::Skipped(reason)) => {
                output::line(&["skipped ", name, " ", reason]);
                0
            }
            Err(Failure::System(action, error)) => {
                let mut digits = output::Digits::default();
                let number = digits.of(error.unsigned_abs() as u64);
                output::line(&["failed ", name, " ", action, ": error ", number]);
                0
            }
        }
    });
    if status != Ok(0) {
        output::line(&["failed ", name, " it died"]);
    }
}
