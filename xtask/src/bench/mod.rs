//! `cargo xtask bench`: speed and memory, beside QEMU's TCG on the same guests in the same run.
//!
//! Runs alternate between the monitors, so that a noisy host hits both; medians and spreads are
//! printed, and the ratio of the medians. QEMU is left out where it is not installed.

mod devices;
mod engine;
mod monitor;
mod samples;

pub(crate) use monitor::build;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often each measurement is repeated
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
}

/// A part of what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// A tight loop, and boots
    Engine,
    /// Disks and network adapters, with their bars
    Devices,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    let ambos = build()?;
    let qemu = monitor::qemu_is_there();
    if !qemu {
        println!("qemu-system-x86_64 is not installed: there is nothing to compare with");
    }
    let folder = std::env::temp_dir().join(format!("ambos-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| format!("cannot use {folder:?}: {error}"))?;
    let wanted = |part| arguments.only.is_none_or(|only| only == part);
    let runs = arguments.runs.max(1);
    let mut result = Ok(());
    if wanted(Part::Engine) {
        result = engine::measure(&ambos, qemu, &folder, runs);
    }
    if wanted(Part::Devices) {
        result = result.and_then(|()| devices::measure(&ambos, qemu, &folder, runs));
    }
    let _ = std::fs::remove_dir_all(&folder);
    result
}
