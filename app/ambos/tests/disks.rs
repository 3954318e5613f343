//! Disks: what a guest writes is in the image, and what cannot be used is refused.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};

/// Lines of a kernel log that disks must not cause.
const COMPLAINTS: [&str; 8] = [
    "WARNING:",
    "Call Trace",
    "lost interrupt",
    "nobody cared",
    "I/O error",
    "failed command",
    "exception Emask",
    "qc timeout",
];

/// Runs `script` in a guest; returns its output and the kernel's log.
fn run(arguments: &[&str], script: &str) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ambos"))
        .args(["run", "--verbose", "--guest", "debian-cloud", "--exec", script])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    for line in log.lines() {
        assert!(!COMPLAINTS.iter().any(|complaint| line.contains(complaint)), "{line}");
    }
    (text(&output.stdout), log)
}

fn image(folder: &Path, name: &str, size: u64) -> String {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The first 16 digits of the SHA-256 of what `seq 1 200000` prints, as the guest's tools have it.
const CHECKSUM: &str = "5af7b95208fdcff4";

/// Makes a file system, fills it, and looks at it again after it was mounted anew.
const FILL: &str = "\
set -e
mke2fs /dev/DISK > /dev/null
mount -t ext4 /dev/DISK /mnt
seq 1 200000 > /mnt/numbers
dd if=/dev/zero bs=1M count=8 of=/mnt/zeroes conv=fsync 2> /dev/null
umount /mnt
mount -t ext4 -o ro /dev/DISK /mnt
sha256sum < /mnt/numbers | cut -c1-16
umount /mnt
printf 'the last sector ' | dd of=/dev/DISK bs=16 seek=$((LAST * 32)) conv=notrunc,fsync 2> /dev/null";

fn fill(disk: &str, last_sector: u64) -> String {
    FILL.replace("DISK", disk).replace("LAST", &last_sector.to_string())
}

#[test]
fn a_file_system_on_a_generic_disk() {
    a_file_system("full", "sda", "ata_piix");
}

#[test]
fn a_file_system_on_a_paravirtual_disk() {
    a_file_system("hybrid", "vda", "virtio_blk");
}

/// Has guests under `technique` write to `disk`, the first one, which `driver` serves.
fn a_file_system(technique: &str, disk: &str, driver: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "disk.img", 64 << 20);
    let (output, log) = run(&["-t", technique, "--disk", &path], &fill(disk, 131_071));
    assert_eq!(output.trim(), CHECKSUM);
    assert!(log.contains(driver), "{log}");
    // The host finds what the guest left.
    let mut file = File::open(&path).unwrap();
    file.seek(SeekFrom::Start((64 << 20) - 512)).unwrap();
    let mut bytes = [0; 16];
    file.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"the last sector ");
    let mut superblock = [0; 2];
    file.seek(SeekFrom::Start(1024 + 56)).unwrap();
    file.read_exact(&mut superblock).unwrap();
    assert_eq!(superblock, [0x53, 0xef]);
    // And so does another guest, which cannot change it.
    let before = std::fs::read(&path).unwrap();
    let script = format!(
        "mount -t ext4 /dev/{disk} /mnt && sha256sum < /mnt/numbers | cut -c1-16 && \
         echo gone > /mnt/numbers && sync && umount /mnt"
    );
    let snapshot = format!("{path},snapshot");
    let (output, _) = run(&["-t", technique, "--disk", &snapshot], &script);
    assert_eq!(output.trim(), CHECKSUM);
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn a_cdrom_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "disk.iso", 1 << 20);
    std::fs::write(&path, (0..131_072u64).flat_map(u64::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let (output, _) = run(&["--disk", &format!("{path},cdrom")], "md5sum < /dev/sr0");
    assert_eq!(output.trim(), "bb7d03b0543f71e7f060f2ed67f94522  -");
}

#[test]
fn unusable_disks_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let odd = image(folder.path(), "odd", 1000);
    let good = image(folder.path(), "good", 4096);
    let five =
        vec!["--disk"; 5].into_iter().flat_map(|word| [word, good.as_str()]).collect::<Vec<_>>();
    let cases: [(&[&str], &str); 4] = [
        (&["--disk", "/no/such/image"], "/no/such/image"),
        (&["--disk", &odd], "multiple of 512"),
        (&["--disk", "x,nonsense"], "nonsense"),
        (&five, "in use by another"),
    ];
    for (arguments, expected) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_ambos"))
            .args(["run", "--guest", "debian-cloud"])
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(expected), "{text}");
    }
}
