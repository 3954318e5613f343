//! `ambos guest`: fetch, list and remove guests.

use crate::failure::Failure;
use crate::size;
use ambos_guest::packages::{self, BuildOptions};
use ambos_guest::{Cache, Flavour, GuestError, GuestImage, PullOptions, Refresh, TerminalProgress};
use clap::{Args, Subcommand, ValueEnum};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

const PULL_NOTES: &str = "\
The packages come from the package sources of this host, by its own apt, which checks them against
its own keys. Nothing is installed and no privileges are needed. An interrupted download is resumed.

Guests are kept in $AMBOS_CACHE, or else $XDG_CACHE_HOME/ambos, or else ~/.cache/ambos.

On hosts without apt, boot a kernel and an initramfs of your own:
  ambos run --kernel FILE --initrd FILE";

const BUILD_NOTES: &str = "\
The packages come from the package sources of this host, with all that they depend on. They are
unpacked, not installed: their scripts do not run. Their programs are in /bin.

Example:
  ambos guest build --packages sqlite3 --output sqlite.img
  ambos run --initrd sqlite.img --exec 'sqlite3 :memory: \"select sqlite_version()\"'";

/// Fetch, list and remove guests
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a guest of a distribution's stock kernel and busybox, or bring it up to date
    #[command(after_help = PULL_NOTES)]
    Pull(PullArguments),
    /// Make an initramfs of the default guest's and of any packages
    #[command(after_help = BUILD_NOTES)]
    Build(BuildArguments),
    /// Show the guests there are
    List,
    /// Remove guests, and the packages they were made from
    Remove(RemoveArguments),
}

/// Distributions that guests can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Distribution {
    /// Debian GNU/Linux
    Debian,
}

/// Which kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FlavourChoice {
    /// The kernel for PCs, with drivers for everything
    Standard,
    /// The smaller kernel for virtual machines
    Cloud,
}

impl From<FlavourChoice> for Flavour {
    fn from(choice: FlavourChoice) -> Self {
        match choice {
            FlavourChoice::Standard => Self::Standard,
            FlavourChoice::Cloud => Self::Cloud,
        }
    }
}

/// Arguments of `ambos guest pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArguments {
    /// The distribution
    distribution: Distribution,

    /// Which of its kernels
    #[arg(long, value_enum, default_value_t = FlavourChoice::Standard)]
    flavour: FlavourChoice,

    /// Fetch the package lists even if those at hand are recent
    #[arg(long)]
    refresh: bool,
}

/// Arguments of `ambos guest build`.
#[derive(Debug, Args)]
pub(crate) struct BuildArguments {
    /// Names of packages, separated by commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "PACKAGE,...")]
    packages: Vec<String>,

    /// Where to write the initramfs
    #[arg(long, short, value_name = "FILE", default_value = "initrd.img")]
    output: PathBuf,

    /// Whose initramfs to begin with
    #[arg(long, value_enum, default_value_t = FlavourChoice::Standard)]
    flavour: FlavourChoice,

    /// Fetch the package lists even if those at hand are recent
    #[arg(long)]
    refresh: bool,
}

/// Arguments of `ambos guest remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// Names of guests, as `ambos guest list` shows them
    #[arg(required_unless_present = "all", value_name = "GUEST")]
    names: Vec<String>,

    /// Remove all guests
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

/// Does what the command asks for.
pub(crate) fn execute(command: Command) -> Result<(), Failure> {
    let cache = Cache::of_user()?;
    match command {
        Command::Pull(arguments) => pull(&arguments, cache),
        Command::Build(arguments) => build(&arguments, cache),
        Command::List => {
            let table = table(&cache.guests_present());
            io::stdout()
                .write_all(table.as_bytes())
                .map_err(|error| Failure::monitor("cannot write to standard output", error))
        }
        Command::Remove(arguments) => remove(&arguments, &cache),
    }
}

fn pull(arguments: &PullArguments, cache: Cache) -> Result<(), Failure> {
    let Distribution::Debian = arguments.distribution;
    let options = PullOptions {
        flavour: arguments.flavour.into(),
        cache,
        refresh: if arguments.refresh { Refresh::Always } else { Refresh::WhenStale },
    };
    let guest = ambos_guest::pull(&options, &TerminalProgress::new())?;
    eprintln!("{} is ready: Linux {}", guest.flavour.guest_name(), guest.release);
    Ok(())
}

fn build(arguments: &BuildArguments, cache: Cache) -> Result<(), Failure> {
    let unwritable = |error: io::Error| {
        Failure::usage_because(format!("cannot write {}", arguments.output.display()), error)
    };
    // Before minutes of work are done for it.
    let mut output = File::create(&arguments.output).map_err(unwritable)?;
    let progress = TerminalProgress::new();
    let guest = ambos_guest::ensure_default(arguments.flavour.into(), &progress)?;
    let options = BuildOptions {
        packages: arguments.packages.clone(),
        cache,
        refresh: if arguments.refresh { Refresh::Always } else { Refresh::WhenStale },
    };
    let archive = packages::build(&options, &progress)?;
    for path in [&guest.initrd, &archive.path] {
        let mut file = File::open(path)
            .map_err(|error| Failure::monitor(format!("cannot read {}", path.display()), error))?;
        // Archives are multiples of 512 bytes long, so that the kernel finds the next one.
        io::copy(&mut file, &mut output).map_err(unwritable)?;
    }
    let count = archive.packages.len();
    eprintln!("{} is ready: {count} packages", arguments.output.display());
    Ok(())
}

fn remove(arguments: &RemoveArguments, cache: &Cache) -> Result<(), Failure> {
    let progress = TerminalProgress::new();
    if arguments.all {
        for flavour in Flavour::ALL {
            match cache.remove(flavour, &progress) {
                Ok(()) | Err(GuestError::NoSuchGuest { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        return Ok(());
    }
    // All names are checked before anything is removed.
    let flavours: Vec<Flavour> =
        arguments.names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    for flavour in flavours {
        cache.remove(flavour, &progress)?;
    }
    Ok(())
}

/// The guests as a table; nothing but its head if there are none.
fn table(guests: &[GuestImage]) -> String {
    let size = |guest: &GuestImage| {
        let files = [&guest.kernel, &guest.initrd, &guest.config];
        files.iter().filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).sum()
    };
    let mut rows = vec![["GUEST", "KERNEL", "PACKAGE", "SIZE", "DIRECTORY"].map(str::to_owned)];
    rows.extend(guests.iter().map(|guest| {
        [
            guest.flavour.guest_name().to_owned(),
            guest.release.clone(),
            guest.version.clone(),
            size::format(size(guest)),
            guest.kernel.parent().map(|path| path.display().to_string()).unwrap_or_default(),
        ]
    }));
    columns(&rows)
}

/// Rows as text, all columns but the last as wide as their widest cell.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["GUEST", "SIZE", "PATH"], ["debian", "1 B", "/a"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "GUEST   SIZE  PATH\ndebian  1 B   /a\n");
        assert_eq!(table(&[]), "GUEST  KERNEL  PACKAGE  SIZE  DIRECTORY\n");
    }
}
