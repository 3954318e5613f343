//! The command line of Ambos: reads arguments, wires a machine to the terminal, and says how it went.
//!
//! Each subcommand is a module of [`commands`]. What they fail with is a [`Failure`], which is printed
//! here, on one line, and decides the exit status.

mod cli;
mod commands;
mod failure;
mod logging;
mod size;
mod terminal;

use clap::Parser;
use clap::error::ErrorKind;
use std::process::ExitCode;

/// What is reported when there are no arguments at all.
const HELP_INSTEAD: ErrorKind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

fn main() -> ExitCode {
    ambos_hostcode::heap::keep_large_apart();
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && error.kind() != HELP_INSTEAD => {
            eprintln!("ambos: {}", failure::one_line_of_usage(&error.to_string()));
            return ExitCode::from(failure::USAGE);
        }
        // Help or the version.
        Err(help) => help.exit(),
    };
    // A panic is a fault of the monitor like any other; its message has been printed by then.
    std::panic::catch_unwind(|| execute(cli)).unwrap_or(ExitCode::from(failure::MONITOR))
}

fn execute(cli: cli::Cli) -> ExitCode {
    let verbose = cli.logging.verbose > 0;
    let result =
        logging::start(&cli.logging).and_then(|()| commands::execute(cli.command, verbose));
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("ambos: {}", failure.line());
            ExitCode::from(failure.status())
        }
    }
}
