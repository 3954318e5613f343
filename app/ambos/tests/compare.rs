//! Comparisons with real guests: short ones, since each boot takes seconds.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One comparison at a time: each keeps a core busy.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ambos"));
        command.arg("compare").args(arguments).arg("--json").arg(self.path("report.json"));
        command.stdin(Stdio::null());
        command
    }

    fn report(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.path("report.json")).unwrap()).unwrap()
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The guest, pulled beforehand; `false` where tests are to do without the network.
fn guest() -> bool {
    if std::env::var_os("AMBOS_TEST_OFFLINE").is_some() {
        return false;
    }
    let status =
        Command::new(env!("CARGO_BIN_EXE_ambos")).args(["guest", "pull", "debian"]).status();
    assert!(status.unwrap().success());
    true
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let rows = report["rows"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name}"))
}

#[test]
fn workloads_are_measured_and_agree_with_a_stopwatch() {
    let _alone = alone();
    if !guest() {
        return;
    }
    let place = Place::new();
    let start = Instant::now();
    let names = ["boot", "syscall", "disk-random", "idle", "operation"];
    let mut arguments = vec!["-t", "full,hybrid", "--runs", "1"];
    arguments.extend(names);
    let output = place.command(&arguments).output().unwrap();
    let elapsed = start.elapsed().as_secs_f64();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = place.report();
    for name in ["boot", "syscall", "disk-random", "idle", "trap", "cpuid"] {
        let row = row(&report, name);
        for cell in row["cells"].as_array().unwrap() {
            assert_eq!(cell["samples"].as_array().unwrap().len(), 1, "{name}: {cell}");
        }
    }
    // One sample of each tells nothing, and the report says so.
    assert_eq!(row(&report, "syscall")["pairs"][0]["outcome"], "too-few");
    // The counts are of the workload: a system call for each operation, and the disk's bytes.
    let counts = &row(&report, "syscall")["cells"][0]["counts"];
    let calls = counts["intercepts"].as_array().unwrap().iter();
    let calls = calls.filter(|line| line["label"] == "SYSCALL/SYSENTER");
    let calls: u64 = calls.map(|line| line["count"].as_u64().unwrap()).sum();
    let operations = counts["operations"].as_f64().unwrap();
    assert!(
        (calls as f64 / operations - 1.0).abs() < 0.05,
        "{calls} calls, {operations} operations"
    );
    let counts = &row(&report, "disk-random")["cells"][0]["counts"];
    let moved = counts["transfers"][0]["to_guest"].as_f64().unwrap();
    let operations = counts["operations"].as_f64().unwrap();
    assert!((moved / operations / 4096.0 - 1.0).abs() < 0.05, "{moved} bytes, {operations} blocks");
    // All boots together took no longer than a stopwatch around them tells, nor did the report's own time.
    let boots: f64 = row(&report, "boot")["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cell| cell["median"].as_f64().unwrap())
        .sum();
    assert!(boots < elapsed && report["seconds"].as_f64().unwrap() < elapsed);
    for column in report["columns"].as_array().unwrap() {
        let drift = column["stopwatch_drift"].as_f64().unwrap();
        assert!(drift.abs() < 0.1, "{drift}");
    }
}

const SERVICE: &str = "
name = \"small\"
command = \"sleep 1000\"
[ready]
command = \"true\"
[load]
command = \"seq 1000 | tail -n 1\"
[metric]
pattern = '([0-9]+)'
better = \"higher\"
";

#[test]
fn what_fails_is_told_in_its_row() {
    let _alone = alone();
    if !guest() {
        return;
    }
    let place = Place::new();
    let good = place.write("good.toml", SERVICE);
    let rename = |name: &str| SERVICE.replace("\"small\"", &format!("\"{name}\""));
    let never = place.write(
        "never.toml",
        &rename("never").replace("command = \"true\"", "command = \"false\"\ntimeout = 1"),
    );
    let broken = place
        .write("broken.toml", &rename("broken").replace("seq 1000 |", "echo out of luck; exit 7;"));
    let unknown = place.write(
        "unknown.toml",
        &rename("unknown").replace(
            "command = \"sleep",
            "packages = [\"no-such-package-at-all\"]\ncommand = \"sleep",
        ),
    );
    let arguments = [
        "-t",
        "full",
        "--runs",
        "1",
        "--service",
        &good,
        "--service",
        &never,
        "--service",
        &broken,
        "--service",
        &unknown,
    ];
    let output = place.command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = place.report();
    assert_eq!(row(&report, "small")["cells"][0]["median"], 1000.0);
    let failure =
        |name: &str| row(&report, name)["cells"][0]["failure"].as_str().unwrap().to_owned();
    assert!(failure("never").contains("not ready within 1 s"), "{}", failure("never"));
    assert!(failure("broken").ends_with("status 7: out of luck"), "{}", failure("broken"));
    assert!(failure("unknown").contains("no-such-package-at-all"), "{}", failure("unknown"));
}

const FROM_HOST: &str = r#"
name = "pages"
command = "mkdir -p /www; echo hello > /www/page; httpd -f -p 80 -h /www"
[ready]
command = "wget -q -O /dev/null http://127.0.0.1/page"
[load]
from = "host"
port = 80
repetitions = 2
command = """perl -MIO::Socket::INET -e '
    my $to = "127.0.0.1:$ENV{AMBOS_PORT}";
    my $socket = IO::Socket::INET->new(PeerAddr => $to) or die "nobody there";
    print $socket "GET /page HTTP/1.0\\r\\n\\r\\n";
    my @lines = <$socket>;
    print "got $lines[-1]";
    exit($lines[-1] eq "hello\\n" ? 0 : 3)'"""
"#;

#[test]
fn a_load_may_come_from_the_host_under_every_technique() {
    let _alone = alone();
    if !guest() {
        return;
    }
    let place = Place::new();
    let pages = place.write("pages.toml", FROM_HOST);
    let failing = FROM_HOST.replace("pages", "failing").replace("perl", "echo no luck; false");
    let failing = place.write("failing.toml", &failing);
    let arguments = ["--runs", "1", "--service", &pages, "--service", &failing];
    let output = place.command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = place.report();
    for cell in row(&report, "pages")["cells"].as_array().unwrap() {
        let seconds = cell["median"].as_f64().unwrap_or_else(|| panic!("{cell}"));
        assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
    }
    for cell in row(&report, "failing")["cells"].as_array().unwrap() {
        assert!(cell["failure"].as_str().unwrap().ends_with("no luck"), "{cell}");
    }
    // That is the load's failure, and no guest's.
    for column in report["columns"].as_array().unwrap() {
        assert!(column["failure"].is_null(), "{column}");
    }
}

#[test]
fn an_interrupted_comparison_leaves_a_report() {
    let _alone = alone();
    if !guest() {
        return;
    }
    let place = Place::new();
    let mut command = place.command(&["-t", "full,hybrid", "boot", "--runs", "100"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Long enough to begin; what there is by then does not matter.
    std::thread::sleep(Duration::from_secs(3));
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(place.report()["complete"], false);
}

#[test]
fn bad_input_is_told_before_anything_is_measured() {
    let place = Place::new();
    let not_toml = place.write("x.toml", "name = ");
    let incomplete = place.write("y.toml", "name = \"a\"\n");
    let not_report = place.write("z.json", "{}");
    let cases: [(&[&str], &str); 6] = [
        (&["no-such-workload"], "--list"),
        (&["--service", &not_toml], "cannot be used"),
        (&["--service", &incomplete], "missing field `load`"),
        (&["--service", "/nonexistent/a.toml"], "cannot read"),
        (&["--from", &not_report, "--from", &not_report], "not a report"),
        (&["--from", &not_report], "given twice"),
    ];
    for (arguments, expected) in cases {
        let output = place.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let text = text(&output);
        assert!(
            text.contains(expected) && text.trim().lines().count() == 1,
            "{arguments:?}: {text}"
        );
    }
    assert!(!Path::new(&place.path("report.json")).metadata().is_ok_and(|file| file.len() > 0));
}
