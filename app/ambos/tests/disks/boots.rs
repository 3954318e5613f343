//! Guests whose root file system is on a disk that another monitor wrote.

use crate::guest::{image, qemu, run, run_in_qemu, text};
use ambos_guest::{Flavour, Silent, cpio, ensure_default};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Makes a root file system on the first partition whose first program says so and ends the guest.
const INSTALL: &str = "\
set -e
printf 'n\\np\\n1\\n2048\\n\\nw\\n' | fdisk -u /dev/DISK > /dev/null 2>&1
mke2fs /dev/DISK1 > /dev/null
mount -t ext4 /dev/DISK1 /mnt
mkdir /mnt/bin /mnt/sbin /mnt/dev /mnt/proc
cp /bin/busybox /mnt/bin
echo 'it was written by WRITER' > /mnt/message
cat > /mnt/sbin/init <<'END'
#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox cat /message
busybox grep -o ' / ext4' /proc/mounts
busybox mount -o remount,rw /
echo again >> /message && busybox sync
busybox mount -o remount,ro /
busybox sleep 1
busybox poweroff -f
END
chmod 755 /mnt/sbin/init
umount /mnt
echo installed";

/// The first program of the initramfs: goes on with the one on the disk.
const SWITCH: &str = "\
#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for bus in pci virtio xen; do
    set -- /sys/bus/$bus/devices/*/modalias
    [ -e \"$1\" ] && modprobe -a -b -q $(cat \"$@\")
done
modprobe -a -q sd_mod ext4
until [ -b /dev/DISK1 ]; do sleep 1; done
mount -t ext4 -o ro /dev/DISK1 /mnt
mount -t devtmpfs devtmpfs /mnt/dev
exec switch_root /mnt /sbin/init
";

/// What the guest says that was started from the disk.
fn expected(writer: &str) -> String {
    format!("it was written by {writer}\n / ext4\n")
}

/// An initramfs that goes on with the root file system on `disk`.
fn initramfs(folder: &Path, disk: &str) -> PathBuf {
    let guest = ensure_default(Flavour::Cloud, &Silent).unwrap();
    let mut bytes = std::fs::read(guest.initrd).unwrap();
    // Archives begin at multiples of four bytes.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let mut archive = cpio::Writer::new(bytes);
    archive.file("init", 0o755, SWITCH.replace("DISK", disk).as_bytes()).unwrap();
    let path = folder.join("initrd");
    std::fs::write(&path, archive.finish().unwrap()).unwrap();
    path
}

fn install(disk: &str, writer: &str) -> String {
    INSTALL.replace("DISK", disk).replace("WRITER", writer)
}

#[test]
fn qemu_boots_what_was_written_here() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "disk", 32 << 20);
    let (output, _) = run(&["-t", "full", "--disk", &path], &install("sda", "Ambos"));
    assert_eq!(output, "installed\n");
    let initrd = initramfs(folder.path(), "sda");
    let drive = format!("file={path},if=ide,format=raw");
    let seen = qemu::boot(Flavour::Cloud, &initrd, &["-drive", &drive], "");
    assert!(seen.contains(&expected("Ambos")), "{seen}");
}

#[test]
fn what_qemu_wrote_boots_here() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "disk", 32 << 20);
    let seen = run_in_qemu("virtio", "raw", &path, &install("vda", "QEMU"));
    assert!(seen.contains("installed\n"), "{seen}");
    let guest = ensure_default(Flavour::Cloud, &Silent).unwrap();
    let mut more = String::new();
    for (technique, disk) in [("full", "sda"), ("hybrid", "vda"), ("para", "xvda")] {
        let output = Command::new(env!("CARGO_BIN_EXE_ambos"))
            .args(["run", "-t", technique, "--append", "quiet", "--disk", &path])
            .arg("--kernel")
            .arg(&guest.kernel)
            .arg("--initrd")
            .arg(initramfs(folder.path(), disk))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let seen = text(&output.stdout).replace('\r', "");
        assert!(output.status.success(), "{technique}: {}", text(&output.stderr));
        // Each boot adds to the message.
        let expected = expected("QEMU").replace("\n /", &format!("\n{more} /"));
        assert!(seen.contains(&expected), "{technique}: {seen}");
        more.push_str("again\n");
    }
}
