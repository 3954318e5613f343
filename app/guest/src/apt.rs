//! The host's apt, run on the side: with the host's sources and keys, but with state and caches of
//! its own, so that it needs no privileges and works where the host's package lists are empty.

use crate::{GuestError, Progress};
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

/// How old package lists may be before a pull refreshes them.
const LISTS_FRESH_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How often the progress of a download is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Settings that cannot be given on apt's command line: hooks of the host's configuration, which
/// tend the host's own caches, are none of our business and may need root.
const CONFIGURATION: &str = "\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Acquire::Languages \"none\";
";

/// A package that the host's sources offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The version that apt would install.
    pub version: String,
    /// Bytes to download.
    pub size: u64,
    /// Names of the packages it depends on; of alternatives, the first.
    pub depends: Vec<String>,
    architecture: String,
}

impl Package {
    /// Reads the first paragraph of what `apt-cache show` prints.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .take_while(|line| !line.is_empty())
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        Some(Self {
            name: field("Package")?.to_owned(),
            version: field("Version")?.to_owned(),
            size: field("Size")?.parse().ok()?,
            depends: field("Depends").map(parse_depends).unwrap_or_default(),
            architecture: field("Architecture")?.to_owned(),
        })
    }

    /// The name apt gives the package's file.
    pub fn file_name(&self) -> String {
        // The fields are joined by underscores, so these and the colon of an epoch are escaped.
        let quote = |text: &str| text.replace('%', "%25").replace('_', "%5f").replace(':', "%3a");
        format!("{}_{}_{}.deb", quote(&self.name), quote(&self.version), self.architecture)
    }
}

fn parse_depends(field: &str) -> Vec<String> {
    field
        .split(',')
        .filter_map(|dependency| {
            dependency.split([' ', '|', '(', ':']).find(|word| !word.is_empty())
        })
        .map(str::to_owned)
        .collect()
}

/// The names in what `apt-get --simulate install` prints of the packages that it would unpack.
fn installed(plan: &str) -> Vec<String> {
    let mut names: Vec<String> = plan
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
        .map(|name| name.split(':').next().unwrap_or(name).to_owned())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Apt with directories of its own.
#[derive(Debug)]
pub struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Apt whose lists and caches are kept in `directory`, which is created if need be.
    ///
    /// # Errors
    ///
    /// [`GuestError::File`] if the directory cannot be prepared.
    pub fn new(directory: &Path) -> Result<Self, GuestError> {
        for name in ["state/lists/partial", "cache/archives/partial"] {
            let path = directory.join(name);
            std::fs::create_dir_all(&path).map_err(GuestError::file("create", &path))?;
        }
        let apt = Self { directory: directory.to_owned() };
        let path = apt.configuration();
        std::fs::write(&path, CONFIGURATION).map_err(GuestError::file("write", &path))?;
        Ok(apt)
    }

    /// Whether the package lists are there and recent.
    pub fn lists_are_fresh(&self) -> bool {
        let refreshed = std::fs::metadata(self.stamp()).and_then(|stamp| stamp.modified());
        refreshed.is_ok_and(|time| {
            SystemTime::now().duration_since(time).is_ok_and(|age| age < LISTS_FRESH_FOR)
        })
    }

    /// Fetches the package lists of the host's sources.
    ///
    /// # Errors
    ///
    /// [`GuestError::AptMissing`], or [`GuestError::Apt`] with apt's own words.
    pub fn refresh_lists(&self, progress: &dyn Progress) -> Result<(), GuestError> {
        progress.begin("Refreshing package lists", None);
        let mut command = self.command("apt-get");
        // By default a source that cannot be reached is only worth a warning.
        command.args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]);
        let result = run(command, "apt-get", "refresh its package lists", || progress.advance(0));
        progress.end();
        result?;
        let stamp = self.stamp();
        std::fs::write(&stamp, []).map_err(GuestError::file("write", &stamp))
    }

    /// What the host's sources offer under `name`.
    ///
    /// # Errors
    ///
    /// [`GuestError::NoPackage`] if they offer nothing; otherwise as [`Self::refresh_lists`].
    pub fn find(&self, name: &str) -> Result<Package, GuestError> {
        let mut command = self.command("apt-cache");
        command.args(["show", "--no-all-versions", name]);
        match run(command, "apt-cache", "look up a package", || ()) {
            Ok(text) => Package::parse(&text)
                .filter(|package| package.name == name)
                .ok_or_else(|| GuestError::NoPackage { package: name.to_owned() }),
            Err(GuestError::Apt { reason, .. }) if reason.contains("No packages found") => {
                Err(GuestError::NoPackage { package: name.to_owned() })
            }
            Err(error) => Err(error),
        }
    }

    /// These packages and all that they depend on, as apt would install them on a system that has
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`GuestError::UnknownPackage`] if there is no package of a name; otherwise as
    /// [`Self::refresh_lists`].
    pub fn closure(&self, names: &[String]) -> Result<Vec<Package>, GuestError> {
        let mut command = self.command("apt-get");
        command.args(["-qq", "--simulate", "--no-install-recommends", "install", "--"]);
        command.args(names);
        let plan = run(command, "apt-get", "find the packages", || ()).map_err(|error| {
            let name = match &error {
                GuestError::Apt { reason, .. } => reason
                    .strip_prefix("Unable to locate package ")
                    .or_else(|| reason.strip_prefix("Package ")?.split('\'').nth(1)),
                _ => None,
            };
            match name {
                Some(name) => GuestError::UnknownPackage { package: name.to_owned() },
                None => error,
            }
        })?;
        let chosen = installed(&plan);
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = self.command("apt-cache");
        command.args(["show", "--no-all-versions"]);
        command.args(&chosen);
        let records = run(command, "apt-cache", "look up packages", || ())?;
        let known: Vec<Package> = records.split("\n\n").filter_map(Package::parse).collect();
        let package = |name: &String| {
            known
                .iter()
                .find(|package| package.name == *name)
                .cloned()
                .ok_or_else(|| GuestError::UnknownPackage { package: name.clone() })
        };
        chosen.iter().map(package).collect()
    }

    /// Downloads packages into the directory `into`, which is created if need be, and returns their
    /// files in the order given. Packages that are there already are kept, and other files removed.
    ///
    /// A file gets its place in `into` only after apt has checked it against the signed lists; what
    /// an interrupted download left is kept apart from these, and completed.
    ///
    /// # Errors
    ///
    /// As [`Self::refresh_lists`], and [`GuestError::File`] if `into` cannot be used.
    pub fn download(
        &self,
        packages: &[Package],
        into: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>, GuestError> {
        let partial = into.join("partial");
        std::fs::create_dir_all(&partial).map_err(GuestError::file("create", &partial))?;
        let files: Vec<PathBuf> =
            packages.iter().map(|package| into.join(package.file_name())).collect();
        remove_others(into, &files)?;
        let missing: Vec<&Package> = packages
            .iter()
            .filter(|package| size(&into.join(package.file_name())) != Some(package.size))
            .collect();
        if missing.is_empty() {
            return Ok(files);
        }
        self.download_missing(&missing, &partial, progress)?;
        for package in missing {
            let from = partial.join(package.file_name());
            let to = into.join(package.file_name());
            std::fs::rename(&from, &to).map_err(GuestError::file("take in", &from))?;
        }
        Ok(files)
    }

    fn download_missing(
        &self,
        packages: &[&Package],
        into: &Path,
        progress: &dyn Progress,
    ) -> Result<(), GuestError> {
        let files: Vec<PathBuf> =
            packages.iter().map(|package| into.join(package.file_name())).collect();
        remove_others(into, &files)?;
        for (file, package) in files.iter().zip(packages) {
            // Apt trusts what looks complete, but this was never checked.
            if size(file).is_some_and(|size| size >= package.size) {
                std::fs::remove_file(file).map_err(GuestError::file("remove", file))?;
            }
        }
        let total = packages.iter().map(|package| package.size).sum();
        let mut command = self.command("apt-get");
        command.args(["-qq", "download"]).current_dir(into);
        for package in packages {
            command.arg(format!("{}={}", package.name, package.version));
        }
        progress.begin("Downloading packages", Some(total));
        let result = run(command, "apt-get", "download packages", || {
            progress.advance(files.iter().filter_map(|file| size(file)).sum::<u64>().min(total));
        });
        progress.end();
        result.map(|_| ())
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.env("LC_ALL", "C").arg("-c").arg(self.configuration());
        let state = self.directory.join("state");
        let cache = self.directory.join("cache");
        for (name, value) in [
            ("Dir::State", state.as_os_str()),
            ("Dir::State::lists", state.join("lists").as_os_str()),
            // What is installed on the host does not matter.
            ("Dir::State::status", OsStr::new("/dev/null")),
            ("Dir::Cache", cache.as_os_str()),
            ("Dir::Cache::archives", cache.join("archives").as_os_str()),
            // The directories above are locked as part of the guest cache.
            ("Debug::NoLocking", OsStr::new("1")),
            // Another user could not write to them.
            ("APT::Sandbox::User", OsStr::new("root")),
            ("Acquire::Retries", OsStr::new("3")),
        ] {
            let mut option = OsString::from(name);
            option.push("=");
            option.push(value);
            command.arg("-o").arg(option);
        }
        command
    }

    fn configuration(&self) -> PathBuf {
        self.directory.join("apt.conf")
    }

    /// A file whose age is that of the lists.
    fn stamp(&self) -> PathBuf {
        self.directory.join("lists-refreshed")
    }
}

/// How large a file is, if it is there.
fn size(file: &Path) -> Option<u64> {
    std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len())
}

fn remove_others(directory: &Path, keep: &[PathBuf]) -> Result<(), GuestError> {
    let entries = std::fs::read_dir(directory).map_err(GuestError::file("read", directory))?;
    for entry in entries {
        let path = entry.map_err(GuestError::file("read", directory))?.path();
        if path.is_file() && !keep.contains(&path) {
            std::fs::remove_file(&path).map_err(GuestError::file("remove", &path))?;
        }
    }
    Ok(())
}

/// Runs an apt tool to its end, calling `poll` meanwhile, and returns what it printed.
fn run(
    mut command: Command,
    tool: &'static str,
    action: &str,
    poll: impl Fn(),
) -> Result<String, GuestError> {
    let failed = |reason: String| GuestError::Apt { action: action.to_owned(), reason };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => GuestError::AptMissing { tool },
            _ => failed(error.to_string()),
        })?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, poll).map_err(|error| failed(error.to_string()))?;
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    if status.success() { Ok(stdout) } else { Err(failed(complaint(&stderr, status))) }
}

/// Reads a pipe to its end on a thread of its own, so that the child never blocks on it.
fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still of use.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, poll: impl Fn()) -> std::io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        poll();
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// What of apt's error output goes into a one-line message.
fn complaint(stderr: &str, status: ExitStatus) -> String {
    let errors: Vec<&str> = stderr.lines().filter_map(|line| line.strip_prefix("E: ")).collect();
    // The first is the cause or one of several alike; the last only says that there were any.
    if let Some(first) = errors.first() {
        return first.trim().to_owned();
    }
    match stderr.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => line.trim().to_owned(),
        None => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    const RECORD: &str = "\
Package: linux-image-amd64
Version: 6.1.192-2
Installed-Size: 13
Architecture: amd64
Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2), kmod | module-init-tools, libc6:any (>= 2)
Size: 1480

Package: linux-image-amd64
Version: 6.1.176-1
";

    #[test]
    fn records_are_read() {
        let package = Package::parse(RECORD).unwrap();
        assert_eq!(package.version, "6.1.192-2");
        assert_eq!(package.size, 1480);
        assert_eq!(package.depends, ["linux-image-6.1.0-56-amd64", "kmod", "libc6"]);
        assert_eq!(Package::parse("Package: x\nVersion: 1\n"), None);
        assert_eq!(Package::parse(""), None);
    }

    #[test]
    fn a_plan_names_the_packages() {
        let plan = "Inst libc6 (2.36-9 Debian:12 [amd64])\nInst gcc-12-base:amd64 (12 Debian)\n\
            Conf libc6 (2.36-9 Debian:12 [amd64])\nInst libc6 (2.36-9 Debian:12 [amd64])\n";
        assert_eq!(installed(plan), ["gcc-12-base", "libc6"]);
    }

    #[test]
    fn files_are_named_as_apt_names_them() {
        let package = Package {
            name: "busybox-static".to_owned(),
            version: "1:1.35.0-4+deb12u1+b1".to_owned(),
            size: 0,
            depends: Vec::new(),
            architecture: "amd64".to_owned(),
        };
        assert_eq!(package.file_name(), "busybox-static_1%3a1.35.0-4+deb12u1+b1_amd64.deb");
    }

    #[test]
    fn complaints_are_one_line() {
        let status = ExitStatus::from_raw(100 << 8);
        assert_eq!(complaint("W: old\nE: no network\nE: gave up\n", status), "no network");
        assert_eq!(complaint("something\n\n", status), "something");
        assert_eq!(complaint("", status), "exit status: 100");
    }

    #[test]
    fn a_missing_tool_is_told_with_the_way_out() {
        let error = run(Command::new("/nonexistent/apt-get"), "apt-get", "run", || ()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("--kernel FILE --initrd FILE"), "{text}");
    }

    #[test]
    fn failures_carry_the_tools_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo 'E: broken' >&2; exit 100"]);
        let error = run(command, "apt-get", "refresh its package lists", || ()).unwrap_err();
        assert_eq!(error.to_string(), "apt could not refresh its package lists: broken");
    }
}
