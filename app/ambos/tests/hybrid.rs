//! What a guest of the hybrid technique accepts of what is made for virtual machines.

use std::process::{Command, Stdio};

/// Says what the kernel set up, and keeps both vCPUs busy with each other.
const SCRIPT: &str = "\
dmesg | grep -o -E 'Hypervisor detected: KVM|KVM setup pv remote TLB flush|setup PV sched yield|\
setup PV IPIs|kvm-clock: Using msrs|WARNING:|unchecked MSR'
cat /sys/devices/system/clocksource/clocksource0/available_clocksource
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
tsc kvm-clock hpet acpi_pm 
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
