//! What drivers say of our devices: nothing that worries them which they do not say of QEMU's as well, in the log of
//! the same kernel.

#[path = "common/qemu.rs"]
mod qemu;

use ambos_guest::Flavour;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};

/// Loads the drivers that nothing loads by itself, waits for the mouse, which is looked for in the background, and
/// shows the whole log with its levels.
const SCRIPT: &str = "\
modprobe -a psmouse bochs
i=0; until dmesg | grep -q 'Mouse as' || [ $i = 600 ]; do i=$((i+1)); sleep 0.1; done
dmesg -r";

/// The level of warnings; what is worse has a lower one.
const WARNING: u32 = 4;
/// Words that drivers use of what went wrong, whatever the level.
const WORRIES: [&str; 14] = [
    "fail",
    "error",
    "warn",
    "timeout",
    "timed out",
    "cannot",
    "can't",
    "unable",
    "invalid",
    "unknown",
    "lost",
    "bug",
    "not respond",
    "unexpected",
];
/// What our guests say and QEMU's do not, and no device is the reason of.
const NOT_OF_DEVICES: [&str; 7] = [
    // A guest that is not told of a hypervisor expects performance counters.
    "Failed to access perfctr msr",
    // There is no firmware that describes the computer.
    "DMI not present or invalid",
    // How exact clocks are, and how long handlers take, is a matter of what else the host does.
    "tsc: ",
    "clocksource: ",
    "APIC calibration",
    "hrtimer: interrupt took",
    "perf: interrupt took",
];

/// The worries in a log, with what differs from machine to machine left out.
fn worries(log: &str) -> BTreeSet<String> {
    let lines = log.lines().filter_map(|line| {
        let (level, line) = line.strip_prefix('<')?.split_once('>')?;
        let (_, text) = line.split_once("] ")?;
        let lower = text.to_lowercase();
        let worried = level.parse::<u32>().ok()? & 7 <= WARNING
            || WORRIES.iter().any(|word| lower.contains(word));
        worried.then(|| text.replace(|c: char| c.is_ascii_digit(), ""))
    });
    lines.collect()
}

/// Boots the kernel of `flavour` here and in QEMU with such devices as `arguments` and `theirs` say.
fn compare(flavour: Flavour, arguments: &[&str], theirs: &[&str]) {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let path = disk.path().to_str().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ambos"))
        .args(["run", "--guest", flavour.guest_name(), "--disk", path, "--exec", SCRIPT])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let ours = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(ours.contains("Linux version"), "{ours}");
    let drive = format!("file={path},if=none,id=d,format=raw");
    let arguments = [&["-drive", &drive, "-netdev", "user,id=n", "-vga", "std"], theirs].concat();
    let theirs = qemu::run(flavour, &arguments, SCRIPT);
    assert!(theirs.contains("Linux version"), "{theirs}");
    let theirs = worries(&theirs);
    let only_ours: Vec<String> = worries(&ours)
        .into_iter()
        .filter(|line| !theirs.contains(line))
        .filter(|line| !NOT_OF_DEVICES.iter().any(|known| line.contains(known)))
        .collect();
    assert!(only_ours.is_empty(), "{only_ours:#?}\nQEMU: {theirs:#?}");
}

#[test]
fn drivers_of_generic_devices_are_content() {
    let theirs = ["-device", "ide-hd,drive=d", "-device", "e1000,netdev=n,romfile="];
    compare(Flavour::Standard, &["-t", "full"], &theirs);
}

#[test]
fn drivers_of_a_frame_buffer_are_content() {
    let theirs = ["-device", "ide-hd,drive=d", "-device", "e1000,netdev=n,romfile="];
    compare(Flavour::Standard, &["-t", "full", "--vga", "800x600"], &theirs);
}

#[test]
fn drivers_of_paravirtual_devices_are_content() {
    let shared = tempfile::tempdir().unwrap();
    let share = format!("{}:files", shared.path().display());
    let socket = shared.path().join("socket");
    let ours = ["-t", "hybrid", "--share", &share, "--vsock", socket.to_str().unwrap()];
    let theirs = [
        "-device",
        "virtio-blk-pci,drive=d",
        "-device",
        "virtio-net-pci,netdev=n,romfile=",
        "-device",
        "virtio-rng-pci",
        "-device",
        "virtio-balloon-pci,free-page-reporting=on",
        "-device",
        "virtio-serial-pci",
    ];
    compare(Flavour::Standard, &ours, &theirs);
}

#[test]
fn worries_are_found_at_any_level() {
    let log = "<6>[    0.1] e1000: all is well\n<4>[    0.2] odd thing 17\n\
               <30>[    0.3] ata1.00: failed command: READ\nnoise\n";
    let found: Vec<String> = worries(log).into_iter().collect();
    assert_eq!(found, ["ata.: failed command: READ", "odd thing "]);
}
