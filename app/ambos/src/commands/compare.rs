//! `ambos compare`: which technique serves a workload better, and why.

use crate::failure::Failure;
use crate::{size, terminal};
use ambos_boot::inspect::Technique;
use ambos_compare::operations::OPERATIONS;
use ambos_compare::report::merge::{Named, merge};
use ambos_compare::report::terminal::{Look, render};
use ambos_compare::report::{Report, html};
use ambos_compare::service::{self, Service};
use ambos_compare::workload::{self, Class, WORKLOADS, Workload};
use ambos_compare::{CompareError, Contender, GuestFiles, Monitor, Options, Progress, compare};
use ambos_guest::{Flavour, TerminalProgress};
use clap::{Args, ValueEnum};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  ambos compare                              all built-in workloads, in about three minutes
  ambos compare disk timer --runs 10         the class disk and the workload timer
  ambos compare --html report.html --json report.json
  ambos compare --from old.json --from new.json
  ambos compare --against qemu               QEMU on the same guest beside it
  ambos compare --service redis              a shipped service; or a file that describes yours
  ambos compare --list                       what can be measured

Each technique boots the same kernel and user land, in alternating order. One boot gives one sample of
each workload; differences are called so only where a test at a level of 5 % says so. Ctrl-C ends the
comparison early with a report of what there is. The exit status is 0 whichever technique is better.";

/// Measure workloads under each technique, and tell which one serves them better and why
///
/// Without arguments, the default guest runs the built-in workloads under every technique.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Workloads, or classes of workloads; all if none is given
    #[arg(value_name = "WORKLOAD")]
    workloads: Vec<String>,

    /// Show the workloads there are
    #[arg(long)]
    list: bool,

    /// Techniques to compare
    #[arg(short, long, value_enum, value_delimiter = ',', help_heading = "What is compared")]
    #[arg(default_values_t = [Choice::Full, Choice::Hybrid, Choice::Para])]
    technique: Vec<Choice>,

    /// Another monitor to compare with, on the same guest
    #[arg(long, value_enum, help_heading = "What is compared")]
    against: Option<Other>,

    /// A service of your own, described in a TOML file, or a shipped one by its name; may be repeated
    ///
    /// With services and no WORKLOAD, only the services are measured. `--list` shows the shipped ones;
    /// docs/compare.md describes the file.
    #[arg(long, value_name = "FILE|NAME", help_heading = "What is compared")]
    service: Vec<String>,

    /// Most boots of each technique
    #[arg(long, value_name = "N", help_heading = "How long", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,

    /// Longest time to take; the first round is finished in any case
    #[arg(long, value_name = "SECONDS", help_heading = "How long", default_value_t = 170)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time_limit: u64,

    /// Repetitions of a workload within one boot, of which the best counts
    #[arg(long, value_name = "N", help_heading = "How long", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    repetitions: u32,

    /// A guest of `ambos guest list`
    #[arg(long, value_name = "GUEST", help_heading = "Guest", default_value = "debian-standard")]
    guest: String,

    /// Another Linux kernel for that guest
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    kernel: Option<PathBuf>,

    /// Memory of the guest
    #[arg(short, long, value_name = "SIZE", help_heading = "Guest")]
    #[arg(value_parser = size::parse, default_value = "512M")]
    memory: u64,

    /// Number of virtual CPUs
    #[arg(long, value_name = "N", help_heading = "Guest", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..))]
    cpus: u8,

    /// What executes the guest's instructions, as of `ambos run`
    #[arg(long, help_heading = "Guest", default_value = "auto")]
    #[arg(value_parser = ["auto", "interpret", "translate"])]
    engine: String,

    /// Write the report as JSON, too
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    json: Option<PathBuf>,

    /// Write the report as one HTML file, too
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    html: Option<PathBuf>,

    /// Compare two reports in JSON instead of measuring: of two hosts, or of two versions; given twice
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    #[arg(conflicts_with_all = ["workloads", "service", "against", "list"])]
    from: Vec<PathBuf>,
}

/// A technique, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// Full virtualization
    Full,
    /// A PC with virtio devices
    Hybrid,
    /// Xen paravirtualization
    Para,
}

impl From<Choice> for Contender {
    fn from(choice: Choice) -> Self {
        Self::Technique(match choice {
            Choice::Full => Technique::Full,
            Choice::Hybrid => Technique::Hybrid,
            Choice::Para => Technique::Para,
        })
    }
}

/// Another monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Other {
    /// qemu-system-x86_64: its translator, and KVM where it can be used
    Qemu,
}

/// Compares and prints the report.
pub(crate) fn execute(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.list {
        return print(&list());
    }
    writable(arguments.json.as_deref())?;
    writable(arguments.html.as_deref())?;
    match arguments.from.as_slice() {
        [] => {}
        [first, second] => return deliver(arguments, &merge(&read(first)?, &read(second)?)),
        _ => return Err(Failure::usage("--from is to be given twice, for the two reports")),
    }
    let services: Vec<Service> = arguments
        .service
        .iter()
        .map(|name| service::load(name).map_err(failure))
        .collect::<Result<_, _>>()?;
    let only_services = arguments.workloads.is_empty() && !services.is_empty();
    let (workloads, operations) =
        if only_services { (Vec::new(), false) } else { chosen(&arguments.workloads)? };
    let options = Options { operations, ..options(arguments, workloads, services)? };
    let interrupt = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupt);
    terminal::on_termination(move |_| flag.store(true, Ordering::Relaxed))
        .map_err(|error| Failure::monitor("cannot handle signals", error))?;
    let progress = Progress::new(options.time_limit);
    let report = compare(&options, &progress, &interrupt).map_err(failure)?;
    deliver(arguments, &report)
}

fn deliver(arguments: &Arguments, report: &Report) -> Result<(), Failure> {
    if let Some(path) = &arguments.json {
        write(path, &report.to_json())?;
    }
    if let Some(path) = &arguments.html {
        write(path, &html::render(report))?;
    }
    print(&render(report, look()))
}

/// A report in JSON, under its file's name.
fn read(path: &Path) -> Result<Named, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| failure(CompareError::Read { path: path.to_owned(), source }))?;
    let report = Report::from_json(&text)
        .map_err(|source| failure(CompareError::Report { path: path.to_owned(), source }))?;
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
    Ok(Named { name: name.unwrap_or_default(), report })
}

fn failure(error: CompareError) -> Failure {
    match error {
        error @ CompareError::Prepare(_) => Failure::monitor("the comparison failed", error),
        error => Failure::usage_because("nothing was compared", error),
    }
}

fn options(
    arguments: &Arguments,
    workloads: Vec<&'static Workload>,
    services: Vec<Service>,
) -> Result<Options, Failure> {
    let flavour: Flavour = arguments.guest.parse()?;
    let guest = ambos_guest::ensure_default(flavour, &TerminalProgress::new())?;
    let mut files = GuestFiles {
        name: flavour.guest_name().to_owned(),
        release: Some(guest.release),
        kernel: guest.kernel,
        initrd: guest.initrd,
    };
    if let Some(kernel) = &arguments.kernel {
        std::fs::File::open(kernel).map_err(|error| {
            Failure::usage_because(format!("cannot read the kernel {}", kernel.display()), error)
        })?;
        files.name = kernel.display().to_string();
        files.release = None;
        files.kernel.clone_from(kernel);
    }
    let mut contenders: Vec<Contender> = Vec::new();
    for &choice in &arguments.technique {
        let contender = choice.into();
        if !contenders.contains(&contender) {
            contenders.push(contender);
        }
    }
    if arguments.against == Some(Other::Qemu) {
        let qemu = Contender::qemu();
        if qemu.is_empty() {
            eprintln!("ambos: qemu-system-x86_64 is not installed: it is left out");
        }
        contenders.extend(qemu);
    }
    let program = std::env::current_exe()
        .map_err(|error| Failure::monitor("cannot find this program", error))?;
    Ok(Options {
        monitor: Monitor { program, engine: arguments.engine.clone() },
        guest: files,
        memory: arguments.memory,
        cpus: u32::from(arguments.cpus),
        workloads,
        operations: false,
        services,
        contenders,
        runs: arguments.runs,
        least_runs: 5.min(arguments.runs),
        time_limit: Duration::from_secs(arguments.time_limit),
        repetitions: arguments.repetitions,
        repetition: Duration::from_millis(30),
    })
}

/// The workloads of these names and classes, in the order in which they run, and whether single
/// operations are among them.
fn chosen(names: &[String]) -> Result<(Vec<&'static Workload>, bool), Failure> {
    for name in names {
        let known =
            workload::find(name).is_some() || Class::ALL.iter().any(|class| class.name() == name);
        if !known {
            return Err(failure(CompareError::UnknownWorkload(name.clone())));
        }
    }
    let named = |name: &str| names.is_empty() || names.iter().any(|other| other == name);
    let wanted = |workload: &&Workload| named(workload.name) || named(workload.class.name());
    Ok((WORKLOADS.iter().filter(wanted).collect(), named(Class::Operation.name())))
}

fn list() -> String {
    let mut text = format!("{:10} {:16} {}\n", "CLASS", "WORKLOAD", "ONE OPERATION");
    for workload in WORKLOADS {
        text.push_str(&format!("{:10} {:16} {}\n", workload.class, workload.name, workload.about));
    }
    for (name, about) in OPERATIONS {
        text.push_str(&format!("{:10} {name:16} {about}\n", Class::Operation));
    }
    for (name, _) in service::SHIPPED {
        let about = service::load(name).map(|service| service.about).unwrap_or_default();
        text.push_str(&format!("{:10} {name:16} {about} (--service {name})\n", Class::Service));
    }
    text
}

/// A report must not be lost to a misspelt name.
fn writable(path: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.map(drop)
        .map_err(|error| Failure::usage_because(format!("cannot write {}", path.display()), error))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::monitor(format!("cannot write {}", path.display()), error))
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::monitor("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

fn look() -> Look {
    let terminal = io::stdout().is_terminal();
    let width = if terminal { terminal::size().map(|(_, columns)| columns.into()) } else { None };
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Look { colours, width: width.unwrap_or(100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_chosen_by_name_and_class() {
        let names = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            let chosen = chosen(&words);
            chosen.map(|(list, _)| list.iter().map(|one| one.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap().len(), WORKLOADS.len());
        let some = names(&["disk", "timer"]).unwrap();
        assert_eq!(some, ["timer", "disk-random", "disk-sequential", "disk-fsync"]);
        let operations = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            chosen(&words).unwrap().1
        };
        assert!(operations(&[]) && operations(&["operation"]) && !operations(&["disk"]));
        let failure = names(&["disks"]).unwrap_err();
        assert_eq!(failure.status(), 2);
        assert!(failure.line().contains("--list"), "{}", failure.line());
    }

    #[test]
    fn the_list_names_all() {
        let text = list();
        assert!(WORKLOADS.iter().all(|workload| text.contains(workload.name)));
    }
}
