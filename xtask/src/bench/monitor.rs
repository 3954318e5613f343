//! The monitors under test, and how they are started.

use ambos_guest::{Flavour, TerminalProgress};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One monitor under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Monitor {
    Ambos,
    /// Ambos with its interpreter alone.
    Interpreter,
    Qemu,
}

impl Monitor {
    /// Its name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ambos => "ambos",
            Self::Interpreter => "interpreter",
            Self::Qemu => "qemu-tcg",
        }
    }
}

/// Whether QEMU is installed.
pub(super) fn qemu_is_there() -> bool {
    Command::new("qemu-system-x86_64").arg("--version").output().is_ok()
}

/// Builds the monitor and returns its path.
pub(crate) fn build() -> Result<PathBuf, String> {
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--package", "ambos"])
        .status()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !status.success() {
        return Err("the build failed".to_owned());
    }
    let xtask = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = xtask.parent().ok_or("no build folder")?;
    Ok(folder.with_file_name("release").join("ambos"))
}

/// Kernel and initramfs of a guest, pulled on first use.
pub(super) fn guest_files(flavour: Flavour) -> Result<(PathBuf, PathBuf), String> {
    let guest = ambos_guest::ensure_default(flavour, &TerminalProgress::new())
        .map_err(|error| error.to_string())?;
    Ok((guest.kernel, guest.initrd))
}

/// `ambos run` with the engine that is measured.
pub(super) fn ours(ambos: &Path, monitor: Monitor) -> Command {
    let mut command = Command::new(ambos);
    let engine = if monitor == Monitor::Interpreter { "interpret" } else { "auto" };
    command.args(["run", "--engine", engine]);
    command
}

/// QEMU without hardware virtualization and with no device that is not asked for.
pub(super) fn qemu() -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg,thread=single", "-cpu", "max", "-display", "none", "-nodefaults"]);
    command
}

/// Anonymous and file-backed memory of a process, in MiB; guest RAM is shared memory.
pub(super) fn private_memory(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kib = status.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        if !matches!(name, "RssAnon" | "RssFile") {
            return None;
        }
        value.trim().trim_end_matches(" kB").parse::<f64>().ok()
    });
    kib.sum::<f64>() / 1024.0
}
