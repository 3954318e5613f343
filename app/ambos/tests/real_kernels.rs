//! The real thing: Debian's stock kernels boot, run a script with a known result, and power off.

use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One guest at a time: each keeps a core busy.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lines of a kernel log that must not be there.
const COMPLAINTS: [&str; 9] = [
    "WARNING:",
    "BUG:",
    "Oops",
    "Call Trace",
    "unchecked MSR",
    "lost interrupt",
    "nobody cared",
    "spurious",
    "Kernel panic",
];

/// A script whose result is known: arithmetic, processes, pipes, files, checksums.
const SCRIPT: &str = "\
i=0; s=0; while [ $i -lt 1000 ]; do i=$((i+1)); s=$((s+i*i)); done; echo sum $s
seq 1 5000 | sha256sum | cut -c1-16
for f in a b c; do echo $f > /tmp/$f; done; cat /tmp/a /tmp/b /tmp/c | tr '\\n' '-'; echo
dd if=/dev/zero bs=4096 count=500 2>/dev/null | md5sum | cut -c1-8
(sleep 1; echo child) & wait
mkdir -p /tmp/d && tar cf - -C /bin . 2>/dev/null | wc -c | awk '{ print ($1 > 0) ? \"tar\" : \"none\" }'
exit 42";

const RESULT: &str = "\
sum 333833500
23f90f8b2c3a4b5f
a-b-c-
a4826624
child
tar
";

fn ambos(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ambos"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs `script` in a guest and returns its output, the kernel's log, and the exit status.
fn run(arguments: &[&str], script: &str) -> (String, String, Option<i32>) {
    let _alone = alone();
    let mut all = vec!["run", "--verbose", "--exec", script];
    all.extend(arguments);
    let output = ambos(&all);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

/// Boots, runs the script, and looks at everything that was said.
fn boots_cleanly(arguments: &[&str]) -> String {
    let (output, log, status) = run(arguments, SCRIPT);
    assert_eq!(output, RESULT, "{log}");
    assert_eq!(status, Some(42), "{log}");
    for line in log.lines() {
        assert!(!COMPLAINTS.iter().any(|complaint| line.contains(complaint)), "{line}");
    }
    assert!(log.contains("Linux version 6.1"), "{log}");
    assert!(log.contains("Run /init as init process"), "{log}");
    assert!(log.contains("reboot: Power down"), "{log}");
    log
}

#[test]
fn standard_kernel() {
    boots_cleanly(&[]);
}

#[test]
fn standard_kernel_interpreted() {
    boots_cleanly(&["--engine", "interpret"]);
}

#[test]
fn cloud_kernel_on_two_vcpus() {
    let log = boots_cleanly(&["--guest", "debian-cloud", "--cpus", "2"]);
    assert!(log.contains("smp: Brought up 1 node, 2 CPUs"), "{log}");
}

#[test]
fn cloud_kernel_unpacks_itself_by_the_linux_protocol() {
    boots_cleanly(&["--guest", "debian-cloud", "--boot", "linux64"]);
}

#[test]
fn a_kernel_panic_is_a_crash() {
    let script = "echo before; echo c > /proc/sysrq-trigger; echo after";
    let (output, log, status) = run(&["--guest", "debian-cloud"], script);
    // What the kernel says at its end goes to the same console.
    assert!(output.starts_with("before\n"), "{output}{log}");
    assert_eq!(status, Some(3), "{log}");
    assert!(log.contains("the guest crashed: kernel panic: sysrq triggered crash"), "{log}");
}

#[test]
fn serial_output_is_complete_and_in_order() {
    let script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo \"line $i of many\"; done";
    let (output, log, status) = run(&["--guest", "debian-cloud"], script);
    assert_eq!(status, Some(0), "{log}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 3000);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("line {} of many", index + 1));
    }
}

#[test]
fn a_shell_takes_commands_from_a_pipe() {
    use std::io::Write;
    let _alone = alone();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ambos"))
        .args(["run", "--guest", "debian-cloud", "--append", "quiet", "--stats"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"echo $((6 * 7)) is it\nexit\n").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let console = String::from_utf8_lossy(&output.stdout);
    assert!(console.contains("42 is it"), "{console}");
    assert_eq!(output.status.code(), Some(0));
    let table = String::from_utf8_lossy(&output.stderr);
    assert!(table.contains("guest instructions interpreted"), "{table}");
    assert!(table.contains("16550 serial port"), "{table}");
}
