//! Stock kernels as guests of the paravirtual technique.

use std::process::{Command, Output, Stdio};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ambos"))
        .args(["run", "-t", "para"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Says what the kernel found, complaints included, and uses both vCPUs and the disk.
const SCRIPT: &str = "\
dmesg | grep -o -E 'Hypervisor detected: Xen PV|Booting kernel on Xen|Using FIFO-based ABI|\
version 1 layout|WARNING:|Call Trace|BUG:|XENBUS: Timeout|will use FXSAVE'
for i in 0 1; do
    (taskset -c $i seq 1 20000 | taskset -c $((1 - i)) sort -r | taskset -c $i tail -n 1) &
done
wait
modprobe xen-blkfront
for i in 1 2 3 4 5; do [ -b /dev/xvda ] || sleep 1; done
tr -d '\\0' < /dev/xvda";

const RESULT: &str = "\
Hypervisor detected: Xen PV
Booting kernel on Xen
Using FIFO-based ABI
version 1 layout
1
1
on the disk
";

#[test]
fn a_stock_kernel_runs_as_a_xen_guest() {
    let mut disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file_mut().set_len(1 << 20).unwrap();
    std::io::Write::write_all(&mut disk, b"on the disk\n").unwrap();
    let path = disk.path().to_str().unwrap().to_owned();
    let output = run(&[
        "--guest",
        "debian-cloud",
        "--cpus",
        "2",
        "--disk",
        &path,
        "--stats",
        "--exec",
        SCRIPT,
    ]);
    let table = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), RESULT, "{table}");
    assert!(table.contains("mmu_update"), "hypercalls are counted by name: {table}");
    assert!(!table.contains("× hypercall"), "none went unserved: {table}");
}

#[test]
fn a_crash_of_the_kernel_is_told() {
    let output = run(&["--guest", "debian-cloud", "--exec", "echo c > /proc/sysrq-trigger"]);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_kernel_that_is_not_ported_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_ambos"), file.path()).unwrap();
    let output = run(&["--kernel", file.path().to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("Xen notes") && text.contains("-t hybrid"), "{text}");
}
