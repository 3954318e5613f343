//! What the monitor says about its own doings, on standard error.

use crate::cli::LoggingArguments;
use crate::failure::Failure;
use tracing_subscriber::EnvFilter;

/// Starts logging as the arguments ask for.
pub(crate) fn start(arguments: &LoggingArguments) -> Result<(), Failure> {
    let level = match arguments.verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let directives = arguments.log.as_deref().unwrap_or(level);
    let filter = EnvFilter::try_new(directives).map_err(|error| {
        Failure::usage_because(
            "--log wants a level such as debug or a list such as ambos_machine=debug,warn",
            error,
        )
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .try_init()
        .map_err(|error| Failure::monitor("cannot start logging", error))
}
