//! `cargo xtask difftest`.

use ambos_difftest::{DifftestError, Options, Report};
use clap::ValueEnum;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What to test.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many cases
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Instead of single instructions, how many blocks of 2 to 12 of them
    #[arg(long, value_name = "NUMBER", conflicts_with = "cases")]
    blocks: Option<u64>,
    /// What the cases follow from; chosen by the clock if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Number of the first case
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// The engine
    #[arg(long, value_enum, default_value_t = Engine::Interpret)]
    engine: Engine,
    /// Only instructions with this mnemonic
    #[arg(long, value_name = "MNEMONIC")]
    filter: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Engine {
    Interpret,
    Translate,
}

/// Runs the test and prints what came of it.
pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    let seed = arguments.seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs())
    });
    println!("seed {seed}");
    let options = Options {
        cases: arguments.first
            ..arguments.first.saturating_add(arguments.blocks.unwrap_or(arguments.cases)),
        seed,
        filter: arguments.filter.clone(),
    };
    let start = Instant::now();
    let report = match arguments.engine {
        Engine::Interpret => interpret(&options, arguments.blocks.is_some()),
        Engine::Translate => translate(&options, arguments.blocks.is_some()),
    }
    .map_err(|error| error.to_string())?;
    println!("{report} ({:.1} s)", start.elapsed().as_secs_f64());
    if report.failed == 0 { Ok(()) } else { Err("the engine differs from the host".to_owned()) }
}

fn interpret(options: &Options, blocks: bool) -> Result<Report, DifftestError> {
    let make = |ram, attention| {
        ambos_interpret::Cpu::new(ram, attention).expect("the host gives executable memory")
    };
    if blocks {
        ambos_difftest::run_blocks(options, true, make)
    } else {
        ambos_difftest::run_single(options, make)
    }
}

fn translate(options: &Options, blocks: bool) -> Result<Report, DifftestError> {
    let make = |ram, attention| {
        // Code is translated the first time it runs.
        let eager = ambos_translate::Options { threshold: 0, ..Default::default() };
        ambos_translate::Translator::new(ram, attention, eager)
            .expect("the host has what translated code needs")
    };
    if blocks {
        ambos_difftest::run_blocks(options, false, make)
    } else {
        ambos_difftest::run_single(options, make)
    }
}
