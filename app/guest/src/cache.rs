//! Where guests are kept.
//!
//! ```text
//! CACHE/lock                              held while anything below is changed
//! CACHE/apt/                              apt's own lists
//! CACHE/packages/debian-standard/         packages, kept so that an initramfs can be made anew
//! CACHE/guests/debian-standard/current    names the guest to use
//! CACHE/guests/debian-standard/ID/        kernel, initrd, config-…, manifest.json
//! ```
//!
//! A guest's directory is complete from the moment it has its name, and `current` is replaced in one
//! step, so readers need no lock.

use crate::{GuestError, Progress, initramfs};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Names of directories that are being filled begin with this.
pub(crate) const UNFINISHED: &str = ".unfinished-";
const CURRENT: &str = "current";
const MANIFEST: &str = "manifest.json";

/// Which of a distribution's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Flavour {
    /// The kernel for PCs, with drivers for everything.
    #[default]
    Standard,
    /// The smaller kernel for virtual machines; it lacks drivers for some of a PC's devices.
    Cloud,
}

impl Flavour {
    /// All flavours there are.
    pub const ALL: [Self; 2] = [Self::Standard, Self::Cloud];

    /// The package that always depends on the newest kernel of this flavour.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::Standard => "linux-image-amd64",
            Self::Cloud => "linux-image-cloud-amd64",
        }
    }

    /// The name of the guest in the cache.
    pub fn guest_name(self) -> &'static str {
        match self {
            Self::Standard => "debian-standard",
            Self::Cloud => "debian-cloud",
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standard => "standard",
            Self::Cloud => "cloud",
        })
    }
}

impl FromStr for Flavour {
    type Err = GuestError;

    /// Reads the name of a guest in the cache.
    fn from_str(name: &str) -> Result<Self, GuestError> {
        Self::ALL
            .into_iter()
            .find(|flavour| flavour.guest_name() == name)
            .ok_or_else(|| GuestError::NoSuchGuest { name: name.to_owned() })
    }
}

/// A guest that is ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestImage {
    /// Which kernel it has.
    pub flavour: Flavour,
    /// The kernel's release, such as `6.1.0-56-amd64`.
    pub release: String,
    /// The version of the kernel's package.
    pub version: String,
    /// The kernel, as distributed (bzImage).
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The kernel's configuration (`CONFIG_…` lines), under the name it has in `/boot`.
    pub config: PathBuf,
    /// Whether the initramfs is what this version of Ambos would make.
    pub(crate) current_recipe: bool,
}

impl GuestImage {
    /// The name of its directory, which is its [`Manifest::id`].
    pub(crate) fn directory_name(&self) -> Option<&str> {
        self.kernel.parent()?.file_name()?.to_str()
    }
}

/// What is recorded of a guest beside its files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The kernel's release.
    pub(crate) release: String,
    /// The version of the kernel's package.
    pub(crate) version: String,
    /// The version of busybox's package.
    pub(crate) busybox: String,
    /// [`initramfs::recipe`] when it was made.
    pub(crate) recipe: u64,
}

impl Manifest {
    /// The name of the guest's directory: different guests have different ones.
    pub(crate) fn id(&self) -> String {
        let text = format!("{}+{}+{:016x}", self.version, self.busybox, self.recipe);
        text.replace(|c: char| !c.is_ascii_alphanumeric() && !"+-.~".contains(c), "_")
    }
}

/// The directory that guests are kept in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache: `$AMBOS_CACHE`, else `$XDG_CACHE_HOME/ambos`, else `~/.cache/ambos`.
    ///
    /// # Errors
    ///
    /// [`GuestError::NoCacheDirectory`] if the environment names none of them.
    pub fn of_user() -> Result<Self, GuestError> {
        Self::from_environment(|name| std::env::var_os(name))
    }

    fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, GuestError> {
        let directory = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = directory("AMBOS_CACHE")
            // A relative path there is to be ignored (XDG Base Directory Specification).
            .or_else(|| {
                Some(directory("XDG_CACHE_HOME").filter(|path| path.is_absolute())?.join("ambos"))
            })
            .or_else(|| Some(directory("HOME")?.join(".cache/ambos")))
            .ok_or(GuestError::NoCacheDirectory)?;
        Ok(Self::at(std::path::absolute(&root).map_err(GuestError::file("find", &root))?))
    }

    /// The cache in a directory of the caller's choice, an absolute path.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The guest of this flavour, if there is one.
    pub fn guest(&self, flavour: Flavour) -> Option<GuestImage> {
        let directory = self.guests(flavour).join(CURRENT);
        let manifest = std::fs::read(directory.join(MANIFEST)).ok()?;
        let manifest: Manifest = serde_json::from_slice(&manifest).ok()?;
        // Named by its own directory: `current` may come to mean another one while this is used.
        let directory = std::fs::canonicalize(directory).ok()?;
        let guest = GuestImage {
            flavour,
            version: manifest.version,
            kernel: directory.join("kernel"),
            initrd: directory.join("initrd"),
            config: directory.join(format!("config-{}", manifest.release)),
            current_recipe: manifest.recipe == initramfs::recipe(),
            release: manifest.release,
        };
        [&guest.kernel, &guest.initrd, &guest.config]
            .iter()
            .all(|path| path.is_file())
            .then_some(guest)
    }

    /// All guests there are.
    pub fn guests_present(&self) -> Vec<GuestImage> {
        Flavour::ALL.into_iter().filter_map(|flavour| self.guest(flavour)).collect()
    }

    /// Removes a guest and the packages it was made from.
    ///
    /// # Errors
    ///
    /// [`GuestError::NoSuchGuest`] if it is not there, [`GuestError::File`] if it cannot be removed.
    pub fn remove(&self, flavour: Flavour, progress: &dyn Progress) -> Result<(), GuestError> {
        let missing = || GuestError::NoSuchGuest { name: flavour.guest_name().to_owned() };
        if !self.guests(flavour).exists() && !self.packages(flavour).exists() {
            return Err(missing());
        }
        let _lock = self.lock(progress)?;
        for path in [self.guests(flavour), self.packages(flavour)] {
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(GuestError::File { action: "remove", path, source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until no one else changes the cache. The lock is held as long as the result lives.
    pub(crate) fn lock(&self, progress: &dyn Progress) -> Result<File, GuestError> {
        std::fs::create_dir_all(&self.root).map_err(GuestError::file("create", &self.root))?;
        let path = self.root.join("lock");
        let file = File::create(&path).map_err(GuestError::file("create", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.note("Waiting for another ambos that is changing the guest cache");
                file.lock().map_err(GuestError::file("lock", &path))?;
            }
            Err(TryLockError::Error(error)) => return Err(GuestError::file("lock", &path)(error)),
        }
        Ok(file)
    }

    /// Takes the finished directory `directory` in as the guest of this flavour. Needs the lock.
    pub(crate) fn install(
        &self,
        flavour: Flavour,
        manifest: &Manifest,
        directory: &Path,
    ) -> Result<GuestImage, GuestError> {
        let path = directory.join(MANIFEST);
        let json = serde_json::to_vec_pretty(manifest)
            .map_err(|error| GuestError::file("write", &path)(error.into()))?;
        std::fs::write(&path, json).map_err(GuestError::file("write", &path))?;

        let guests = self.guests(flavour);
        let id = manifest.id();
        let target = guests.join(&id);
        if target.exists() {
            std::fs::remove_dir_all(&target).map_err(GuestError::file("replace", &target))?;
        }
        std::fs::rename(directory, &target).map_err(GuestError::file("create", &target))?;

        let next = guests.join(format!("{UNFINISHED}{CURRENT}"));
        match std::fs::remove_file(&next) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(GuestError::file("remove", &next)(error));
            }
            _ => {}
        }
        std::os::unix::fs::symlink(&id, &next).map_err(GuestError::file("create", &next))?;
        let current = guests.join(CURRENT);
        std::fs::rename(&next, &current).map_err(GuestError::file("replace", &current))?;
        self.remove_others(&guests, &id)?;
        self.guest(flavour)
            .ok_or_else(|| GuestError::NoSuchGuest { name: flavour.guest_name().into() })
    }

    /// Removes directories that are neither the current guest nor being filled: the lock is held,
    /// so no one fills any.
    fn remove_others(&self, guests: &Path, keep: &str) -> Result<(), GuestError> {
        for entry in std::fs::read_dir(guests).map_err(GuestError::file("read", guests))? {
            let entry = entry.map_err(GuestError::file("read", guests))?;
            let path = entry.path();
            if entry.file_name() != keep && path.is_dir() && !path.is_symlink() {
                std::fs::remove_dir_all(&path).map_err(GuestError::file("remove", &path))?;
            }
        }
        Ok(())
    }

    pub(crate) fn apt(&self) -> PathBuf {
        self.root.join("apt")
    }

    pub(crate) fn packages(&self, flavour: Flavour) -> PathBuf {
        self.root.join("packages").join(flavour.guest_name())
    }

    pub(crate) fn guests(&self, flavour: Flavour) -> PathBuf {
        self.root.join("guests").join(flavour.guest_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;

    fn manifest(version: &str) -> Manifest {
        Manifest {
            release: "6.1.0-56-amd64".to_owned(),
            version: version.to_owned(),
            busybox: "1:1.35.0-4".to_owned(),
            recipe: initramfs::recipe(),
        }
    }

    fn filled(cache: &Cache, name: &str) -> PathBuf {
        let directory = cache.guests(Flavour::Standard).join(name);
        std::fs::create_dir_all(&directory).unwrap();
        for file in ["kernel", "initrd", "config-6.1.0-56-amd64"] {
            std::fs::write(directory.join(file), name).unwrap();
        }
        directory
    }

    #[test]
    fn the_place_follows_the_environment() {
        let place = |variables: &[(&str, &str)]| {
            Cache::from_environment(|name| {
                let (_, value) = variables.iter().find(|(key, _)| *key == name)?;
                Some(OsString::from(value))
            })
            .map(|cache| cache.root.to_str().unwrap().to_owned())
        };
        assert_eq!(place(&[("HOME", "/home/a")]).unwrap(), "/home/a/.cache/ambos");
        let both = [("HOME", "/home/a"), ("XDG_CACHE_HOME", "/var/c")];
        assert_eq!(place(&both).unwrap(), "/var/c/ambos");
        assert_eq!(place(&[("XDG_CACHE_HOME", "c"), ("HOME", "/h")]).unwrap(), "/h/.cache/ambos");
        assert_eq!(place(&[("AMBOS_CACHE", "/x"), ("HOME", "/h")]).unwrap(), "/x");
        assert_eq!(place(&[("AMBOS_CACHE", ""), ("HOME", "/h")]).unwrap(), "/h/.cache/ambos");
        assert!(matches!(place(&[]), Err(GuestError::NoCacheDirectory)));
    }

    #[test]
    fn a_new_guest_replaces_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        assert_eq!(cache.guest(Flavour::Standard), None);
        assert!(cache.guests_present().is_empty());

        let first = filled(&cache, ".unfinished-1");
        let guest = cache.install(Flavour::Standard, &manifest("6.1.1-1"), &first).unwrap();
        assert_eq!(guest.version, "6.1.1-1");
        assert!(guest.current_recipe);

        // Left behind by one that was killed.
        filled(&cache, ".unfinished-2");
        let second = filled(&cache, ".unfinished-3");
        let guest = cache.install(Flavour::Standard, &manifest("6.1.2-1"), &second).unwrap();
        assert_eq!(std::fs::read(&guest.kernel).unwrap(), b".unfinished-3");
        assert_eq!(cache.guests_present(), vec![guest.clone()]);
        let names = std::fs::read_dir(cache.guests(Flavour::Standard)).unwrap().count();
        assert_eq!(names, 2, "the guest and `current`");

        // The same guest once more.
        let again = filled(&cache, ".unfinished-4");
        let guest = cache.install(Flavour::Standard, &manifest("6.1.2-1"), &again).unwrap();
        assert_eq!(std::fs::read(&guest.kernel).unwrap(), b".unfinished-4");

        cache.remove(Flavour::Standard, &Silent).unwrap();
        assert!(cache.guests_present().is_empty());
        assert!(matches!(
            cache.remove(Flavour::Standard, &Silent),
            Err(GuestError::NoSuchGuest { .. })
        ));
    }

    #[test]
    fn incomplete_guests_are_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let first = filled(&cache, ".unfinished-1");
        let guest = cache.install(Flavour::Standard, &manifest("1"), &first).unwrap();
        std::fs::remove_file(guest.initrd).unwrap();
        assert_eq!(cache.guest(Flavour::Standard), None);
        std::fs::write(guest.kernel.parent().unwrap().join("manifest.json"), "{").unwrap();
        assert_eq!(cache.guest(Flavour::Standard), None);
    }

    #[test]
    fn directory_names_are_harmless() {
        assert_eq!(manifest("1:2/../3~rc1").id().split('+').next(), Some("1_2_.._3~rc1"));
    }
}
