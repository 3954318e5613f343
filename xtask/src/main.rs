//! Development tasks of the Ambos project: `cargo xtask TASK`. Each task is a module.

mod bench;
mod difftest;
mod footprint;
mod layers;
mod lints;
mod locks;
mod soak;
mod stress;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Development tasks of the Ambos project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Compare random instructions on an engine with the host's processor
    Difftest(difftest::Arguments),
    /// Check that dependencies between the crates point downwards only
    Layers,
    /// Measure speed and memory, beside QEMU's TCG where it is installed
    Bench(bench::Arguments),
    /// Check rules of the source that no compiler knows, and list where unsafe code is
    Lints,
    /// Run the tests of disks with much data and many killed monitors
    Soak(soak::Arguments),
    /// Run guests with two vCPUs that do everything at once, and check their results
    Stress(stress::Arguments),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Difftest(arguments) => difftest::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Layers => layers::run(),
        Task::Lints => lints::run(),
        Task::Soak(arguments) => soak::run(&arguments),
        Task::Stress(arguments) => stress::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}
