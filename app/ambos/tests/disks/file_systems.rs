//! Whole lives of disks: partitions, file systems, files, and what the host finds afterwards.

use crate::guest::{DISKS, host, image, run, setting, try_run};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where the partition begins.
const PARTITION: u64 = 1 << 20;

/// Partitions the disk, makes a file system, fills it with random data, and checks them after the
/// file system was mounted anew.
const FILL: &str = "\
set -e
printf 'n\\np\\n1\\n2048\\n\\nw\\n' | fdisk -u /dev/DISK > /dev/null 2>&1
mke2fs /dev/DISK1 > /dev/null
mount -t ext4 /dev/DISK1 /mnt
dd if=/dev/urandom bs=1M count=MIB 2> /dev/null | tee /mnt/data | sha1sum | cut -c1-40 > /mnt/sum
cp /bin/busybox /mnt
umount /mnt
mount -t ext4 -o ro /dev/DISK1 /mnt
[ $(sha1sum < /mnt/data | cut -c1-40) = $(cat /mnt/sum) ]
cat /mnt/sum
umount /mnt";

/// Checks the same again and prints the same.
pub(crate) const CHECK: &str = "\
set -e
mount -t ext4 -o ro /dev/DISK1 /mnt
[ $(sha1sum < /mnt/data | cut -c1-40) = $(cat /mnt/sum) ]
chroot /mnt /busybox cat /sum
umount /mnt";

/// Has a guest fill the disk; returns the checksum of the data.
pub(crate) fn fill(technique: &str, disk: &str, argument: &str, mib: u64) -> String {
    let script = FILL.replace("DISK", disk).replace("MIB", &mib.to_string());
    let (output, _) = run(&["-t", technique, "--disk", argument], &script);
    assert_eq!(output.trim().len(), 40, "{output}");
    output.trim().to_owned()
}

/// The host's own tools find the file system without fault and the data in it.
pub(crate) fn check_on_host(image: &str, sum: &str) {
    let place = format!("{image}?offset={PARTITION}");
    host("e2fsck", &["-fn", &place]);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    host("debugfs", &["-R", &format!("dump /data {data}"), &place]);
    assert!(host("sha1sum", &[&data]).starts_with(sum));
}

fn a_file_system(technique: &str, disk: &str, driver: &str) {
    let mib = setting("AMBOS_TEST_DISK_MIB", 40);
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "disk.img", (mib + mib / 4 + 16) << 20);
    let sum = fill(technique, disk, &path, mib);
    check_on_host(&path, &sum);
    // Another guest finds them, too, and can only pretend to change them.
    let before = host("sha1sum", &[&path]);
    let script =
        format!("{CHECK}\nmount -t ext4 /dev/DISK1 /mnt && rm /mnt/data && sync && umount /mnt");
    let script = script.replace("DISK", disk);
    let (output, log) = run(&["-t", technique, "--disk", &format!("{path},snapshot")], &script);
    assert_eq!(output.trim(), sum);
    assert!(log.contains(driver), "{log}");
    assert_eq!(host("sha1sum", &[&path]), before);
    // An ATA disk has no way to say beforehand that it cannot be written.
    let script = format!("dd if=/dev/urandom of=/dev/{disk} count=1 conv=fsync 2> /dev/null");
    let readonly = format!("{path},readonly");
    let (_, log, status) = try_run(&["-t", technique, "--disk", &readonly], &script);
    assert_eq!(status, Some(1), "{log}");
    assert_eq!(host("sha1sum", &[&path]), before);
}

#[test]
fn a_generic_disk() {
    a_file_system("full", "sda", "ata_piix");
}

#[test]
fn a_paravirtual_disk() {
    a_file_system("hybrid", "vda", "virtio_blk");
}

#[test]
fn a_disk_of_a_pv_guest() {
    a_file_system("para", "xvda", "blkfront: xvda");
}

fn allocated(path: &str) -> u64 {
    std::fs::metadata(Path::new(path)).unwrap().blocks() * 512
}

#[test]
fn discarded_storage_goes_back_to_the_host() {
    for (technique, disk) in DISKS {
        let folder = tempfile::tempdir().unwrap();
        let path = image(folder.path(), "disk.img", 64 << 20);
        let write = format!("dd if=/dev/urandom of=/dev/{disk} bs=1M count=32 conv=fsync 2>&1");
        run(&["-t", technique, "--disk", &path], &write);
        assert!(allocated(&path) >= 32 << 20);
        let discard = format!(
            "blkdiscard -o 1048576 -l 30408704 /dev/{disk} && dd if=/dev/{disk} bs=1M skip=1 \
             count=29 2> /dev/null | tr -d '\\000' | wc -c"
        );
        let (output, _) = run(&["-t", technique, "--disk", &path], &discard);
        assert_eq!(output.trim(), "0");
        assert!(allocated(&path) <= 4 << 20, "{technique}: {}", allocated(&path));
    }
}

#[test]
fn every_vcpu_has_a_queue() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "disk.img", 64 << 20);
    let script = "\
ls /sys/block/vda/mq | wc -l
cat /sys/block/vda/queue/write_cache
[ $(cat /sys/block/vda/queue/discard_max_bytes) -gt 0 ] && echo discard
[ $(cat /sys/block/vda/queue/write_zeroes_max_bytes) -gt 0 ] && echo zeroes
cut -c29-31 /sys/block/vda/device/features
for i in 0 1; do
    (taskset -c $i dd if=/dev/urandom of=/dev/vda bs=64k count=256 seek=$((i * 256)) 2> /dev/null) &
done
wait; sync
grep -c virtio0-req /proc/interrupts";
    let arguments = ["-t", "hybrid", "--cpus", "2", "--disk", &path];
    let (output, _) = run(&arguments, script);
    // Indirect descriptors, event index, and the bit after them.
    assert_eq!(output, "2\nwrite back\ndiscard\nzeroes\n110\n2\n");
    assert!(allocated(&path) >= 32 << 20);
}

#[test]
fn every_vcpu_of_a_pv_guest_has_a_queue() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "disk.img", 64 << 20);
    let script = "\
ls /sys/block/xvda/mq | wc -l
cat /sys/block/xvda/queue/write_cache
cat /sys/block/xvda/queue/max_segments
for i in 0 1; do
    (taskset -c $i dd if=/dev/urandom of=/dev/xvda bs=64k count=256 seek=$((i * 256)) 2> /dev/null) &
done
wait; sync
grep -c blkif /proc/interrupts";
    let (output, log) = run(&["-t", "para", "--cpus", "2", "--disk", &path], script);
    assert_eq!(output, "2\nwrite back\n32\n2\n");
    assert!(log.contains("flush diskcache: enabled"), "{log}");
    assert!(log.contains("indirect descriptors: enabled"), "{log}");
    assert!(allocated(&path) >= 32 << 20);
}

#[test]
fn a_cdrom_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.iso");
    std::fs::write(&path, (0..131_072u64).flat_map(u64::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let argument = format!("{},cdrom", path.display());
    for (technique, drive) in [("full", "sr0"), ("hybrid", "sr0"), ("para", "xvda")] {
        let script = format!("md5sum < /dev/{drive}");
        let (output, _) = run(&["-t", technique, "--disk", &argument], &script);
        assert_eq!(output.trim(), "bb7d03b0543f71e7f060f2ed67f94522  -");
    }
}
