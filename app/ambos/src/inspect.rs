//! `ambos inspect`: what a kernel supports.

use ambos_boot::inspect::inspect;
use clap::Args;
use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Unusable input.
const UNUSABLE: u8 = 2;

/// What `ambos inspect` takes.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Kernel to look into: a bzImage such as /boot/vmlinuz, a vmlinux, or a Multiboot image
    file: PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the report to standard output; an unusable file is named on standard error.
pub(crate) fn run(args: &InspectArgs) -> ExitCode {
    let report = match inspect(&args.file) {
        Ok(report) => report,
        Err(error) => {
            // The chain in one line: what is wrong, then the host's reason.
            let mut line = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                line.push_str(&format!(": {error}"));
                source = error.source();
            }
            eprintln!("ambos: {line}");
            return ExitCode::from(UNUSABLE);
        }
    };
    let mut out = io::stdout().lock();
    let written = if args.json {
        serde_json::to_writer_pretty(&mut out, &report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        write!(out, "{report}")
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough, such as `head`, is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ambos: cannot write the report: {error}");
            ExitCode::FAILURE
        }
    }
}
