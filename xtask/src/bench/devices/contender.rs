//! Who is compared: a monitor with a kind of devices.

use super::Figure;
use crate::bench::monitor::{Monitor, ours, qemu};
use std::path::Path;
use std::process::Command;

/// A monitor with a kind of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contender {
    /// Our IDE disk and e1000.
    Full,
    /// Our virtio devices.
    Hybrid,
    /// Our back ends for a Xen guest.
    Para,
    /// QEMU's IDE disk and e1000.
    QemuGeneric,
    /// QEMU's virtio devices.
    QemuVirtio,
}

/// What a guest is given.
pub(super) struct Setting<'a> {
    pub(super) ambos: &'a Path,
    pub(super) kernel: &'a Path,
    pub(super) initrd: &'a Path,
    /// A raw image.
    pub(super) disk: &'a Path,
    /// Where our monitor writes what it counted.
    pub(super) statistics: &'a Path,
    pub(super) script: &'a str,
    /// Parameters for the kernel that make its `/init` run the script; our monitor adds its own.
    pub(super) parameters: &'a str,
}

/// Memory of the guest: packages are unpacked in it.
const MEMORY: &str = "1536M";

impl Contender {
    pub(super) const ALL: [Self; 5] =
        [Self::Full, Self::QemuGeneric, Self::Hybrid, Self::QemuVirtio, Self::Para];

    pub(super) fn is_qemu(self) -> bool {
        matches!(self, Self::QemuGeneric | Self::QemuVirtio)
    }

    /// Its name in a table of `figure`.
    pub(super) fn name(self, figure: Figure) -> &'static str {
        match (self, figure) {
            (Self::Full, Figure::Download) => "e1000",
            (Self::Full, _) => "IDE",
            (Self::Hybrid, Figure::Download) => "virtio-net",
            (Self::Hybrid, _) => "virtio-blk",
            (Self::Para, Figure::Download) => "netfront",
            (Self::Para, _) => "blkfront",
            (Self::QemuGeneric, Figure::Download) => "QEMU's e1000",
            (Self::QemuGeneric, _) => "QEMU's ide-hd",
            (Self::QemuVirtio, Figure::Download) => "QEMU's virtio-net-pci",
            (Self::QemuVirtio, _) => "QEMU's virtio-blk-pci",
        }
    }

    /// What the guest calls its disk.
    pub(super) fn disk(self) -> &'static str {
        match self {
            Self::Full | Self::QemuGeneric => "sda",
            Self::Hybrid | Self::QemuVirtio => "vda",
            Self::Para => "xvda",
        }
    }

    /// The monitor, ready to be started.
    pub(super) fn command(self, setting: &Setting<'_>) -> Command {
        let (technique, disk, adapter) = match self {
            Self::Full => ("full", "", ""),
            Self::Hybrid => ("hybrid", "", ""),
            Self::Para => ("para", "", ""),
            Self::QemuGeneric => ("", "ide-hd", "e1000"),
            Self::QemuVirtio => ("", "virtio-blk-pci", "virtio-net-pci"),
        };
        let image = setting.disk.display();
        if !self.is_qemu() {
            let mut command = ours(setting.ambos, Monitor::Ambos);
            command.args(["-t", technique, "--memory", MEMORY, "--append", "quiet"]);
            command.arg("--kernel").arg(setting.kernel).arg("--initrd").arg(setting.initrd);
            command.arg("--disk").arg(format!("{image},format=raw"));
            command.arg("--stats").arg(setting.statistics).args(["--exec", setting.script]);
            return command;
        }
        let mut command = qemu();
        command.args(["-m", MEMORY, "-no-reboot", "-serial", "stdio"]);
        command.arg("-kernel").arg(setting.kernel).arg("-initrd").arg(setting.initrd);
        command.args(["-append", &format!("console=ttyS0 panic=-1 quiet {}", setting.parameters)]);
        command.args(["-drive", &format!("file={image},if=none,id=d,format=raw,cache=unsafe")]);
        command.args(["-device", &format!("{disk},drive=d"), "-netdev", "user,id=n"]);
        command.args(["-device", &format!("{adapter},netdev=n,romfile=")]);
        command
    }
}
