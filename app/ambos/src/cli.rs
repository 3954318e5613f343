//! The arguments, and their documentation.

use crate::commands::{compare, guest, inspect, run};
use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  ambos run                           boot the default guest to a shell; Ctrl-a x leaves it
  ambos run --exec 'uname -a'         run one command in it, with its output and exit status
  ambos run --kernel /boot/vmlinuz-$(uname -r) --initrd rescue.img --memory 1G
  ambos compare                       which technique serves which workload better, and why
  ambos guest pull debian             fetch the default guest beforehand

Exit status:
  0  the guest powered off, or the user ended it
  1  the monitor failed
  2  bad usage, or input that cannot be used; one line says what and how to mend it
  3  the guest crashed: kernel panic, triple fault, failed boot
  `run --exec` leaves with the status of the command, `run --debug-exit` with that of the guest.";

/// Runs virtual machines on x86-64 Linux hosts without hardware virtualization.
///
/// Ambos boots unmodified operating systems in user space with a software CPU of its own: it needs
/// neither /dev/kvm nor root, and works inside cloud machines, containers and CI runners.
#[derive(Debug, Parser)]
#[command(name = "ambos", version, after_help = EXAMPLES, arg_required_else_help = true)]
#[command(max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logging: LoggingArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How much the monitor tells.
#[derive(Debug, Args)]
#[command(next_help_heading = "Diagnostics")]
pub(crate) struct LoggingArguments {
    /// Tell more on standard error; twice: still more
    ///
    /// With `run --exec` this also shows the kernel's log there.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Choose what to tell by part of the program, such as ambos_machine=debug,warn
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<run::Arguments>),
    Compare(Box<compare::Arguments>),
    Inspect(inspect::Arguments),
    #[command(subcommand)]
    Guest(guest::Command),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_argument_is_documented() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
