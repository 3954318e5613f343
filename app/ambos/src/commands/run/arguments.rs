//! The arguments of `ambos run`.

use super::disk::Disk;
use super::network::Network;
use super::screen::{ScreenFile, Vga};
use super::share::{Directory, Sockets};
use crate::size;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "\
Examples:
  ambos run                                 the default guest, to a shell
  ambos run --exec 'cat /proc/cpuinfo'      one command in it
  ambos run --guest debian-cloud            Debian's kernel for virtual machines instead
  ambos run --disk data.img --disk base.qcow2,snapshot
  ambos run --net user,forward=8080:80      port 8080 of this host is the guest's port 80
  ambos run -t hybrid --share .:here        then, in it: mount -t virtiofs here /mnt
  ambos run --kernel bzImage --initrd root.cpio --append 'quiet'
  ambos run --kernel vmlinux --boot pvh     an ELF kernel by its PVH entry
  ambos run --kernel os.elf --debug-exit    an operating system of your own by Multiboot

Keys, when the console is a terminal:
  Ctrl-a x  end the guest at once
  Ctrl-a p  press the power button: ask the guest to switch off
  Ctrl-a s  write what the screen shows to the file of --screen
  Ctrl-a a  send Ctrl-a to the guest
  Ctrl-a h  show these keys

When standard input is not a terminal it is passed on to the guest as it is, and its end does not
end the guest. The default guest powers off when its shell exits, so end such input with `exit`.";

/// Boot a guest and run it until it powers off
///
/// Without a kernel, the default guest is booted: Debian's stock kernel and busybox, fetched through
/// this host's package sources on first use.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// How much the guest knows of being virtualized
    #[arg(short, long, value_enum, default_value_t = Technique::Full)]
    pub(super) technique: Technique,

    /// The kernel: a bzImage or an ELF file
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    pub(super) kernel: Option<PathBuf>,

    /// The initial RAM disk for a Linux kernel
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    pub(super) initrd: Option<PathBuf>,

    /// A guest of `ambos guest list`
    #[arg(long, value_name = "GUEST", help_heading = "Guest", conflicts_with = "kernel")]
    #[arg(default_value = "debian-standard")]
    pub(super) guest: String,

    /// What to append to the kernel's command line
    #[arg(long, value_name = "TEXT", help_heading = "Guest", allow_hyphen_values = true)]
    pub(super) append: Option<String>,

    /// How to enter the kernel
    #[arg(long, value_enum, help_heading = "Guest", default_value_t = Boot::Auto)]
    pub(super) boot: Boot,

    /// A Multiboot module and its arguments; may be given several times
    #[arg(long, value_name = "FILE[,ARGS]", help_heading = "Guest")]
    pub(super) module: Vec<Module>,

    /// Run this command in the guest instead of a shell and leave with its exit status
    ///
    /// Standard output is the command's, nothing else; its standard input is empty. It is run by the
    /// shell of Ambos's own initramfs.
    #[arg(long, value_name = "COMMAND", help_heading = "Guest", conflicts_with = "module")]
    pub(super) exec: Option<String>,

    /// Memory of the guest
    #[arg(short, long, value_name = "SIZE", help_heading = "Machine")]
    #[arg(value_parser = size::parse, default_value = "512M")]
    pub(super) memory: u64,

    /// Number of virtual CPUs
    #[arg(long, value_name = "N", help_heading = "Machine", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..))]
    pub(super) cpus: u8,

    /// A disk, as an image file or block device; may be given several times
    ///
    /// Options: `readonly`; `snapshot` throws all writes away at the end; `format=raw` or
    /// `format=qcow2` (else a name that ends in .qcow2 tells); `cache=direct` bypasses the host's
    /// page cache; `cdrom` makes it the medium of a CD-ROM drive.
    #[arg(long, value_name = "FILE[,OPTION]...", help_heading = "Machine")]
    pub(super) disk: Vec<Disk>,

    /// The network: `user`, `tap=NAME` or `none`
    ///
    /// `user` is a network of the guest's own behind address translation, which needs no privileges.
    /// Options: `forward=[tcp:|udp:][ADDRESS:]HOST:GUEST` leads a port of the host (of its loopback
    /// address, unless another is given) to the guest; `mtu=BYTES`; `mac=ADDRESS`. `tap=NAME` is an
    /// interface of the host that the user may open.
    #[arg(long, value_name = "KIND[,OPTION]...", help_heading = "Machine", default_value = "user")]
    pub(super) net: Network,

    /// Share a directory with the guest, by virtiofs; may be given several times; needs -t hybrid
    ///
    /// The guest mounts it with `mount -t virtiofs TAG PLACE`. It reaches nothing outside the
    /// directory; what it makes there belongs to the user who runs Ambos. The option `readonly`
    /// refuses all writes.
    #[arg(long, value_name = "DIRECTORY:TAG[,readonly]", help_heading = "Machine")]
    pub(super) share: Vec<Directory>,

    /// Connect the guest's virtio sockets to Unix sockets of this host; needs -t hybrid
    ///
    /// Who connects to PATH and writes `CONNECT port` reaches that port of the guest and is answered
    /// `OK port`. A guest that connects to a port of the host reaches who listens on PATH_port.
    /// `cid=N` is the guest's address, 3 unless given.
    #[arg(long, value_name = "PATH[,cid=N]", help_heading = "Machine")]
    pub(super) vsock: Option<Sockets>,
    /// What the screen shows when the guest starts: `text`, or a frame buffer of so many dots
    #[arg(
        long,
        value_name = "text|WIDTHxHEIGHT",
        help_heading = "Machine",
        default_value = "text"
    )]
    pub(super) vga: Vga,

    /// Write what the screen shows to FILE at the end, at `Ctrl-a s` and at SIGUSR1
    ///
    /// A name that ends in .png gets a picture, one that ends in .txt the characters of a screen in text mode.
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub(super) screen: Option<ScreenFile>,

    /// What executes the guest's instructions
    #[arg(long, value_enum, help_heading = "Machine", default_value_t = Engine::Auto)]
    pub(super) engine: Engine,

    /// Memory for translated code, of all virtual CPUs together; each may use 16M of it in any case
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    #[arg(value_parser = code_cache, default_value = "64M")]
    pub(super) code_cache: usize,

    /// Which programs of the guest reach their memory through mappings of the host's, not by looks into tables
    #[arg(long, value_enum, help_heading = "Machine", default_value_t = Views::Auto)]
    pub(super) views: Views,

    /// Keep a map of translated code in /tmp/perf-PID.map, where Linux's perf looks for it
    #[arg(long, help_heading = "Machine")]
    pub(super) perf_map: bool,

    /// Let the guest end the monitor by writing a value v to I/O port 0xf4: exit status 2v+1
    #[arg(long, help_heading = "Machine")]
    pub(super) debug_exit: bool,

    /// Where the guest's console goes: this terminal, or a file
    #[arg(long, value_name = "stdio|FILE", help_heading = "Machine", default_value = "stdio")]
    pub(super) console: Console,

    /// Count and time every interception; print a table at the end, or write JSON to FILE
    #[arg(long, value_name = "FILE", help_heading = "Machine", num_args = 0..=1)]
    pub(super) stats: Option<Option<PathBuf>>,
}

/// Reads the size of a code cache; jumps in it reach two gigabytes.
fn code_cache(text: &str) -> Result<usize, String> {
    let size = size::parse(text).map_err(|error| error.to_string())?;
    match usize::try_from(size) {
        Ok(size) if (1 << 20..=1 << 30).contains(&size) => Ok(size),
        _ => Err("a code cache has 1M to 1G".to_owned()),
    }
}

/// Which programs get views of their address spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Views {
    /// Those that compute for a while and stay with their pages
    Auto,
    /// All, at once: slower, but it shows errors
    Always,
    /// None
    Never,
}

/// How much a guest knows of being virtualized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Technique {
    /// Nothing: it finds a complete PC (full virtualization)
    Full,
    /// It has drivers for virtual machines: the same PC with virtio devices
    Hybrid,
    /// It is ported to a hypervisor: a Xen PV guest (paravirtualization)
    Para,
}

/// How a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Boot {
    /// By what the file is
    Auto,
    /// The 64-bit entry of the Linux boot protocol
    Linux64,
    /// The PVH entry that an ELF note names
    Pvh,
    /// Multiboot, version 1
    Multiboot,
}

/// What executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// The fastest there is
    Auto,
    /// The interpreter
    Interpret,
    /// The binary translator
    Translate,
    /// The translator and the interpreter in lock step, to find wrong translations: slow, one vCPU
    Verify,
}

/// Where the console goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Console {
    /// Standard input and output.
    Stdio,
    /// Output to a file, no input.
    File(PathBuf),
}

impl From<std::ffi::OsString> for Console {
    fn from(text: std::ffi::OsString) -> Self {
        if text == "stdio" { Self::Stdio } else { Self::File(text.into()) }
    }
}

/// A file handed to a Multiboot kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// The file.
    pub(crate) path: PathBuf,
    /// Its command line: the file's name and its arguments.
    pub(crate) command_line: String,
}

impl From<String> for Module {
    fn from(text: String) -> Self {
        match text.split_once(',') {
            Some((path, arguments)) => {
                Self { path: path.into(), command_line: format!("{path} {arguments}") }
            }
            None => Self { path: text.clone().into(), command_line: text },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        let words = std::iter::once("run").chain(words.iter().copied());
        Program::try_parse_from(words).map(|program| program.arguments)
    }

    #[test]
    fn everything_has_a_default() {
        let arguments = parse(&[]).unwrap();
        assert_eq!(arguments.technique, Technique::Full);
        assert_eq!(arguments.memory, 512 << 20);
        assert_eq!(arguments.cpus, 1);
        assert_eq!(arguments.console, Console::Stdio);
        assert_eq!(arguments.stats, None);
    }

    #[test]
    fn statistics_go_to_the_terminal_or_a_file() {
        assert_eq!(parse(&["--stats", "--cpus", "2"]).unwrap().stats, Some(None));
        let file = parse(&["--stats", "x.json", "--cpus", "2"]).unwrap();
        assert_eq!(file.stats, Some(Some("x.json".into())));
    }

    #[test]
    fn modules_have_a_command_line() {
        let arguments = parse(&["--module", "a/init,x y,z", "--module", "disk"]).unwrap();
        let lines: Vec<_> =
            arguments.module.iter().map(|module| module.command_line.as_str()).collect();
        assert_eq!(lines, ["a/init x y,z", "disk"]);
        assert_eq!(arguments.module[0].path, PathBuf::from("a/init"));
    }

    #[test]
    fn contradictions_are_bad_usage() {
        for words in [
            &["--kernel", "a", "--guest", "debian-cloud"][..],
            &["--exec", "true", "--module", "m"],
            &["--memory", "512"],
            &["--cpus", "0"],
            &["-t", "half"],
        ] {
            let error = parse(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{words:?}");
        }
        assert_eq!(parse(&["--append", "-x"]).unwrap().append.as_deref(), Some("-x"));
    }
}
