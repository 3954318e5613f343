//! From arguments to what a machine is made of.

use super::arguments::{Arguments, Boot, Engine, Module, Technique, Views};
use super::disk::Disk;
use super::network::Network;
use super::screen::Vga;
use super::share::{Directory, Sockets};
use crate::failure::Failure;
use ambos_guest::exec::{self, Nonce};
use ambos_guest::{Flavour, GuestError, TerminalProgress};
use std::fs::File;
use std::path::{Path, PathBuf};

/// All that the arguments say about a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) technique: Technique,
    pub(super) engine: Engine,
    /// Bytes of translated code that each vCPU keeps.
    pub(super) code_cache: usize,
    pub(super) views: Views,
    pub(super) perf_map: bool,
    pub(super) boot: Boot,
    /// Bytes.
    pub(super) memory: u64,
    pub(super) cpus: u8,
    pub(super) debug_exit: bool,
    /// Whether to time interceptions.
    pub(super) measure: bool,
    pub(super) kernel: PathBuf,
    pub(super) initrd: Option<PathBuf>,
    pub(super) modules: Vec<Module>,
    pub(super) disks: Vec<Disk>,
    pub(super) network: Network,
    pub(super) shares: Vec<Directory>,
    pub(super) sockets: Option<Sockets>,
    /// Rows and columns of the terminal that shows the console, if one does.
    pub(super) terminal: Option<(u16, u16)>,
    pub(super) vga: Vga,
    /// The user's part of the kernel command line; all there is for a kernel other than Linux.
    pub(super) append: String,
    /// Parameters for a Linux kernel, and for our initramfs if that is used.
    pub(super) defaults: String,
    /// Marks the messages of our initramfs, if that is used.
    pub(super) nonce: Option<Nonce>,
}

/// The files of a guest in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GuestFiles {
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
}

/// Gets a guest, pulling it on first use.
pub(super) fn cached_guest(flavour: Flavour) -> Result<GuestFiles, GuestError> {
    let guest = ambos_guest::ensure_default(flavour, &TerminalProgress::new())?;
    Ok(GuestFiles { kernel: guest.kernel, initrd: guest.initrd })
}

impl Plan {
    /// What `arguments` ask for; `guest` is called if the default guest's files are needed,
    /// `terminal` is the size of the terminal that shows the console, if one does.
    pub(super) fn new(
        arguments: &Arguments,
        guest: impl FnOnce(Flavour) -> Result<GuestFiles, GuestError>,
        terminal: Option<(u16, u16)>,
    ) -> Result<Self, Failure> {
        let exec = match &arguments.exec {
            Some(command) => Some(
                exec::kernel_parameter(command)
                    .map_err(|error| Failure::usage_because("--exec cannot be used", error))?,
            ),
            None => None,
        };
        if arguments.technique == Technique::Para && arguments.screen.is_some() {
            return Err(Failure::usage("a PV guest has no screen; leave --screen out"));
        }
        let (kernel, initrd, ours) = files(arguments, guest)?;
        readable("kernel", &kernel)?;
        if let Some(initrd) = &initrd {
            readable("initrd", initrd)?;
        }
        for module in &arguments.module {
            readable("module", &module.path)?;
        }

        let mut defaults = vec![console_parameter(arguments.technique).to_owned()];
        // A restart, which the monitor sees, instead of a machine that stands still for ever.
        defaults.push("panic=-1".to_owned());
        // Linux counts timer ticks during 40 ms to see whether the timer's interrupt works. On a busy
        // host the vCPU may not run for so long, and a kernel that misses ticks panics.
        defaults.push("no_timer_check".to_owned());
        let nonce = (ours || exec.is_some()).then(Nonce::random);
        defaults.extend(nonce.as_ref().map(Nonce::kernel_parameter));
        if let (true, Some((rows, columns))) = (ours, terminal) {
            defaults.push(format!("ambos.rows={rows} ambos.columns={columns}"));
        }
        if ours && arguments.technique == Technique::Hybrid {
            // The kernel's log goes to the serial port, which is there from the beginning.
            defaults.push("ambos.console=hvc0".to_owned());
        }
        defaults.extend(exec);
        Ok(Self {
            technique: arguments.technique,
            engine: arguments.engine,
            boot: arguments.boot,
            memory: arguments.memory,
            cpus: cpus(arguments)?,
            code_cache: arguments.code_cache,
            views: arguments.views,
            perf_map: arguments.perf_map,
            debug_exit: arguments.debug_exit,
            measure: arguments.stats.is_some(),
            kernel,
            initrd,
            modules: arguments.module.clone(),
            disks: arguments.disk.clone(),
            network: arguments.net.clone(),
            shares: shares(arguments)?,
            sockets: arguments.vsock.clone(),
            terminal,
            vga: arguments.vga,
            append: arguments.append.clone().unwrap_or_default(),
            defaults: defaults.join(" "),
            nonce,
        })
    }

    /// The command line for a Linux kernel: the user's part comes last, so that it overrides.
    pub(super) fn linux_command_line(&self) -> String {
        format!("{} {}", self.defaults, self.append).trim_end().to_owned()
    }
}

/// Directories to share. They and sockets are devices of the hybrid technique.
fn shares(arguments: &Arguments) -> Result<Vec<Directory>, Failure> {
    let hybrid = arguments.technique == Technique::Hybrid;
    for (given, name) in
        [(!arguments.share.is_empty(), "share"), (arguments.vsock.is_some(), "vsock")]
    {
        if given && !hybrid {
            return Err(Failure::usage(format!("--{name} is a virtio device; add -t hybrid")));
        }
    }
    let mut tags: Vec<&str> = arguments.share.iter().map(Directory::tag).collect();
    tags.sort_unstable();
    if let Some(pair) = tags.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Failure::usage(format!("two directories have the tag \"{}\"", pair[0])));
    }
    Ok(arguments.share.clone())
}

/// The number of vCPUs.
fn cpus(arguments: &Arguments) -> Result<u8, Failure> {
    if arguments.engine == Engine::Verify && arguments.cpus > 1 {
        return Err(Failure::usage("--engine verify works with one vCPU; leave --cpus out"));
    }
    Ok(arguments.cpus)
}

/// The kernel, the initrd, and whether the latter is ours.
fn files(
    arguments: &Arguments,
    guest: impl FnOnce(Flavour) -> Result<GuestFiles, GuestError>,
) -> Result<(PathBuf, Option<PathBuf>, bool), Failure> {
    let given = arguments.initrd.clone();
    // Our initramfs, which serves commands, goes with any Linux kernel, only without its modules.
    let ours = given.is_none() && (arguments.kernel.is_none() || arguments.exec.is_some());
    if let (Some(kernel), false) = (&arguments.kernel, ours) {
        return Ok((kernel.clone(), given, false));
    }
    let guest = guest(arguments.guest.parse()?)?;
    let kernel = arguments.kernel.clone().unwrap_or(guest.kernel);
    Ok((kernel, given.or(Some(guest.initrd)), ours))
}

fn readable(what: &str, path: &Path) -> Result<(), Failure> {
    let result = File::open(path).and_then(|file| file.metadata());
    match result {
        Ok(metadata) if metadata.is_dir() => {
            Err(Failure::usage(format!("the {what} {} is a directory", path.display())))
        }
        Ok(_) => Ok(()),
        Err(error) => {
            Err(Failure::usage_because(format!("cannot read the {what} {}", path.display()), error))
        }
    }
}

fn console_parameter(technique: Technique) -> &'static str {
    match technique {
        Technique::Full | Technique::Hybrid => "console=ttyS0",
        Technique::Para => "console=hvc0",
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

    struct Fixture {
        directory: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            for name in ["kernel", "initrd", "mine"] {
                std::fs::write(directory.path().join(name), name).unwrap();
            }
            Self { directory }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn plan(&self, words: &[&str]) -> Result<Plan, Failure> {
            let words: Vec<String> = std::iter::once("run".to_owned())
                .chain(words.iter().map(|word| {
                    word.replace('@', &format!("{}/", self.directory.path().display()))
                }))
                .collect();
            let arguments = Program::try_parse_from(words).unwrap().arguments;
            let guest =
                |_| Ok(GuestFiles { kernel: self.path("kernel"), initrd: self.path("initrd") });
            Plan::new(&arguments, guest, Some((24, 80)))
        }
    }

    #[test]
    fn without_arguments_the_default_guest_runs() {
        let fixture = Fixture::new();
        let plan = fixture.plan(&[]).unwrap();
        assert_eq!(plan.kernel, fixture.path("kernel"));
        assert_eq!(plan.initrd, Some(fixture.path("initrd")));
        let line = plan.linux_command_line();
        assert!(line.starts_with("console=ttyS0 panic=-1 no_timer_check ambos.nonce="), "{line}");
        assert!(line.ends_with(" ambos.rows=24 ambos.columns=80"), "{line}");
    }

    #[test]
    fn a_kernel_of_the_users_own_comes_alone() {
        let fixture = Fixture::new();
        let plan = fixture.plan(&["--kernel", "@mine", "--append", "quiet a=b"]).unwrap();
        assert_eq!((plan.kernel.clone(), plan.initrd.clone()), (fixture.path("mine"), None));
        assert_eq!(plan.nonce, None);
        assert_eq!(plan.linux_command_line(), "console=ttyS0 panic=-1 no_timer_check quiet a=b");
        assert_eq!(plan.append, "quiet a=b");
    }

    #[test]
    fn commands_go_with_our_initramfs() {
        let fixture = Fixture::new();
        let plan = fixture.plan(&["--kernel", "@mine", "--exec", "true"]).unwrap();
        assert_eq!(plan.kernel, fixture.path("mine"));
        assert_eq!(plan.initrd, Some(fixture.path("initrd")));
        assert!(plan.linux_command_line().contains("ambos.exec=dHJ1ZQ=="));
        let plan = fixture.plan(&["--initrd", "@mine", "--exec", "true"]).unwrap();
        assert_eq!(plan.kernel, fixture.path("kernel"));
        assert_eq!(plan.initrd, Some(fixture.path("mine")));
        assert!(plan.nonce.is_some());
    }

    #[test]
    fn unusable_input_is_told_before_anything_starts() {
        let fixture = Fixture::new();
        let cases: &[(&[&str], &str)] = &[
            (&["--kernel", "@gone"], "cannot read the kernel"),
            (&["--kernel", "@"], "is a directory"),
            (&["--initrd", "@gone"], "cannot read the initrd"),
            (&["--kernel", "@mine", "--module", "@gone,x"], "cannot read the module"),
            (&["--exec", " "], "--exec cannot be used"),
            (&["--guest", "plan9"], "ambos guest list"),
            (&["--share", "@:t"], "-t hybrid"),
            (&["-t", "para", "--vsock", "@s"], "-t hybrid"),
            (&["-t", "hybrid", "--share", "@:t", "--share", "@:t"], "the tag \"t\""),
        ];
        for (words, expected) in cases {
            let failure = fixture.plan(words).unwrap_err();
            assert_eq!(failure.status(), 2, "{words:?}");
            assert!(failure.line().contains(expected), "{}", failure.line());
        }
    }
}
