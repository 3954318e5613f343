//! Failures of the host, of the monitor, and of the user.

use crate::guest::{DISKS, command, host, image, run, setting, text, try_run};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::process::Command;

#[test]
fn unusable_disks_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let odd = image(folder.path(), "odd", 1000);
    let good = image(folder.path(), "good", 4096);
    let five =
        vec!["--disk"; 5].into_iter().flat_map(|word| [word, good.as_str()]).collect::<Vec<_>>();
    let foreign = image(folder.path(), "foreign", 4096);
    std::fs::write(&foreign, [&b"KDMV"[..], &[0; 508]].concat()).unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&["--disk", "/no/such/image"], "/no/such/image"),
        (&["--disk", &odd], "multiple of 512"),
        (&["--disk", "x,nonsense"], "(readonly, snapshot, cdrom, format=..., cache=...)"),
        (&["--disk", "x,format=vmdk"], "(raw, qcow2)"),
        (&["--disk", "x,cache=none"], "(cached, direct)"),
        (&["--disk", "x,"], "missing after a comma"),
        (&["--disk", &foreign], "a VMDK image"),
        (&five, "in use by another"),
    ];
    for (arguments, expected) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_ambos"))
            .args(["run", "--guest", "debian-cloud"])
            .args(arguments)
            .output()
            .unwrap();
        let text = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn qcow2_images_are_whole_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let raw = image(folder.path(), "content", 4 << 20);
    std::fs::write(
        &raw,
        (0..4u32 << 20).map(|at| (at.wrapping_mul(at) >> 8) as u8).collect::<Vec<_>>(),
    )
    .unwrap();
    let names =
        ["plain", "packed", "reserved", "saved"].map(|name| place(&format!("{name}.qcow2")));
    let [plain, packed, reserved, saved] = &names;
    host("qemu-img", &["convert", "-q", "-O", "qcow2", &raw, plain]);
    host("qemu-img", &["convert", "-q", "-c", "-O", "qcow2", &raw, packed]);
    let reserve = ["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", reserved, "64M"];
    host("qemu-img", &reserve);
    host("qemu-img", &["convert", "-q", "-O", "qcow2", &raw, saved]);
    host("qemu-img", &["snapshot", "-q", "-c", "first", saved]);
    let disks = |names: &[String]| {
        names.iter().flat_map(|name| ["--disk".to_owned(), name.clone()]).collect::<Vec<_>>()
    };
    let all = disks(&names);
    let arguments = ["-t", "hybrid"].into_iter().chain(all.iter().map(String::as_str));
    let read =
        "for disk in vda vdb vdc vdd; do dd if=/dev/$disk of=/dev/null bs=1M || exit 1; done";
    run(&arguments.collect::<Vec<_>>(), read);
    for name in &names {
        let file = File::options().write(true).open(name).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        let refused = command(&["--disk", name], "true").output().unwrap();
        let text = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{name}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(name) && text.contains("ends too early"), "{text}");
    }
}

#[test]
fn an_image_has_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    let raw = image(folder.path(), "disk.img", 1 << 20);
    let qcow2 = folder.path().join("disk.qcow2").to_str().unwrap().to_owned();
    host("qemu-img", &["create", "-q", "-f", "qcow2", &qcow2, "1M"]);
    let disks = ["--disk", &raw, "--disk", &qcow2];
    let mut first = command(&disks, "echo up; sleep 1000").spawn().unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    for path in [&raw, &qcow2] {
        let (_, log, status) = try_run(&["--disk", path], "true");
        assert_eq!(status, Some(2), "{log}");
        assert!(log.contains(path) && log.contains("in use by another"), "{log}");
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(try_run(&disks, "true").2, Some(0));
}

#[test]
fn a_full_host_is_an_error_in_the_guest() {
    for (technique, disk) in DISKS {
        let folder = tempfile::tempdir().unwrap();
        let path = image(folder.path(), "disk.img", 16 << 20);
        let script = format!(
            "echo up
while dd if=/dev/urandom of=/dev/{disk} bs=1M seek=12 count=1 conv=notrunc,fsync 2> /dev/null; do
    :
done
dd if=/dev/urandom of=/dev/{disk} bs=1M count=4 conv=notrunc,fsync 2> /dev/null; echo $?
echo 3 > /proc/sys/vm/drop_caches
dd if=/dev/{disk} of=/dev/null bs=1M count=7 2> /dev/null; echo $?"
        );
        let mut child = command(&["-t", technique, "--disk", &path], &script).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "up");
        // From now on no file of the monitor may be written past eight mebibytes.
        host("prlimit", &["--fsize=8388608", "--pid", &child.id().to_string()]);
        assert_eq!(lines.next().unwrap().unwrap(), "0");
        assert_eq!(lines.next().unwrap().unwrap(), "0");
        let log: String = lines.map_while(Result::ok).collect();
        assert!(child.wait().unwrap().success());
        assert!(log.contains(&format!("error, dev {disk}")), "{log}");
    }
}

#[test]
fn an_image_that_shrinks_is_an_error_in_the_guest() {
    for (technique, disk) in DISKS {
        let folder = tempfile::tempdir().unwrap();
        let path = image(folder.path(), "disk.img", 16 << 20);
        let script = format!(
            "echo up
while dd if=/dev/{disk} of=/dev/null bs=1M skip=8 count=1 2> /dev/null; do
    echo 3 > /proc/sys/vm/drop_caches
done
dd if=/dev/{disk} of=/dev/null bs=1M count=7 2> /dev/null; echo $?"
        );
        let mut child = command(&["-t", technique, "--disk", &path], &script).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "up");
        File::options().write(true).open(&path).unwrap().set_len(8 << 20).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "0");
        let log: String = lines.map_while(Result::ok).collect();
        assert!(child.wait().unwrap().success());
        assert!(log.contains(&format!("error, dev {disk}")), "{log}");
    }
}

/// Writes numbered sectors without end and says of each when it is on the medium.
const JOURNAL: &str = "\
i=0
while true; do
    printf 'record %06d.' $i | dd of=/dev/DISK bs=512 seek=$((i * STRIDE)) conv=notrunc,fsync 2> /dev/null
    echo $i
    i=$((i + 1))
done";
/// Sectors from one record to the next: each is in a cluster of its own.
const STRIDE: u64 = 256;

/// Kills a monitor after it acknowledged some records; all of them must be in the image.
fn kill_once(technique: &str, disk: &str, format: &str, round: u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk").to_str().unwrap().to_owned();
    host("qemu-img", &["create", "-q", "-f", format, &path, "256M"]);
    let argument = format!("{path},format={format}");
    let script = JOURNAL.replace("DISK", disk).replace("STRIDE", &STRIDE.to_string());
    let mut child = command(&["-t", technique, "--disk", &argument], &script).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let records = 5 + round * 7 % 40;
    for record in 0..records {
        assert_eq!(lines.next().unwrap().unwrap(), record.to_string());
    }
    // At any place in what follows.
    std::thread::sleep(std::time::Duration::from_micros(round * 7919 % 10_000));
    child.kill().unwrap();
    child.wait().unwrap();
    // Those that were said to be written before the kill, but not read from the pipe, too.
    let records = records + lines.map_while(Result::ok).count() as u64;
    let raw = if format == "raw" {
        path
    } else {
        // Clusters may be leaked, which exit status 3 means, but nothing may be corrupt.
        let check = Command::new("qemu-img").args(["check", "-q", "-f", format, &path]).status();
        assert!(matches!(check.unwrap().code(), Some(0 | 3)));
        let raw = folder.path().join("raw").to_str().unwrap().to_owned();
        host("qemu-img", &["convert", "-f", format, "-O", "raw", &path, &raw]);
        raw
    };
    let mut file = File::open(raw).unwrap();
    for record in 0..records {
        let mut bytes = [0; 14];
        file.seek(SeekFrom::Start(record * STRIDE * 512)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        assert_eq!(text(&bytes), format!("record {record:06}."), "of {records}");
    }
}

#[test]
fn what_was_flushed_survives_the_monitor() {
    let kinds = [
        ("hybrid", "vda", "qcow2"),
        ("full", "sda", "qcow2"),
        ("hybrid", "vda", "raw"),
        ("para", "xvda", "qcow2"),
    ];
    for round in 0..setting("AMBOS_TEST_KILLS", kinds.len() as u64) {
        let (technique, disk, format) = kinds[round as usize % kinds.len()];
        kill_once(technique, disk, format, round);
    }
}
