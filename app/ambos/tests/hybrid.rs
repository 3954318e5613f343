//! What a guest of the hybrid technique accepts of what is made for virtual machines.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Says what the kernel set up, and keeps both vCPUs busy with each other.
const SCRIPT: &str = "\
dmesg | grep -o -E 'Hypervisor detected: KVM|KVM setup pv remote TLB flush|setup PV sched yield|\
setup PV IPIs|kvm-clock: Using msrs|WARNING:|unchecked MSR'
grep -o kvm-clock /sys/devices/system/clocksource/clocksource0/available_clocksource
for i in 0 1; do
    (taskset -c $i seq 1 20000 | taskset -c $((1 - i)) sort -r | taskset -c $i tail -n 1) &
done
wait
[ $(awk '/^cpu / { print NF }' /proc/stat) -ge 9 ] && echo steal";

const RESULT: &str = "\
Hypervisor detected: KVM
kvm-clock: Using msrs
KVM setup pv remote TLB flush
setup PV sched yield
setup PV IPIs
kvm-clock
1
1
steal
";

#[test]
fn a_guest_of_kvm_finds_what_it_knows() {
    let output = Command::new(env!("CARGO_BIN_EXE_ambos"))
        .args(["run", "-t", "hybrid", "--guest", "debian-cloud", "--cpus", "2", "--stats"])
        .args(["--exec", SCRIPT])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), RESULT, "{table}");
    // Every register of the interface that the guest used was there.
    assert!(!table.contains("MSR 0x4b564d"), "{table}");
}

/// Guest memory that the monitor holds, in kibibytes.
fn guest_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn freed_memory_goes_back_to_the_host() {
    let script = "\
mount -t tmpfs -o size=300m none /mnt
dd if=/dev/zero of=/mnt/file bs=1M count=200 2> /dev/null
echo full
sleep 1
umount /mnt
while true; do echo free; sleep 1; done";
    let mut child = Command::new(env!("CARGO_BIN_EXE_ambos"))
        .args(["run", "-t", "hybrid", "--guest", "debian-cloud", "--exec", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "full");
    let full = guest_memory(child.id());
    assert!(full >= 200 << 10, "{full}");
    // The guest's kernel reports what is free every two seconds.
    let returned = (0..120).any(|_| {
        assert_eq!(lines.next().unwrap().unwrap(), "free");
        guest_memory(child.id()) + (150 << 10) < full
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(returned);
}
