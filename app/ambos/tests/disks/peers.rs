//! Images between Ambos and QEMU.

use crate::file_systems::{CHECK, check_on_host, fill};
use crate::guest::{host, image, run, run_in_qemu};

/// Mebibytes of data.
const MIB: u64 = 24;

/// Writes a second file.
const ADD: &str = "\
set -e
mount -t ext4 /dev/DISK1 /mnt
seq 1 100000 > /mnt/numbers
umount /mnt
echo added";

/// Checks both.
fn check_all(disk: &str) -> String {
    format!("{}\nmount -t ext4 -o ro /dev/DISK1 /mnt && md5sum < /mnt/numbers | cut -c1-8", CHECK)
        .replace("DISK", disk)
}

/// The beginning of the MD5 checksum of what `seq 1 100000` prints.
const NUMBERS: &str = "dea9193b";

fn to_and_fro(technique: &str, disk: &str, interface: &str, format: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = if format == "raw" {
        image(folder.path(), "disk", 48 << 20)
    } else {
        let path = folder.path().join("disk").to_str().unwrap().to_owned();
        host("qemu-img", &["create", "-q", "-f", format, &path, "48M"]);
        path
    };
    let argument = format!("{path},format={format}");
    let sum = fill(technique, disk, &argument, MIB);
    if format == "qcow2" {
        host("qemu-img", &["check", "-q", "-f", format, &path]);
    }
    let script = format!("{CHECK}\n{ADD}").replace("DISK", disk);
    let seen = run_in_qemu(interface, format, &path, &script);
    assert!(seen.contains(&sum) && seen.contains("added\n"), "{seen}");
    let (output, _) = run(&["-t", technique, "--disk", &argument], &check_all(disk));
    assert_eq!(output, format!("{sum}\n{NUMBERS}\n"));
    if format == "qcow2" {
        host("qemu-img", &["check", "-q", "-f", format, &path]);
    }
    let raw = folder.path().join("raw").to_str().unwrap().to_owned();
    host("qemu-img", &["convert", "-f", format, "-O", "raw", &path, &raw]);
    check_on_host(&raw, &sum);
}

#[test]
fn raw_images_on_generic_disks() {
    to_and_fro("full", "sda", "ide", "raw");
}

#[test]
fn qcow2_images_on_paravirtual_disks() {
    to_and_fro("hybrid", "vda", "virtio", "qcow2");
}

#[test]
fn changes_to_a_backing_file_are_in_the_image_over_it() {
    let folder = tempfile::tempdir().unwrap();
    let base = image(folder.path(), "base", 48 << 20);
    let sum = fill("hybrid", "vda", &base, MIB);
    let before = host("sha1sum", &[&base]);
    let path = folder.path().join("over.qcow2").to_str().unwrap().to_owned();
    host("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &base, "-F", "raw", &path]);
    run(&["-t", "full", "--disk", &path], &ADD.replace("DISK", "sda"));
    host("qemu-img", &["check", "-q", &path]);
    assert_eq!(host("sha1sum", &[&base]), before);
    let (output, _) = run(&["-t", "hybrid", "--disk", &path], &check_all("vda"));
    assert_eq!(output, format!("{sum}\n{NUMBERS}\n"));
    let raw = folder.path().join("raw").to_str().unwrap().to_owned();
    host("qemu-img", &["convert", "-O", "raw", &path, &raw]);
    check_on_host(&raw, &sum);
}
