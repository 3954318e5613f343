//! The engine: a loop of four instructions, and boots of stock kernels up to their first program.

use super::monitor::{Monitor, guest_files, ours, private_memory, qemu};
use super::samples::{alternate, summary};
use ambos_compare::processor_seconds;
use ambos_guest::Flavour;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Iterations of the tight loop; each is four instructions.
const ITERATIONS: u32 = 100_000_000;
/// Instructions of the loop.
const LOOP_INSTRUCTIONS: f64 = ITERATIONS as f64 * 4.0;
/// What our initramfs prints before its shell: `/init` has been reached.
const INIT_REACHED: &[u8] = b"Leave with exit";
/// The longest that one run may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Everyone; QEMU is the last.
const ALL: [Monitor; 3] = [Monitor::Ambos, Monitor::Interpreter, Monitor::Qemu];

/// Measures and prints. Without QEMU there are only our own engines.
pub(super) fn measure(
    ambos: &Path,
    with_qemu: bool,
    folder: &Path,
    runs: usize,
) -> Result<(), String> {
    let monitors: &[Monitor] = if with_qemu { &ALL } else { &ALL[..2] };
    let (empty, full) = (folder.join("empty"), folder.join("loop"));
    for (path, iterations) in [(&empty, 1), (&full, ITERATIONS)] {
        std::fs::write(path, loop_image(iterations))
            .map_err(|error| format!("cannot write {path:?}: {error}"))?;
    }
    println!("{:<28} {:<11} {:>12} {:>8}", "measurement", "monitor", "median", "spread");
    let mips = alternate(monitors, runs, |monitor| {
        let base = time_to_end(ambos, monitor, &empty)?;
        let all = time_to_end(ambos, monitor, &full)?;
        Ok(LOOP_INSTRUCTIONS / 1e6 / (all - base).max(1e-6))
    })?;
    report("tight integer loop", "MIPS", monitors, &mips, true);
    for (flavour, name) in [(Flavour::Standard, "standard"), (Flavour::Cloud, "cloud")] {
        let (kernel, initrd) = guest_files(flavour)?;
        let (mut overhead, mut idle) = (Vec::new(), Vec::new());
        let boots = alternate(monitors, runs, |monitor| {
            let boot = boot(ambos, monitor, &kernel, &initrd)?;
            if monitor == Monitor::Ambos {
                overhead.push(boot.memory);
                idle.push(boot.idle);
            }
            Ok(boot.seconds)
        })?;
        report(&format!("boot {name} kernel to /init"), "s", monitors, &boots, false);
        let ours = &[Monitor::Ambos];
        report(&format!("memory beside RAM, {name}"), "MiB", ours, &[overhead], false);
        report(&format!("idle guest, {name}"), "% CPU", ours, &[idle], false);
    }
    Ok(())
}

fn report(
    what: &str,
    unit: &str,
    monitors: &[Monitor],
    samples: &[Vec<f64>],
    more_is_better: bool,
) {
    let mut medians = Vec::new();
    for (monitor, samples) in monitors.iter().zip(samples) {
        let Some((median, spread)) = summary(samples) else { continue };
        println!(
            "{what:<28} {:<11} {:>12} {:>7.0}%",
            monitor.name(),
            format!("{median:.2} {unit}"),
            spread * 100.0,
        );
        medians.push(median);
    }
    if let [ours, .., theirs] = medians[..] {
        let ratio = if more_is_better { ours / theirs } else { theirs / ours };
        println!("{:<28} {ratio:.2} times as fast as QEMU's TCG", "");
    }
}

/// Seconds that a guest takes which ends the monitor by itself.
fn time_to_end(ambos: &Path, monitor: Monitor, image: &Path) -> Result<f64, String> {
    let mut command = match monitor {
        Monitor::Ambos | Monitor::Interpreter => {
            let mut command = ours(ambos, monitor);
            command.args(["--debug-exit", "--memory", "16M", "--kernel"]).arg(image);
            command
        }
        Monitor::Qemu => {
            let mut command = qemu();
            command.args(["-m", "16", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel"]);
            command.arg(image);
            command
        }
    };
    let start = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = child.map_err(|error| format!("cannot start {}: {error}", monitor.name()))?;
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.code() != Some(3) {
        return Err(format!("{} ended with {status} instead of 3", monitor.name()));
    }
    Ok(start.elapsed().as_secs_f64())
}

/// What is seen of a guest that boots to a shell's prompt.
struct Boot {
    /// Seconds from process start to `/init`.
    seconds: f64,
    /// The monitor's memory then, beside guest RAM and code cache, in MiB.
    memory: f64,
    /// What the waiting guest takes of a processor, in percent, where that is measured.
    idle: f64,
}

/// Boots a guest.
fn boot(ambos: &Path, monitor: Monitor, kernel: &Path, initrd: &Path) -> Result<Boot, String> {
    let append = "console=ttyS0 quiet panic=-1";
    let mut command = match monitor {
        Monitor::Ambos | Monitor::Interpreter => {
            let mut command = ours(ambos, monitor);
            command.args(["--memory", "512M", "--append", append, "--kernel"]);
            command.arg(kernel).arg("--initrd").arg(initrd);
            command
        }
        Monitor::Qemu => {
            let mut command = qemu();
            command.args(["-m", "512", "-no-reboot", "-append", append, "-kernel"]).arg(kernel);
            command.arg("-initrd").arg(initrd).args(["-serial", "stdio"]);
            command
        }
    };
    let start = Instant::now();
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.map_err(|error| format!("cannot start {}: {error}", monitor.name()))?;
    let reached = wait_for(&mut child, INIT_REACHED);
    let seconds = start.elapsed().as_secs_f64();
    let memory = private_memory(child.id());
    let idle = match (&reached, monitor) {
        (Ok(()), Monitor::Ambos) => idle(child.id()),
        _ => 0.0,
    };
    let _ = child.kill();
    let _ = child.wait();
    reached.map_err(|seen| format!("{} did not reach /init: {seen}", monitor.name()))?;
    Ok(Boot { seconds, memory, idle })
}

/// Percentage of a processor that a process takes, once what it began with has settled.
fn idle(process: u32) -> f64 {
    const SETTLE: Duration = Duration::from_secs(3);
    const LOOK: Duration = Duration::from_secs(5);
    std::thread::sleep(SETTLE);
    let (start, before) = (Instant::now(), processor_seconds(process));
    std::thread::sleep(LOOK);
    (processor_seconds(process) - before) / start.elapsed().as_secs_f64() * 100.0
}

/// Reads what the guest prints until `marker`; the last of it if the marker does not come.
fn wait_for(child: &mut Child, marker: &[u8]) -> Result<(), String> {
    let Some(output) = child.stdout.take() else { return Err("no output".to_owned()) };
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if sender.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + LIMIT;
    let mut last = Vec::new();
    while let Ok(line) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if line.windows(marker.len()).any(|window| window == marker) {
            return Ok(());
        }
        last = line;
    }
    Err(String::from_utf8_lossy(&last).into_owned())
}

/// A Multiboot image that runs a loop of four instructions and writes 1 to the debug-exit port.
fn loop_image(iterations: u32) -> Vec<u8> {
    const BASE: u32 = 0x10_0000;
    const CODE: u32 = BASE + 48;
    let flags: u32 = 1 << 16;
    let checksum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    let header = [0x1bad_b002, flags, checksum, BASE, BASE, 0, 0, CODE];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.resize(48, 0);
    let mut code = |bytes: &[u8]| {
        let _ = image.write_all(bytes);
    };
    code(&[0xb9]); // mov ecx, iterations
    code(&iterations.to_le_bytes());
    code(&[0x01, 0xc8]); // loop: add eax, ecx
    code(&[0x31, 0xc2]); // xor edx, eax
    code(&[0x49]); // dec ecx
    code(&[0x75, 0xf9]); // jnz loop
    code(&[0xb0, 0x01, 0xe6, 0xf4]); // mov al, 1; out 0xf4, al
    code(&[0xf4, 0xeb, 0xfd]); // hlt; jmp
    image
}
