//! What cannot be run is refused with one line that says why, and status 2. Nothing panics.

use std::path::Path;
use std::process::Command;

/// Runs `ambos run` and returns its one line.
fn refused(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_ambos")).arg("run").args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(text.starts_with("ambos: "), "{text}");
    text
}

/// The stock kernel, for tests that break it.
fn stock_kernel() -> Vec<u8> {
    let guest = ambos_guest::ensure_default(
        ambos_guest::Flavour::Cloud,
        &ambos_guest::TerminalProgress::new(),
    );
    std::fs::read(guest.unwrap().kernel).unwrap()
}

fn file(folder: &Path, name: &str, content: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn kernels_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let text = file(folder.path(), "text", b"this is no kernel\n");
    assert!(refused(&["--kernel", &text]).contains("neither a bzImage"));
    let empty = file(folder.path(), "empty", b"");
    refused(&["--kernel", &empty]);
    assert!(refused(&["--kernel", "/no/such/file"]).contains("/no/such/file"));
    assert!(refused(&["--kernel", "/"]).contains("directory"));
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0xff);
    refused(&["--kernel", &file(folder.path(), "elf", &elf)]);
}

#[test]
fn truncated_and_damaged_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = stock_kernel();
    for length in [1, 512, 0x202, 0x264, 4096, 100_000, kernel.len() / 2, kernel.len() / 10 * 9] {
        let path = file(folder.path(), "short", &kernel[..length]);
        refused(&["--kernel", &path]);
    }
    let mut damaged = kernel.clone();
    let middle = damaged.len() / 2;
    for byte in &mut damaged[middle..middle + 4096] {
        *byte = !*byte;
    }
    refused(&["--kernel", &file(folder.path(), "damaged", &damaged)]);
}

#[test]
fn too_much_or_too_little() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = file(folder.path(), "kernel", &stock_kernel());
    assert!(refused(&["--kernel", &kernel, "--memory", "16M"]).contains("memory"));
    let long = "x".repeat(5000);
    assert!(refused(&["--kernel", &kernel, "--append", &long]).contains("command line"));
    let initrd = file(folder.path(), "initrd", &vec![0; 200 << 20]);
    refused(&["--kernel", &kernel, "--initrd", &initrd, "--memory", "128M"]);
    refused(&["--kernel", &kernel, "--memory", "12345T"]);
    refused(&["--kernel", &kernel, "--cpus", "0"]);
    refused(&["--kernel", &kernel, "--cpus", "2", "--engine", "verify"]);
    refused(&["--kernel", &kernel, "--initrd", "/no/such/initrd"]);
    assert!(refused(&["--kernel", &kernel, "--initrd", "/"]).contains("directory"));
}

#[test]
fn endless_files() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = file(folder.path(), "kernel", &stock_kernel());
    refused(&["--kernel", "/dev/zero"]);
    let endless = refused(&["--kernel", &kernel, "--initrd", "/dev/zero", "--memory", "64M"]);
    assert!(endless.contains("larger than the guest's memory"), "{endless}");
    let words = ["--kernel", &kernel, "--module", "/dev/zero", "--memory", "64M"];
    assert!(refused(&words).contains("/dev/zero"));
}
