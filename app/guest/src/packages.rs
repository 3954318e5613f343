//! Archives of a distribution's packages, to be unpacked by a guest's kernel after our initramfs.
//!
//! The packages are unpacked, not installed: their scripts do not run, so no users are made and no
//! services started. What programs need to run is all there. Since the programs of our initramfs are
//! all in `/bin`, with the other directories of programs as links to it, those of packages go there.

use crate::apt::{Apt, Package};
use crate::{Cache, GuestError, Progress, Refresh, cpio, deb};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Raised whenever the archive of the same packages changes.
const REVISION: u64 = 1;

/// Directories that running programs do not look into.
const LEFT_OUT: &[&str] = &[
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/share/bug",
    "etc/init.d",
    "etc/cron.daily",
    "etc/logrotate.d",
    "lib/systemd",
    "usr/lib/systemd",
];

/// Directories whose content goes to `bin`.
const PROGRAMS: &[&str] = &["usr/bin", "usr/sbin", "sbin", "bin"];

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOptions {
    /// Names of packages; what they depend on comes with them.
    pub packages: Vec<String>,
    /// Where archives are kept.
    pub cache: Cache,
    /// When to fetch the package lists anew.
    pub refresh: Refresh,
}

/// An archive of packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageArchive {
    /// The archive: cpio, not compressed.
    pub path: PathBuf,
    /// The packages in it.
    pub packages: Vec<Package>,
}

/// Makes an archive of packages, or finds the one that was made of the same packages before.
///
/// # Errors
///
/// [`GuestError::UnknownPackage`] if the host's sources have no such package; others as
/// [`pull`](crate::pull).
pub fn build(
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<PackageArchive, GuestError> {
    let _lock = options.cache.lock(progress)?;
    let apt = Apt::new(&options.cache.apt())?;
    if options.refresh == Refresh::Always || !apt.lists_are_fresh() {
        // Without network, what was fetched before is used.
        if let Err(error) = apt.refresh_lists(progress) {
            progress.note(&format!("Going by older package lists: {error}"));
        }
    }
    let packages = apt.closure(&options.packages)?;
    let id = id(&packages);
    let archives = options.cache.root().join("archives");
    std::fs::create_dir_all(&archives).map_err(GuestError::file("create", &archives))?;
    let path = archives.join(format!("{id}.cpio"));
    if path.is_file() {
        return Ok(PackageArchive { path, packages });
    }
    let downloads = options.cache.root().join("packages").join(format!("archive-{id}"));
    let files = apt.download(&packages, &downloads, progress)?;
    progress.begin("Unpacking packages", None);
    let result = assemble(&files, &archives, &path);
    progress.end();
    result?;
    // They are in the archive now.
    std::fs::remove_dir_all(&downloads).map_err(GuestError::file("remove", &downloads))?;
    Ok(PackageArchive { path, packages })
}

/// A name that differs for different packages.
fn id(packages: &[Package]) -> String {
    let mut hash = crate::initramfs::Fnv::new();
    hash.add(&REVISION.to_le_bytes());
    for package in packages {
        hash.add(package.file_name().as_bytes());
        hash.add(&[0]);
    }
    format!("{:016x}", hash.value())
}

fn assemble(files: &[PathBuf], directory: &Path, path: &Path) -> Result<(), GuestError> {
    let unpacked = tempfile::Builder::new()
        .prefix(".unfinished-")
        .tempdir_in(directory)
        .map_err(GuestError::file("create a directory in", directory))?;
    for file in files {
        deb::unpack_all(file, unpacked.path(), wanted)?;
    }
    let entries = entries(unpacked.path())?;
    let next = unpacked.path().join(".archive");
    let file = File::create(&next).map_err(GuestError::file("create", &next))?;
    write(&entries, BufWriter::with_capacity(1 << 20, file))?;
    std::fs::rename(&next, path).map_err(GuestError::file("create", path))
}

fn wanted(path: &Path) -> bool {
    !LEFT_OUT.iter().any(|directory| path.starts_with(directory))
}

/// What an archive holds under a name.
enum Entry {
    Directory,
    File(PathBuf, u32),
    Link(String),
}

/// Everything under `root`, by its name in the archive.
fn entries(root: &Path) -> Result<BTreeMap<String, Entry>, GuestError> {
    let mut entries = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(directory) = waiting.pop() {
        let path = root.join(&directory);
        let list = std::fs::read_dir(&path).map_err(GuestError::file("read", &path))?;
        for entry in list {
            let entry = entry.map_err(GuestError::file("read", &path))?;
            let name = directory.join(entry.file_name());
            let full = entry.path();
            let metadata =
                std::fs::symlink_metadata(&full).map_err(GuestError::file("read", &full))?;
            if metadata.is_dir() {
                waiting.push(name.clone());
            }
            let Some(place) = place(&name) else { continue };
            let mode = metadata.permissions().mode() & 0o7777;
            let entry = if metadata.is_dir() {
                Entry::Directory
            } else if metadata.is_symlink() {
                let target = std::fs::read_link(&full).map_err(GuestError::file("read", &full))?;
                Entry::Link(target.to_string_lossy().into_owned())
            } else {
                Entry::File(full, mode)
            };
            entries.insert(place, entry);
        }
    }
    Ok(entries)
}

/// Where a file of a package goes; `None` if our initramfs has that directory as a link.
fn place(name: &Path) -> Option<String> {
    for programs in PROGRAMS {
        if let Ok(rest) = name.strip_prefix(programs) {
            if rest.as_os_str().is_empty() {
                return None;
            }
            return Some(format!("bin/{}", rest.to_string_lossy()));
        }
    }
    // These are links of our initramfs, too.
    if name.starts_with("var/run") || name.starts_with("var/tmp") {
        return None;
    }
    Some(name.to_string_lossy().into_owned())
}

fn write(entries: &BTreeMap<String, Entry>, out: impl Write) -> Result<(), GuestError> {
    let failed = |error: std::io::Error| GuestError::Initramfs(error.to_string());
    let mut archive = cpio::Writer::new(out);
    // In the order of names, so that a directory comes before what is in it.
    for (name, entry) in entries {
        match entry {
            Entry::Directory => archive.directory(name, 0o755),
            Entry::Link(target) => archive.link(name, target),
            Entry::File(path, mode) => {
                let bytes = std::fs::read(path).map_err(GuestError::file("read", path))?;
                archive.file(name, *mode, &bytes)
            }
        }
        .map_err(failed)?;
    }
    archive.finish().and_then(|mut out| out.flush()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_go_to_one_directory() {
        let place = |name: &str| place(Path::new(name));
        assert_eq!(place("usr/sbin/nginx").as_deref(), Some("bin/nginx"));
        assert_eq!(place("bin/sh").as_deref(), Some("bin/sh"));
        assert_eq!(place("usr/lib/x").as_deref(), Some("usr/lib/x"));
        assert_eq!(place("usr/bin"), None);
        assert_eq!(place("var/run/nginx"), None);
    }

    #[test]
    fn directories_come_first() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("usr/bin")).unwrap();
        std::fs::create_dir_all(directory.path().join("usr/lib/a")).unwrap();
        std::fs::write(directory.path().join("usr/bin/tool"), "#!").unwrap();
        std::fs::write(directory.path().join("usr/lib/a/lib.so.1"), "elf").unwrap();
        std::os::unix::fs::symlink("lib.so.1", directory.path().join("usr/lib/a/lib.so")).unwrap();
        let entries = entries(directory.path()).unwrap();
        let names: Vec<&str> = entries.keys().map(String::as_str).collect();
        let expected =
            ["bin/tool", "usr", "usr/lib", "usr/lib/a", "usr/lib/a/lib.so", "usr/lib/a/lib.so.1"];
        assert_eq!(names, expected);
        let file = tempfile::NamedTempFile::new().unwrap();
        write(&entries, file.reopen().unwrap()).unwrap();
        let text = std::fs::read(file.path()).unwrap();
        assert!(text.starts_with(b"070701"));
    }

    #[test]
    fn documents_are_left_out() {
        assert!(!wanted(Path::new("usr/share/doc/a/copyright")));
        assert!(wanted(Path::new("usr/share/a")));
    }
}
