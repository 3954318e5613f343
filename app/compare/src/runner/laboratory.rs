//! What all guests of a comparison share: the kernel, the root file system, the disk, the network's
//! peer, and a directory for what is only needed meanwhile.

use super::{Errand, Root};
use crate::guest_programs;
use crate::peer::Peer;
use ambos_guest::cpio;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Bytes of the disk.
const DISK: usize = 64 << 20;

/// The monitor that is measured.
#[derive(Debug, Clone)]
pub struct Monitor {
    /// Its program.
    pub program: PathBuf,
    /// Its engine, as `--engine` names it.
    pub engine: String,
}

/// The files of the guest.
#[derive(Debug, Clone)]
pub struct GuestFiles {
    /// Its name for people.
    pub name: String,
    /// The kernel's release, if it is known.
    pub release: Option<String>,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs, which must be one of `ambos guest`.
    pub initrd: PathBuf,
}

/// The place where guests are run.
pub(crate) struct Laboratory {
    pub(crate) monitor: Monitor,
    pub(crate) guest: GuestFiles,
    directory: TempDir,
    /// Who the guest talks to over the network.
    peer: Option<Peer>,
}

/// The address of the host in a guest's own network.
const GATEWAY: &str = "10.0.2.2";

impl Laboratory {
    /// Prepares what every guest needs.
    pub(crate) fn new(
        monitor: Monitor,
        guest: GuestFiles,
        disk: bool,
        network: bool,
    ) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("ambos-compare-").tempdir()?;
        let peer = if network { Some(Peer::start()?) } else { None };
        let guest = keep(guest, directory.path())?;
        let laboratory = Self { monitor, guest, directory, peer };
        let overlay = overlay()?;
        laboratory.append_to_initrd(&laboratory.scratch("initrd"), &overlay)?;
        if disk {
            fill(&laboratory.disk_file())?;
        }
        Ok(laboratory)
    }

    /// A file that lives as long as the laboratory.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the guest's initramfs and an archive after it: the kernel unpacks both, in order.
    fn append_to_initrd(&self, path: &Path, archive: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        File::open(&self.guest.initrd)?.read_to_end(&mut bytes)?;
        // Archives begin at multiples of four bytes.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(archive);
        std::fs::write(path, bytes)
    }

    /// The initramfs for a guest.
    pub(super) fn initrd(&self, root: &Root) -> PathBuf {
        match root {
            Root::Service(path) | Root::Probe(path) => path.clone(),
            Root::Workloads => self.scratch("initrd"),
        }
    }

    /// Makes an initramfs of the guest's own, the workload program and another archive.
    pub(crate) fn service_initrd(&self, name: &str, archive: &[u8]) -> io::Result<PathBuf> {
        let mut both = overlay()?;
        both.resize(both.len().next_multiple_of(4), 0);
        both.extend_from_slice(archive);
        let path = self.scratch(name);
        self.append_to_initrd(&path, &both)?;
        Ok(path)
    }

    /// What the kernel's command line says beside what the monitor puts there.
    pub(super) fn append(&self, errand: &Errand) -> String {
        let mut text = "quiet".to_owned();
        if let (true, Some(peer)) = (errand.network, &self.peer) {
            text.push_str(&format!(" ambos.peer={GATEWAY}:{}", peer.port()));
        }
        text
    }

    pub(super) fn disk_file(&self) -> PathBuf {
        self.scratch("disk.img")
    }

    /// The disk as `--disk` names it.
    pub(super) fn disk(&self) -> String {
        format!("{},format=raw", self.disk_file().display())
    }
}

/// Copies the kernel, and what lies beside it to tell of its drivers: the guest cache may be brought up to
/// date while the comparison runs, and every boot is to be of the same kernel.
fn keep(mut guest: GuestFiles, directory: &Path) -> io::Result<GuestFiles> {
    let kernel = directory.join("kernel");
    std::fs::copy(&guest.kernel, &kernel)?;
    if let Some(release) = &guest.release {
        let name = format!("config-{release}");
        // Without it, its drivers are not known.
        let _ = std::fs::copy(guest.kernel.with_file_name(&name), directory.join(&name));
    }
    let initrd = directory.join("initrd-of-guest");
    std::fs::copy(&guest.initrd, &initrd)?;
    (guest.kernel, guest.initrd) = (kernel, initrd);
    Ok(guest)
}

/// The archive of what the workloads need.
fn overlay() -> io::Result<Vec<u8>> {
    let mut archive = cpio::Writer::new(Vec::new());
    archive.file("bin/ambos-workload", 0o755, guest_programs::WORKLOAD)?;
    archive.file("bin/ambos-facts", 0o755, guest_programs::FACTS)?;
    archive.finish()
}

/// Writes a disk full of bytes that no file system can make short.
fn fill(path: &Path) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut word = 1u64;
    for _ in 0..DISK / 8 {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.write_all(&word.to_le_bytes())?;
    }
    file.flush()
}
