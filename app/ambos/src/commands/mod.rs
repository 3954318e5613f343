//! The subcommands, a module each.

pub(crate) mod compare;
pub(crate) mod guest;
pub(crate) mod inspect;
pub(crate) mod run;

use crate::cli::Command;
use crate::failure::Failure;

/// Does what a command asks for and returns the exit status.
pub(crate) fn execute(command: Command, verbose: bool) -> Result<u8, Failure> {
    match command {
        Command::Run(arguments) => run::execute(&arguments, verbose),
        Command::Compare(arguments) => compare::execute(&arguments).map(|()| 0),
        Command::Inspect(arguments) => inspect::execute(&arguments).map(|()| 0),
        Command::Guest(command) => guest::execute(command).map(|()| 0),
    }
}
