//! The guest that works its devices, and what comes of it.

use super::contender::{Contender, Setting};
use super::interceptions::Counts;
use super::server::{LENGTH, Server};
use super::{Figure, interceptions};
use ambos_guest::exec::{self, ExecFilter, Nonce};
use ambos_guest::packages::{self, BuildOptions};
use ambos_guest::{Cache, TerminalProgress};
use ambos_random::Random;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Seconds for a boot and all that the guest does.
const LIMIT: &str = "300";
/// Bytes of the disk.
const DISK: usize = 256 << 20;
/// Reads of each kind in one run of fio.
const READS: [(Figure, u32, u32); 2] =
    [(Figure::Random, 4 << 10, 128 << 20), (Figure::Sequential, 128 << 10, 2048 << 20)];
/// How often each is done in one boot.
const RUNS: usize = 3;

/// What the guest runs. The windows `start` and `ask` tell what the programs do besides moving data.
const SCRIPT: &str = r#"
n=$(sed 's/.*ambos.nonce=\([0-9a-f]*\).*/\1/' /proc/cmdline)
m() { printf '\033]ambos;%s;%s=%s\007' "$n" "$1" "$2"; }
f() { m open $1; fio --name=$1 --filename=/dev/DISK --readonly --size=256m --direct=1 --ioengine=psync \
  --rw=$2 --bs=$3 --io_size=$4 --output-format=terse --terse-version=3 > /tmp/f; m close $1; echo "figure $1 $(cut -d';' -f$5 /tmp/f)"; }
w() { m open $1; wget -q -O /dev/null http://10.0.2.2:PORT/$2; m close $1; }
for i in 0 1 2; do
  f start randread 4k 4k 8; f random randread 4k RANDOM 8; f sequential read 128k SEQUENTIAL 7
  w ask nothing; w download all
done"#;

/// What is measured of one figure in one boot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Value {
    /// In the figure's unit.
    pub(super) rate: f64,
    /// For each request; our monitor alone counts them.
    pub(super) interceptions: Option<Counts>,
}

/// What one boot gives, by figure.
pub(super) type Sample = [Value; 3];

/// A guest with fio.
pub(super) struct Guest<'a> {
    ambos: &'a Path,
    kernel: PathBuf,
    initrd: PathBuf,
    disk: PathBuf,
    statistics: PathBuf,
    server: Server,
}

impl<'a> Guest<'a> {
    /// Makes the guest's initramfs and disk. The disk lies in memory where the host has a file system there.
    pub(super) fn new(
        ambos: &'a Path,
        (kernel, initrd): (PathBuf, PathBuf),
        folder: &Path,
    ) -> Result<Self, String> {
        let cache = Cache::of_user().map_err(|error| error.to_string())?;
        let options = BuildOptions {
            packages: vec!["fio".to_owned()],
            cache,
            refresh: ambos_guest::Refresh::default(),
        };
        let archive = packages::build(&options, &TerminalProgress::new())
            .map_err(|error| error.to_string())?;
        let both = folder.join("initrd");
        join(&[&initrd, &archive.path], &both)
            .map_err(|error| format!("cannot write {}: {error}", both.display()))?;
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory } else { folder };
        let disk = place.join(format!("ambos-bench-{}", std::process::id()));
        // No part of it may be cheaper to read than another.
        let mut random = Random::new(1);
        let content: Vec<u8> = (0..DISK / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        std::fs::write(&disk, content)
            .map_err(|error| format!("cannot write {}: {error}", disk.display()))?;
        let server = Server::start().map_err(|error| format!("cannot listen: {error}"))?;
        let statistics = folder.join("statistics");
        Ok(Self { ambos, kernel, initrd: both, disk, statistics, server })
    }

    /// One boot.
    pub(super) fn run(&self, contender: Contender) -> Result<Sample, String> {
        let failed = |reason: String| format!("{}: {reason}", contender.name(Figure::Random));
        let mut script = SCRIPT
            .replace("DISK", contender.disk())
            .replace("PORT", &self.server.port().to_string());
        for (figure, _, bytes) in READS {
            script = script.replace(&window(figure).to_uppercase(), &bytes.to_string());
        }
        let nonce = Nonce::random();
        let parameter = exec::kernel_parameter(&script).map_err(|error| error.to_string())?;
        let command = contender.command(&Setting {
            ambos: self.ambos,
            kernel: &self.kernel,
            initrd: &self.initrd,
            disk: &self.disk,
            statistics: &self.statistics,
            script: &script,
            parameters: &format!("{} {parameter}", nonce.kernel_parameter()),
        });
        // What another run left must not be taken for this one's.
        let _ = std::fs::remove_file(&self.statistics);
        self.server.take();
        let console = console(command).map_err(&failed)?;
        let output = if contender.is_qemu() { said(&console, &nonce) } else { console };
        let output = String::from_utf8_lossy(&output);
        let downloads = self.server.take();
        let rates = |figure| match figure {
            Figure::Random => figures(&output, figure, 1.0),
            Figure::Sequential => figures(&output, figure, 1024.0),
            Figure::Download => downloads.iter().map(|t| LENGTH as f64 / 1e6 / t).collect(),
        };
        let mut sample = Vec::new();
        for figure in Figure::ALL {
            let rates: Vec<f64> = rates(figure);
            if rates.len() != RUNS {
                return Err(failed(format!("not all was measured: {output}")));
            }
            // The first run of each translates code that others find translated.
            let rate = rates[1..].iter().copied().fold(0.0, f64::max);
            let interceptions = self.interceptions(figure);
            sample.push(Value { rate, interceptions });
        }
        sample.try_into().map_err(|_| failed("no sample".to_owned()))
    }

    /// Interceptions for each request, without those of starting the program; the fewest of all runs.
    fn interceptions(&self, figure: Figure) -> Option<Counts> {
        let counted = |name| interceptions::fewest(&self.statistics, name);
        let count = counted(window(figure))?;
        let (beside, requests) = match READS.iter().find(|(one, _, _)| *one == figure) {
            Some((_, block, bytes)) => (counted("start")?, f64::from(bytes / block)),
            None => (counted("ask")?, LENGTH as f64 / 1e6),
        };
        Some(count.each(beside, requests))
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.disk);
    }
}

/// The name of a figure's window, and of fio's job.
fn window(figure: Figure) -> &'static str {
    match figure {
        Figure::Random => "random",
        Figure::Sequential => "sequential",
        Figure::Download => "download",
    }
}

/// What the guest said of a figure, divided.
fn figures(output: &str, figure: Figure, divisor: f64) -> Vec<f64> {
    let prefix = format!("figure {} ", window(figure));
    let values = output.lines().filter_map(|line| line.trim().strip_prefix(&prefix));
    values.filter_map(|value| Some(value.parse::<f64>().ok()? / divisor)).collect()
}

/// Runs a monitor to its end; what it printed.
fn console(command: Command) -> Result<Vec<u8>, String> {
    let mut limited = Command::new("timeout");
    limited.arg(LIMIT).arg(command.get_program()).args(command.get_args());
    let output = limited
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("cannot start timeout: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("it ended with {}: {errors}", output.status));
    }
    Ok(output.stdout)
}

/// The guest's own output in what the serial port printed.
fn said(console: &[u8], nonce: &Nonce) -> Vec<u8> {
    let mut filter = ExecFilter::new(nonce);
    let (mut output, mut log) = (Vec::new(), Vec::new());
    filter.feed(console, &mut output, &mut log);
    filter.finish(&mut output, &mut log);
    output
}

/// Puts files one after the other, as archives that the kernel unpacks in order.
fn join(parts: &[&Path], into: &Path) -> io::Result<()> {
    let mut out = File::create(into)?;
    for part in parts {
        let mut bytes = Vec::new();
        File::open(part)?.read_to_end(&mut bytes)?;
        // Archives begin at multiples of four bytes.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        out.write_all(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_the_output() {
        let output = "figure start 1\r\nfigure random 20\r\nother\nfigure random 30\n";
        assert_eq!(figures(output, Figure::Random, 10.0), [2.0, 3.0]);
        assert!(figures(output, Figure::Sequential, 1.0).is_empty());
    }

    #[test]
    fn the_script_fits_a_command_line() {
        let script = SCRIPT.replace("SEQUENTIAL", "2147483648").replace("RANDOM", "134217728");
        assert!(script.len() + 20 < exec::COMMAND_LIMIT);
    }
}
