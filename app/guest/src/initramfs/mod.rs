//! The initramfs of a guest: busybox, our `/init`, and the drivers for the devices that Ambos offers.
//!
//! The archive is not compressed: it is some eight megabytes, and unpacking would cost a guest on a
//! software CPU far more than copying does.

use crate::GuestError;
use crate::cpio::Writer;
use crate::modules::ModuleSet;
use std::collections::BTreeSet;
use std::io::Write;

/// What the kernel runs first.
const INIT: &[u8] = include_bytes!("init.sh");
/// Read by login shells.
const PROFILE: &[u8] = include_bytes!("profile");
/// Read by interactive shells, and before a command.
const SHRC: &[u8] = include_bytes!("shrc");

/// A guest's console is serial: it need not spend time on a frame buffer unless it is asked to.
const MODPROBE: &[u8] = b"blacklist bochs\n";

/// What the DHCP client calls.
const DHCP: &[u8] = include_bytes!("udhcpc.sh");

/// Raised whenever the archive changes in a way that [`recipe`] would not notice.
const REVISION: u64 = 2;

/// Modules that guests are given where their kernel has them, with all that these depend on.
pub const DRIVERS: &[&str] = &[
    // Full virtualization: the PC's disk controller, disks, CD-ROM, network card.
    "ata_piix",
    "sd_mod",
    "sr_mod",
    "e1000",
    // Its screen as a frame buffer, and its mouse; nothing loads them by itself.
    "bochs",
    "psmouse",
    // Hybrid: virtio over PCI.
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "vmw_vsock_virtio_transport",
    "virtiofs",
    // Paravirtualization: front ends of the Xen ABI.
    "xen_blkfront",
    "xen_netfront",
    // File systems, and what they ask for by name instead of by dependency.
    "ext4",
    "crc32c_generic",
    "crc32c_intel",
    "isofs",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "overlay",
    "loop",
    // The power button of a PC.
    "button",
    "evdev",
    // Sockets that tools in the guest use.
    "af_packet",
];

/// Directories of the archive, parents first.
const DIRECTORIES: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/acpi", 0o755),
    ("etc/acpi/PWRF", 0o755),
    ("etc/modprobe.d", 0o755),
    ("lib", 0o755),
    ("lib/modules", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
];

/// All programs are applets in `/bin`; these are the other names of that directory, and of others.
const LINKS: &[(&str, &str)] = &[
    ("sbin", "bin"),
    ("usr/bin", "../bin"),
    ("usr/sbin", "../bin"),
    ("var/run", "../run"),
    ("var/tmp", "../tmp"),
    ("etc/mtab", "../proc/self/mounts"),
];

/// Small files of the archive.
const FILES: &[(&str, u32, &[u8])] = &[
    ("init", 0o755, INIT),
    ("etc/profile", 0o644, PROFILE),
    ("etc/shrc", 0o644, SHRC),
    ("etc/acpi/PWRF/00000080", 0o755, b"#!/bin/sh\npoweroff -f\n"),
    ("etc/udhcpc.sh", 0o755, DHCP),
    ("etc/modprobe.d/ambos.conf", 0o644, MODPROBE),
    ("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n"),
    ("etc/group", 0o644, b"root:x:0:\n"),
    ("etc/hosts", 0o644, b"127.0.0.1 localhost ambos\n::1 localhost\n"),
];

/// Applets that [`INIT`] cannot do without.
const NEEDED_APPLETS: &[&str] = &[
    "acpid", "base64", "cat", "cttyhack", "hostname", "ip", "mkdir", "modprobe", "mount",
    "poweroff", "printf", "setsid", "sh", "sleep", "stty", "udhcpc", "uname",
];

/// What goes into an initramfs.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The statically linked busybox.
    pub busybox: &'a [u8],
    /// Names of its applets.
    pub applets: &'a BTreeSet<String>,
    /// The kernel's release, such as `6.1.0-56-amd64`: the name of its directory of modules.
    pub release: &'a str,
    /// The modules.
    pub modules: &'a ModuleSet,
    /// The kernel's own `modules.builtin`, by which `modprobe` knows what need not be loaded.
    pub builtin: &'a [u8],
}

/// A number that changes when the same packages would give a different initramfs.
pub fn recipe() -> u64 {
    let mut hash = Fnv::new();
    hash.add(&REVISION.to_le_bytes());
    for driver in DRIVERS {
        hash.add(driver.as_bytes());
        hash.add(&[0]);
    }
    for (name, mode, contents) in FILES {
        hash.add(name.as_bytes());
        hash.add(&mode.to_le_bytes());
        hash.add(contents);
    }
    for (name, target) in LINKS {
        hash.add(name.as_bytes());
        hash.add(target.as_bytes());
    }
    for (name, mode) in DIRECTORIES {
        hash.add(name.as_bytes());
        hash.add(&mode.to_le_bytes());
    }
    hash.0
}

/// The 64-bit FNV-1a hash: the same in every build, which the standard library's is not.
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// What all that was added comes to.
    pub(crate) fn value(&self) -> u64 {
        self.0
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Writes the initramfs to `out`.
///
/// # Errors
///
/// [`GuestError::Initramfs`] if busybox lacks an applet that `/init` needs, or writing fails.
pub fn write(contents: &Contents<'_>, out: impl Write) -> Result<(), GuestError> {
    if let Some(applet) = NEEDED_APPLETS.iter().find(|&&name| !contents.applets.contains(name)) {
        return Err(GuestError::Initramfs(format!("busybox has no applet {applet}")));
    }
    write_archive(contents, out).map_err(|error| GuestError::Initramfs(error.to_string()))
}

fn write_archive(contents: &Contents<'_>, out: impl Write) -> std::io::Result<()> {
    let mut archive = Writer::new(out);
    for &(name, mode) in DIRECTORIES {
        archive.directory(name, mode)?;
    }
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.character_device("dev/null", 0o666, 1, 3)?;
    archive.file("bin/busybox", 0o755, contents.busybox)?;
    for applet in contents.applets.iter().filter(|&name| name != "busybox") {
        archive.link(&format!("bin/{applet}"), "busybox")?;
    }
    for &(name, target) in LINKS {
        archive.link(name, target)?;
    }
    for &(name, mode, bytes) in FILES {
        archive.file(name, mode, bytes)?;
    }
    write_modules(contents, &mut archive)?;
    archive.finish()?;
    Ok(())
}

fn write_modules<W: Write>(
    contents: &Contents<'_>,
    archive: &mut Writer<W>,
) -> std::io::Result<()> {
    let root = format!("lib/modules/{}", contents.release);
    archive.directory(&root, 0o755)?;
    let mut directories = BTreeSet::new();
    for module in contents.modules.iter() {
        for (slash, _) in module.name.match_indices('/') {
            let directory = &module.name[..slash];
            if directories.insert(directory) {
                archive.directory(&format!("{root}/{directory}"), 0o755)?;
            }
        }
        archive.file(&format!("{root}/{}", module.name), 0o644, &module.contents)?;
    }
    let dependencies = contents.modules.dependency_index();
    archive.file(&format!("{root}/modules.dep"), 0o644, dependencies.as_bytes())?;
    let aliases = contents.modules.alias_index();
    archive.file(&format!("{root}/modules.alias"), 0o644, aliases.as_bytes())?;
    archive.file(&format!("{root}/modules.builtin"), 0o644, contents.builtin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::ModuleTree;

    fn no_modules() -> ModuleSet {
        let directory = tempfile::tempdir().unwrap();
        ModuleTree::scan(directory.path()).unwrap().select([]).unwrap()
    }

    fn applets() -> BTreeSet<String> {
        NEEDED_APPLETS.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_archive_holds_init_and_applets() {
        let contents = Contents {
            busybox: b"elf",
            applets: &applets(),
            release: "6.1.0-56-amd64",
            modules: &no_modules(),
            builtin: b"kernel/fs/proc.ko\n",
        };
        let mut archive = Vec::new();
        write(&contents, &mut archive).unwrap();
        let text = String::from_utf8_lossy(&archive);
        for name in
            ["init\0", "bin/sh\0", "dev/console\0", "lib/modules/6.1.0-56-amd64/modules.dep\0"]
        {
            assert!(text.contains(name), "{name}");
        }
        let mut again = Vec::new();
        write(&contents, &mut again).unwrap();
        assert!(archive == again, "the archive is reproducible");
    }

    #[test]
    fn a_busybox_that_cannot_run_init_is_refused() {
        let mut applets = applets();
        applets.remove("cttyhack");
        let contents = Contents {
            busybox: b"elf",
            applets: &applets,
            release: "1",
            modules: &no_modules(),
            builtin: b"",
        };
        let error = write(&contents, Vec::new()).unwrap_err();
        assert!(error.to_string().contains("cttyhack"));
    }

    /// Every name in the script that could be an applet is in the list of those needed.
    #[test]
    fn init_is_valid_shell() {
        let Ok(status) = std::process::Command::new("sh")
            .args(["-n", concat!(env!("CARGO_MANIFEST_DIR"), "/src/initramfs/init.sh")])
            .status()
        else {
            return;
        };
        assert!(status.success());
    }
}
