//! `ambos inspect`: what a kernel supports.

use crate::failure::Failure;
use ambos_boot::inspect::inspect;
use clap::Args;
use std::io::{self, Write};
use std::path::PathBuf;

/// Tell what a kernel supports: boot protocols, Xen and PVH notes, drivers
///
/// The drivers are those that each technique needs. Whether they are built in or modules is known
/// where the kernel's configuration is embedded in it or lies beside it (config-*).
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Kernel to look into: a bzImage such as /boot/vmlinuz, a vmlinux, or a Multiboot image
    file: PathBuf,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the report to standard output.
pub(crate) fn execute(arguments: &Arguments) -> Result<(), Failure> {
    let report = inspect(&arguments.file)
        .map_err(|error| Failure::usage_because("the file cannot be inspected", error))?;
    let text = if arguments.json {
        let mut text = serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::monitor("cannot write the report", error))?;
        text.push('\n');
        text
    } else {
        report.to_string()
    };
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough, such as `head`, is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::monitor("cannot write the report", error))
        }
        _ => Ok(()),
    }
}
