//! Guests with disks.

#[path = "../common/qemu.rs"]
pub(crate) mod qemu;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Lines of a kernel log that disks must not cause.
const COMPLAINTS: [&str; 11] = [
    "WARNING:",
    "Call Trace",
    "lost interrupt",
    "nobody cared",
    "I/O error",
    "EXT4-fs error",
    "failed command",
    "exception Emask",
    "qc timeout",
    "XENBUS: Timeout",
    "blkfront: xvda: response",
];

/// The techniques with the name of the first disk under each.
pub(crate) const DISKS: [(&str, &str); 3] = [("full", "sda"), ("hybrid", "vda"), ("para", "xvda")];

/// A setting of the environment, for longer tests.
pub(crate) fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |value| value.parse().unwrap())
}

/// What comes between the output of a script and the kernel's log.
const LOG_FOLLOWS: &str = "the kernel's log:\n";

/// A monitor that will run `script` in a guest, and then show the kernel's log: after the boot it
/// does not come by itself.
pub(crate) fn command(arguments: &[&str], script: &str) -> Command {
    let script = format!("({script}\n); s=$?; echo \"{}\"; dmesg; exit $s", LOG_FOLLOWS.trim());
    let mut command = Command::new(env!("CARGO_BIN_EXE_ambos"));
    command
        .args(["run", "--verbose", "--guest", "debian-cloud", "--exec", &script])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs `script` in a guest, whatever comes of it; returns its output, the log and the status.
pub(crate) fn try_run(arguments: &[&str], script: &str) -> (String, String, Option<i32>) {
    let output = command(arguments, script).output().unwrap();
    let (shown, log) = split(&output.stdout);
    (shown, text(&output.stderr) + &log, output.status.code())
}

/// The output of a script and the kernel's log.
pub(crate) fn split(output: &[u8]) -> (String, String) {
    let output = text(output);
    match output.split_once(LOG_FOLLOWS) {
        Some((shown, log)) => (shown.to_owned(), log.to_owned()),
        None => (output, String::new()),
    }
}

/// Runs `script` in a guest; returns its output and the kernel's log, which has no complaints.
pub(crate) fn run(arguments: &[&str], script: &str) -> (String, String) {
    let (output, log, status) = try_run(arguments, script);
    assert_eq!(status, Some(0), "{output}{log}");
    for line in log.lines() {
        assert!(!COMPLAINTS.iter().any(|complaint| line.contains(complaint)), "{line}");
    }
    (output, log)
}

/// Runs `script` in the same guest under QEMU with a disk behind `interface`; returns what the
/// console showed of it.
pub(crate) fn run_in_qemu(interface: &str, format: &str, image: &str, script: &str) -> String {
    let drive = format!("file={image},if={interface},format={format}");
    qemu::run(ambos_guest::Flavour::Cloud, &["-drive", &drive], script)
}

/// Runs a program of the host and returns what it printed.
pub(crate) fn host(program: &str, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed for this test: {error}"));
    assert!(status.success(), "{program}: {}{}", text(&stdout), text(&stderr));
    text(&stdout)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A new image of nothing but zeroes.
pub(crate) fn image(folder: &Path, name: &str, size: u64) -> String {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    path.to_str().unwrap().to_owned()
}
