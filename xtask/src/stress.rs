//! `cargo xtask stress`: guests with two vCPUs that do everything at once, for some minutes.
//!
//! Each guest starts processes, sends signals, pipes, changes its memory's protection and writes code that it
//! runs, with checksummed results. A wrong result, a complaint of the kernel's and a monitor that keeps growing
//! are errors.

use crate::{bench, footprint};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Minutes for all guests together
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Only this technique
    #[arg(long)]
    technique: Option<String>,
    /// Only this engine
    #[arg(long)]
    engine: Option<String>,
}

/// Techniques and engines.
const TECHNIQUES: [&str; 2] = ["full", "para"];
const ENGINES: [&str; 2] = ["translate", "interpret"];
/// Guest RAM, in MiB.
const RAM: u64 = 256;
/// The most that a monitor may use beside guest RAM, in MiB: 64 for translated code, and 64 for all else.
const MONITOR: u64 = 64 + 64;
/// The longest that a guest may take to boot and to end, beside its work.
const GRACE: Duration = Duration::from_secs(240);
/// Lines of a kernel log that must not be there.
const COMPLAINTS: [&str; 6] =
    ["WARNING:", "BUG:", "Oops", "Call Trace", "general protection", "Kernel panic"];
/// What a guest says when all its results were right.
const RIGHT: &str = "stress: all right";

/// What a guest does until its time is over: several workers at once, whose results are known.
const SCRIPT: &str = r#"
end=$(($(cut -d. -f1 /proc/uptime) + SECONDS_TO_RUN))
more() { [ "$(cut -d. -f1 /proc/uptime)" -lt $end ]; }
wrong() { echo "stress: wrong: $*"; touch /tmp/wrong; }
processes() { n=0; while more; do
    r=$(for i in 1 2 3 4 5 6 7 8; do ( /bin/echo $((i*i)) ) & done; wait)
    s=0; for v in $r; do s=$((s+v)); done; [ $s = 204 ] || wrong processes $s; n=$((n+1)); done; echo "stress: processes $n"; }
signals() { n=0; while more; do
    r=$(sh -c 'c=0; trap "c=\$((c+1))" USR1; for i in 1 2 3 4 5 6 7 8 9 10; do kill -USR1 $$; done; echo $c')
    [ "$r" = 10 ] || wrong signals $r
    sleep 100 & kill -TERM $!; wait $!; [ $? = 143 ] || wrong termination; n=$((n+1)); done; echo "stress: signals $n"; }
pipes() { n=0; while more; do
    a=$(seq 1 20000 | cat | cat | sha256sum | cut -c1-16); b=$(seq 1 20000 | gzip | gunzip | sort -n | sha256sum | cut -c1-16)
    [ "$a" = SEQ_SUM ] && [ "$b" = SEQ_SUM ] || wrong pipes $a $b; n=$((n+1)); done; echo "stress: pipes $n"; }
memory() { n=0; while more; do
    /tmp/w run 1 200 page-table page-fault fork-exec | grep -q -e failed -e skipped && wrong memory; n=$((n+1)); done; echo "stress: memory $n"; }
jit() { n=0; while more; do /tmp/w jit 20000 || wrong jit $?; n=$((n+1)); done; echo "stress: jit $n"; }
processes & signals & pipes & memory & jit & wait
[ -e /tmp/wrong ] && exit 1
echo stress: all right
"#;

/// Where the program begins on the disk that the guest finds script and program on.
const SCRIPT_SIZE: usize = 16 << 10;
/// The command that the guest is given, short enough for a kernel's command line.
const COMMAND: &str = "cat /dev/sda /dev/xvda 2>/dev/null > /tmp/all; \
    dd if=/tmp/all of=/tmp/script bs=16k count=1 2>/dev/null; \
    dd if=/tmp/all of=/tmp/w bs=16k skip=1 2>/dev/null; chmod +x /tmp/w; sh /tmp/script";

/// Runs the guests, one after the other.
pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    let chosen =
        |name: &str, choice: &Option<String>| choice.as_deref().is_none_or(|one| one == name);
    let runs: Vec<(&str, &str)> = TECHNIQUES
        .iter()
        .flat_map(|&technique| ENGINES.map(|engine| (technique, engine)))
        .filter(|(technique, engine)| {
            chosen(technique, &arguments.technique) && chosen(engine, &arguments.engine)
        })
        .collect();
    if runs.is_empty() {
        return Err("techniques are full and para, engines translate and interpret".to_owned());
    }
    let ambos = bench::build()?;
    let disk = std::env::temp_dir().join(format!("ambos-stress-{}", std::process::id()));
    let seconds = (arguments.minutes * 60.0 / runs.len() as f64).max(1.0) as u64;
    let script =
        SCRIPT.replace("SECONDS_TO_RUN", &seconds.to_string()).replace("SEQ_SUM", &checksum()?);
    let mut image = script.into_bytes();
    image.resize(SCRIPT_SIZE, b'\n');
    image.extend(ambos_compare::WORKLOAD);
    image.resize(image.len().next_multiple_of(4096), 0);
    std::fs::write(&disk, image).map_err(|error| format!("cannot write {disk:?}: {error}"))?;
    let result = runs.iter().try_for_each(|(technique, engine)| {
        one(&ambos, &disk, technique, engine, seconds)
            .map_err(|reason| format!("{technique}, {engine}: {reason}"))
    });
    let _ = std::fs::remove_file(&disk);
    result
}

/// One guest.
fn one(
    ambos: &Path,
    disk: &Path,
    technique: &str,
    engine: &str,
    seconds: u64,
) -> Result<(), String> {
    let mut child = Command::new(ambos)
        .args(["run", "--verbose", "--cpus", "2", "--engine", engine, "-t", technique])
        .args(["--memory", &format!("{RAM}M"), "--exec", COMMAND])
        .arg("--disk")
        .arg(format!("{},readonly", disk.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start the monitor: {error}"))?;
    let output = child.stdout.take().map(reader);
    let log = child.stderr.take().map(reader);
    let deadline = Instant::now() + Duration::from_secs(seconds) + GRACE;
    let mut most = 0;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        most = footprint::beside_guest_ram(child.id()).max(most);
        if most > MONITOR || Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(if most > MONITOR {
                format!("the monitor uses {most} MiB beside guest RAM, more than {MONITOR}")
            } else {
                "the guest does not come to an end".to_owned()
            });
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let collect = |thread: Option<std::thread::JoinHandle<String>>| {
        thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
    };
    let (output, log) = (collect(output), collect(log));
    for line in output.lines().filter(|line| line.starts_with("stress:")) {
        println!("{technique:<5} {engine:<10} {line}");
    }
    println!("{technique:<5} {engine:<10} the monitor used up to {most} MiB beside guest RAM");
    let complaint = log
        .lines()
        .chain(output.lines())
        .find(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)));
    if let Some(line) = complaint {
        return Err(format!("the guest's kernel complains: {line}"));
    }
    if !status.success() || !output.contains(RIGHT) {
        let last = log.lines().last().unwrap_or_default();
        return Err(format!("the guest ended with {status}: {output}{last}"));
    }
    Ok(())
}

/// Reads all that a child says.
fn reader(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The beginning of the checksum that the guest's pipes must give, computed on the host.
fn checksum() -> Result<String, String> {
    let output = Command::new("sh")
        .args(["-c", "seq 1 20000 | sha256sum | cut -c1-16"])
        .output()
        .map_err(|error| format!("cannot run sha256sum: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
