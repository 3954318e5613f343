//! Pulls the real guests, through the host's own package sources, into the user's cache.
//!
//! Where there is no apt the test fails, unless `AMBOS_TEST_OFFLINE` says that this is known.

use ambos_guest::{Cache, Flavour, GuestImage, PullOptions, Refresh, TerminalProgress, pull};
use std::process::{Command, Stdio};

/// Whether `tool` can be started here.
fn installed(tool: &str) -> bool {
    Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn check(guest: &GuestImage) {
    let kernel = std::fs::read(&guest.kernel).unwrap();
    assert_eq!(&kernel[0x1fe..0x200], b"\x55\xaa", "a bzImage's boot flag");
    assert_eq!(&kernel[0x202..0x206], b"HdrS", "a bzImage's header");
    let config = std::fs::read_to_string(&guest.config).unwrap();
    assert!(config.contains("CONFIG_XEN_PV=y"));
    assert!(guest.release.starts_with(|c: char| c.is_ascii_digit()), "{}", guest.release);

    let initrd = std::fs::metadata(&guest.initrd).unwrap().len();
    assert!((2 << 20..15 << 20).contains(&initrd), "an initramfs of {initrd} bytes");
    if !installed("cpio") {
        return;
    }
    let listing = Command::new("cpio")
        .args(["--list", "--quiet"])
        .stdin(std::fs::File::open(&guest.initrd).unwrap())
        .output()
        .unwrap();
    assert!(listing.status.success());
    let listing = String::from_utf8(listing.stdout).unwrap();
    let names: Vec<&str> = listing.lines().collect();
    for name in ["init", "bin/busybox", "bin/sh", "bin/modprobe", "etc/profile"] {
        assert!(names.contains(&name), "{name}");
    }
    let modules = format!("lib/modules/{}/kernel", guest.release);
    // `virtio_ring` and `scsi_mod` are there only because others depend on them.
    for name in
        ["drivers/virtio/virtio_ring.ko", "drivers/ata/ata_piix.ko", "drivers/scsi/scsi_mod.ko"]
    {
        assert!(names.contains(&format!("{modules}/{name}").as_str()), "{name}");
    }
}

#[test]
fn guests_are_made_of_the_hosts_packages() {
    if !installed("apt-get") && std::env::var_os("AMBOS_TEST_OFFLINE").is_some() {
        return;
    }
    for flavour in Flavour::ALL {
        let options =
            PullOptions { flavour, cache: Cache::of_user().unwrap(), refresh: Refresh::WhenStale };
        let guest = pull(&options, &TerminalProgress::new()).unwrap();
        assert_eq!(guest.flavour, flavour);
        check(&guest);
        // Now nothing has to be done, so nothing is.
        let modified = |guest: &GuestImage| std::fs::metadata(&guest.initrd).unwrap().modified();
        let again = pull(&options, &TerminalProgress::new()).unwrap();
        assert_eq!(again, guest);
        assert_eq!(modified(&again).unwrap(), modified(&guest).unwrap());
    }
}
