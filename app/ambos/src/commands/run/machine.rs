//! What `run` needs of a machine, and where it gets one.

use super::arguments::{Boot, Engine, Technique, Views};
use super::disk::Disk;
use super::plan::Plan;
use super::share::{Directory, Sockets};
use super::windows::Windows;
use crate::failure::Failure;
use ambos_boot::image::{ImageKind, XenNote};
use ambos_boot::{BootConfig, KernelImage, Protocol};
use ambos_guest::exec::WindowMark;
use ambos_machine::{Config, EngineConfig, EngineKind, HostAccess, Machine, MachineError, Screen};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

/// How a machine came to its end.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The guest switched it off.
    PoweredOff,
    /// The guest restarted it, and [`AfterReset::End`] was the answer.
    Reset,
    /// The guest cannot go on; why.
    Crashed(String),
    /// The guest asked for this exit status.
    DebugExit(u8),
    /// [`Handle::stop`] was called.
    Stopped,
    /// The monitor failed.
    Failed(Failure),
}

/// What to do when the guest restarts the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterReset {
    /// Boot it again.
    Boot,
    /// Leave with [`Outcome::Reset`].
    End,
}

/// Reaches into a running machine from other threads.
pub(super) trait Handle: Send + Sync {
    /// Types on the machine's console.
    fn send(&self, bytes: &[u8]);
    /// Something to be counted apart begins or ends.
    fn mark(&self, mark: WindowMark);
    /// Says how large the window is that shows the machine's console.
    fn resize(&self, rows: u16, columns: u16);
    /// Presses the machine's power button.
    fn press_power_button(&self);
    /// What the machine's screen shows, if it has one.
    fn screen(&self) -> Option<Screen>;
    /// Asks the machine to end.
    fn stop(&self);
}

/// What was counted, for the two kinds of readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statistics {
    /// For people, with a line feed at its end.
    pub(super) table: String,
    /// For programs.
    pub(super) json: String,
}

/// A machine that has ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) outcome: Outcome,
    /// There if [`Plan::measure`] asks for it.
    pub(super) statistics: Option<Statistics>,
}

/// A machine that is ready to run.
pub(super) struct Started {
    pub(super) handle: Arc<dyn Handle>,
    /// Runs it to its end, on the thread that calls this.
    pub(super) run: Box<dyn FnOnce() -> Finished>,
}

/// What a machine is given by the command line, besides the plan.
pub(super) struct Surroundings {
    /// Takes what the guest prints on its console. Every write is shown at once.
    pub(super) console: Box<dyn Write + Send>,
    /// Asked whenever the guest restarts the machine.
    pub(super) after_reset: Box<dyn FnMut() -> AfterReset + Send>,
}

/// Makes a machine after the plan, with the guest loaded and ready to run.
pub(super) fn start(plan: &Plan, surroundings: Surroundings) -> Result<Started, Failure> {
    let Surroundings { console, mut after_reset } = surroundings;
    let kind = match plan.engine {
        Engine::Auto => EngineKind::Auto,
        Engine::Interpret => EngineKind::Interpret,
        Engine::Translate => EngineKind::Translate,
        Engine::Verify => EngineKind::Verify,
    };
    let technique = match plan.technique {
        Technique::Full => ambos_machine::Technique::Full,
        Technique::Hybrid => ambos_machine::Technique::Hybrid,
        Technique::Para => ambos_machine::Technique::Para,
    };
    let disks = plan.disks.iter().map(Disk::open).collect::<Result<_, _>>()?;
    let network = plan.network.open()?;
    let access = HostAccess {
        directories: plan.shares.iter().map(Directory::open).collect::<Result<_, _>>()?,
        sockets: plan.sockets.as_ref().map(Sockets::open).transpose()?,
    };
    let files = plan.clone();
    let config = Config {
        memory: plan.memory,
        cpus: u32::from(plan.cpus),
        boot: Box::new(move || boot_config(&files).map_err(Into::into)),
        engine: EngineConfig {
            kind,
            code_cache: plan.code_cache,
            views: match plan.views {
                Views::Auto => ambos_machine::Views::Auto,
                Views::Always => ambos_machine::Views::Always,
                Views::Never => ambos_machine::Views::Never,
            },
            perf_map: plan.perf_map,
        },
        debug_exit: plan.debug_exit,
        technique,
        disks,
        network,
        access,
        video: plan.vga.0,
        console,
    };
    let mut machine = Machine::new(config).map_err(failure)?;
    let windows = plan.measure.then(|| Arc::new(Windows::new(machine.observer())));
    let handle: Arc<dyn Handle> =
        Arc::new(MachineHandle { handle: machine.handle(), windows: windows.clone() });
    let run = move || {
        let outcome = match machine.run(|| match after_reset() {
            AfterReset::Boot => ambos_machine::AfterReset::Boot,
            AfterReset::End => ambos_machine::AfterReset::End,
        }) {
            Ok(ambos_machine::Outcome::PoweredOff) => Outcome::PoweredOff,
            Ok(ambos_machine::Outcome::Reset) => Outcome::Reset,
            Ok(ambos_machine::Outcome::Crashed(why)) => Outcome::Crashed(why),
            // The system takes the low byte of an exit status.
            Ok(ambos_machine::Outcome::DebugExit(status)) => Outcome::DebugExit(status as u8),
            Ok(ambos_machine::Outcome::Failed(reason)) => Outcome::Failed(Failure::Report(reason)),
            Ok(ambos_machine::Outcome::Stopped) => Outcome::Stopped,
            Err(error) => Outcome::Failed(failure(error)),
        };
        let statistics = windows.map(|windows| {
            let mut statistics = machine.statistics();
            statistics.windows = windows.take();
            Statistics { table: statistics.to_string(), json: statistics.to_json() }
        });
        Finished { outcome, statistics }
    };
    Ok(Started { handle, run: Box::new(run) })
}

/// Reads a file that must fit into `memory` bytes: the name may be that of an endless device.
fn read_bounded(path: &Path, memory: u64) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let size = file.metadata().map_or(0, |metadata| metadata.len().min(memory));
    let mut bytes = Vec::new();
    // With room for the read that finds the end.
    bytes.try_reserve_exact(usize::try_from(size).unwrap_or(usize::MAX).saturating_add(64))?;
    file.take(memory.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > memory {
        return Err(std::io::Error::other("it is larger than the guest's memory; try --memory"));
    }
    Ok(bytes)
}

/// What to load.
fn boot_config(plan: &Plan) -> Result<BootConfig, Failure> {
    let kernel = KernelImage::open(&plan.kernel).map_err(one_line)?;
    let read = |path: &Path| {
        read_bounded(path, plan.memory).map_err(|error| {
            Failure::usage_because(format!("cannot read {}", path.display()), error)
        })
    };
    let protocol = match plan.boot {
        Boot::Auto => Protocol::Auto,
        Boot::Linux64 => Protocol::Linux64,
        Boot::Pvh => Protocol::Pvh,
        Boot::Multiboot => Protocol::Multiboot,
    };
    let multiboot = protocol == Protocol::Multiboot
        || protocol == Protocol::Auto
            && kernel.multiboot().is_some()
            && !matches!(kernel.kind(), ImageKind::BzImage(_));
    let other = plan.technique == Technique::Para && is_no_linux(&kernel);
    let command_line =
        if multiboot || other { plan.append.clone() } else { plan.linux_command_line() };
    let initrd = plan.initrd.as_deref().map(read).transpose()?;
    let modules = plan.modules.iter().map(|module| {
        let data = read(&module.path)?;
        Ok(ambos_boot::Module { data, text: module.command_line.clone() })
    });
    let modules = modules.collect::<Result<Vec<_>, Failure>>()?;
    Ok(BootConfig { initrd, modules, command_line, protocol, ..BootConfig::new(kernel) })
}

/// Whether an ELF file names another system in its Xen notes: its command line is the user's alone.
fn is_no_linux(kernel: &KernelImage) -> bool {
    let named =
        || kernel.vmlinux().ok().flatten()?.xen_notes().text(XenNote::GuestOs).map(str::to_owned);
    matches!(kernel.kind(), ImageKind::Elf(_)) && named().is_some_and(|name| name != "linux")
}

/// What the user is told of a machine that cannot be made.
fn failure(error: MachineError) -> Failure {
    match error {
        MachineError::Files(error) => match error.downcast::<Failure>() {
            Ok(failure) => *failure,
            Err(error) => Failure::monitor("the guest cannot be read", error),
        },
        MachineError::Boot(error) => one_line(error),
        error @ MachineError::Disks(..) => {
            Failure::usage_because("not all disks can be attached; leave some out", error)
        }
        MachineError::Memory(error) => {
            Failure::usage_because("there is not enough memory for the guest; try --memory", error)
        }
        error => Failure::monitor("the machine failed", error),
    }
}

/// A kernel that cannot be used: its errors say how to mend it.
fn one_line(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::usage_because("the guest cannot be started", error)
}

/// A machine's handle as the command line sees it.
struct MachineHandle {
    handle: ambos_machine::Handle,
    /// There if anything is to be counted.
    windows: Option<Arc<Windows>>,
}

impl Handle for MachineHandle {
    fn send(&self, bytes: &[u8]) {
        self.handle.send(bytes);
    }

    fn mark(&self, mark: WindowMark) {
        if let Some(windows) = &self.windows {
            windows.mark(mark);
        }
    }

    fn resize(&self, rows: u16, columns: u16) {
        self.handle.resize(columns, rows);
    }

    fn press_power_button(&self) {
        self.handle.press_power_button();
    }

    fn screen(&self) -> Option<Screen> {
        self.handle.screen()
    }

    fn stop(&self) {
        self.handle.stop();
    }
}
