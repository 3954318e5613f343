//! Puts a guest together: packages in, guest in the cache out.

use crate::apt::{Apt, Package};
use crate::cache::{Manifest, UNFINISHED};
use crate::modules::ModuleTree;
use crate::{Cache, Flavour, GuestError, GuestImage, Progress, deb, initramfs};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BUSYBOX: &str = "busybox-static";

/// When to fetch the package lists anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refresh {
    /// If they are older than a day or absent.
    #[default]
    WhenStale,
    /// In any case.
    Always,
}

/// What to pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOptions {
    /// Which kernel.
    pub flavour: Flavour,
    /// Where guests are kept.
    pub cache: Cache,
    /// When to fetch the package lists anew.
    pub refresh: Refresh,
}

/// The guest of this flavour from the user's cache; pulled first if it is not there.
///
/// # Errors
///
/// As [`pull`].
pub fn ensure_default(flavour: Flavour, progress: &dyn Progress) -> Result<GuestImage, GuestError> {
    let cache = Cache::of_user()?;
    match cache.guest(flavour) {
        Some(guest) if guest.current_recipe => Ok(guest),
        _ => pull(&PullOptions { flavour, cache, refresh: Refresh::WhenStale }, progress),
    }
}

/// Brings the guest up to date with the host's package sources.
///
/// Where these cannot be reached, what was fetched before is used, with a note.
///
/// # Errors
///
/// [`GuestError`] if there is no guest to be had.
pub fn pull(options: &PullOptions, progress: &dyn Progress) -> Result<GuestImage, GuestError> {
    let _lock = options.cache.lock(progress)?;
    let error = match update(options, progress) {
        Err(error @ (GuestError::Apt { .. } | GuestError::AptMissing { .. })) => error,
        result => return result,
    };
    match options.cache.guest(options.flavour) {
        Some(guest) => {
            progress.note(&format!("Keeping {} as it was pulled before: {error}", guest.release));
            Ok(guest)
        }
        None => Err(error),
    }
}

/// [`pull`] with the lock held and without the way out for hosts without network.
fn update(options: &PullOptions, progress: &dyn Progress) -> Result<GuestImage, GuestError> {
    let apt = Apt::new(&options.cache.apt())?;
    let mut refreshed = None;
    if options.refresh == Refresh::Always || !apt.lists_are_fresh() {
        refreshed = Some(apt.refresh_lists(progress));
    }
    let wanted = match (Wanted::resolve(&apt, options.flavour), &mut refreshed) {
        (Ok(wanted), Some(Err(error))) => {
            progress.note(&format!("Going by older package lists: {error}"));
            wanted
        }
        // Without lists nothing is found; why there are none says more.
        (Err(_), Some(result)) if result.is_err() => {
            std::mem::replace(result, Ok(()))?;
            return Err(GuestError::NoPackage { package: options.flavour.package().to_owned() });
        }
        (result, _) => result?,
    };
    match make(options, &apt, &wanted, progress) {
        // Removed by now; downloaded anew it is another file.
        Err(GuestError::Package { .. }) => make(options, &apt, &wanted, progress),
        // A package may have been superseded and removed since the lists were fetched.
        Err(GuestError::Apt { .. }) if refreshed.is_none() => {
            apt.refresh_lists(progress)?;
            make(options, &apt, &Wanted::resolve(&apt, options.flavour)?, progress)
        }
        result => result,
    }
}

/// The packages that a guest is made from.
struct Wanted {
    /// The kernel, then further packages with its modules, if any.
    kernel: Vec<Package>,
    busybox: Package,
    release: String,
}

impl Wanted {
    fn resolve(apt: &Apt, flavour: Flavour) -> Result<Self, GuestError> {
        let meta = apt.find(flavour.package())?;
        let (name, release) = meta
            .depends
            .iter()
            .find_map(|name| Some((name, name.strip_prefix("linux-image-")?)))
            .ok_or_else(|| GuestError::NoPackage {
                package: format!("the kernel that {} should depend on", meta.name),
            })?;
        let image = apt.find(name)?;
        let mut kernel = Vec::new();
        for name in image.depends.iter().filter(|name| name.starts_with("linux-modules-")) {
            kernel.push(apt.find(name)?);
        }
        kernel.insert(0, image);
        Ok(Self { kernel, busybox: apt.find(BUSYBOX)?, release: release.to_owned() })
    }

    fn manifest(&self) -> Manifest {
        Manifest {
            release: self.release.clone(),
            version: self.kernel.first().map(|image| image.version.clone()).unwrap_or_default(),
            busybox: self.busybox.version.clone(),
            recipe: initramfs::recipe(),
        }
    }
}

/// Downloads what is wanted and makes a guest of it, unless the cache has just that guest.
fn make(
    options: &PullOptions,
    apt: &Apt,
    wanted: &Wanted,
    progress: &dyn Progress,
) -> Result<GuestImage, GuestError> {
    let manifest = wanted.manifest();
    if let Some(guest) = options.cache.guest(options.flavour)
        && guest.directory_name() == Some(manifest.id().as_str())
    {
        return Ok(guest);
    }
    let mut packages = wanted.kernel.clone();
    packages.push(wanted.busybox.clone());
    let files = apt.download(&packages, &options.cache.packages(options.flavour), progress)?;

    let guests = options.cache.guests(options.flavour);
    std::fs::create_dir_all(&guests).map_err(GuestError::file("create", &guests))?;
    let unfinished = |what: &str| {
        tempfile::Builder::new()
            .prefix(&format!("{UNFINISHED}{what}-"))
            .tempdir_in(&guests)
            .map_err(GuestError::file("create a directory in", &guests))
    };
    let unpacked = unfinished("packages")?;
    let guest = unfinished("guest")?;
    progress.begin("Unpacking packages", None);
    let result = unpack(&files, unpacked.path());
    progress.end();
    if let Err(GuestError::Package { path, .. }) = &result {
        // It was whole when it was downloaded; so that the next pull fetches it again.
        std::fs::remove_file(path).map_err(GuestError::file("remove", path))?;
    }
    result?;
    progress.begin("Building the initramfs", None);
    let result = assemble(unpacked.path(), &wanted.release, guest.path());
    progress.end();
    result?;
    // From here on the directory is the cache's.
    options.cache.install(options.flavour, &manifest, &guest.keep())
}

/// Unpacks what a guest is made of: kernel, configuration, modules, busybox.
fn unpack(packages: &[PathBuf], into: &Path) -> Result<(), GuestError> {
    for package in packages {
        deb::unpack(package, into, |path| {
            path.starts_with("boot")
                || path.starts_with("lib/modules")
                || path.starts_with("usr/lib/modules")
                || path.ends_with("bin/busybox")
        })?;
    }
    Ok(())
}

/// Fills the directory of a guest from unpacked packages.
fn assemble(unpacked: &Path, release: &str, guest: &Path) -> Result<(), GuestError> {
    let take = |from: &Path, name: &str| {
        std::fs::rename(from, guest.join(name)).map_err(GuestError::file("unpack", from))
    };
    let boot = unpacked.join("boot");
    take(&boot.join(format!("vmlinuz-{release}")), "kernel")?;
    let config = format!("config-{release}");
    take(&boot.join(&config), &config)?;

    // Since the merge of / and /usr, packages name files by either.
    let either = |name: &str| {
        let path = unpacked.join(name);
        if path.exists() { path } else { unpacked.join("usr").join(name) }
    };
    let busybox = either("bin/busybox");
    let modules = either(&format!("lib/modules/{release}"));
    let builtin = modules.join("modules.builtin");
    let contents = initramfs::Contents {
        applets: &applets(&busybox)?,
        busybox: &std::fs::read(&busybox).map_err(GuestError::file("read", &busybox))?,
        release,
        modules: &ModuleTree::scan(&modules)?.select(initramfs::DRIVERS.iter().copied())?,
        builtin: &std::fs::read(&builtin).map_err(GuestError::file("read", &builtin))?,
    };
    let initrd = guest.join("initrd");
    let file = File::create(&initrd).map_err(GuestError::file("create", &initrd))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    initramfs::write(&contents, &mut file)?;
    file.flush().map_err(GuestError::file("write", &initrd))
}

/// The names of busybox's applets, which it tells itself: guest and host are of the same kind.
fn applets(busybox: &Path) -> Result<BTreeSet<String>, GuestError> {
    let output = Command::new(busybox)
        .arg("--list")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(GuestError::file("run", busybox))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let applets: BTreeSet<String> = text
        .lines()
        .filter(|name| !name.is_empty() && !name.contains(['/', '\0']))
        .map(str::to_owned)
        .collect();
    if !output.status.success() || applets.is_empty() {
        return Err(GuestError::Initramfs("busybox does not list its applets".to_owned()));
    }
    Ok(applets)
}
