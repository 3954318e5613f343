//! Disks and network adapters: their rates beside those of QEMU's with the same interface, those of
//! our paravirtual devices beside our generic ones, and the interceptions between drivers and devices that each
//! costs.
//!
//! fio reads a raw image that the host has in memory, one request at a time, past the guest's cache: 4 KiB anywhere,
//! and 128 KiB one after the other. busybox's `wget` downloads from a server of the host through
//! address translation. One boot gives one sample: the best of its repetitions, which other work of the
//! host disturbed least.

mod bars;
mod contender;
mod guest;
mod interceptions;
mod server;

use super::monitor::guest_files;
use super::samples::{alternate, summary};
use ambos_guest::Flavour;
use bars::BARS;
use contender::Contender;
use guest::{Guest, Sample};
use interceptions::Counts;
use std::path::Path;

/// What is measured of each contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    /// Reads of 4 KiB anywhere on the disk.
    Random,
    /// Reads of 128 KiB, one after the other.
    Sequential,
    /// A download.
    Download,
}

impl Figure {
    const ALL: [Self; 3] = [Self::Random, Self::Sequential, Self::Download];

    /// Its name in tables, and of its window in the monitor's statistics.
    fn name(self) -> &'static str {
        match self {
            Self::Random => "disk, 4k random reads",
            Self::Sequential => "disk, 128k sequential reads",
            Self::Download => "download of 64 MB",
        }
    }

    /// The unit of its rate.
    fn unit(self) -> &'static str {
        match self {
            Self::Random => "/s",
            Self::Sequential => "MiB/s",
            Self::Download => "MB/s",
        }
    }

    /// What interceptions are counted for.
    fn request(self) -> &'static str {
        match self {
            Self::Random | Self::Sequential => "request",
            Self::Download => "MB",
        }
    }
}

/// Measures and prints. Without QEMU only our own devices are compared.
pub(super) fn measure(
    ambos: &Path,
    with_qemu: bool,
    folder: &Path,
    runs: usize,
) -> Result<(), String> {
    let files = guest_files(Flavour::Standard)?;
    let guest = Guest::new(ambos, files, folder)?;
    let contenders: Vec<Contender> =
        Contender::ALL.into_iter().filter(|one| with_qemu || !one.is_qemu()).collect();
    let samples = alternate(&contenders, runs, |contender| guest.run(contender))?;
    let table: Vec<(Contender, &[Sample])> =
        contenders.iter().copied().zip(samples.iter().map(Vec::as_slice)).collect();
    println!("\n{:<28} {:<26} {:>14} {:>8}  interceptions", "devices", "", "median", "spread");
    for figure in Figure::ALL {
        for (contender, samples) in &table {
            print_figure(figure, *contender, samples);
        }
    }
    println!("\n{:<28} {:<46} {:>7} {:>7}  holds", "bar", "of, and compared with", "ratio", "bar");
    for bar in BARS {
        let of = |wanted| table.iter().find(|(one, _)| *one == wanted).map(|(_, samples)| *samples);
        if let (Some(ours), Some(theirs)) = (of(bar.ours), of(bar.theirs)) {
            println!("{}", bar.line(ours, theirs));
        }
    }
    Ok(())
}

fn print_figure(figure: Figure, contender: Contender, samples: &[Sample]) {
    let Some((median, spread)) = summary(&rates(figure, samples)) else { return };
    let count = |select: fn(Counts) -> f64| summary(&counts(figure, samples, select));
    let intercepts = match (count(|counts| counts.all), count(|counts| counts.of_devices)) {
        (Some((all, _)), Some((of_devices, _))) => {
            format!("{all:.1}, {of_devices:.1} by devices, for each {}", figure.request())
        }
        _ => String::new(),
    };
    println!(
        "{:<28} {:<26} {:>14} {:>7.0}%  {intercepts}",
        figure.name(),
        contender.name(figure),
        format!("{median:.0} {}", figure.unit()),
        spread * 100.0,
    );
}

/// The rates in samples.
fn rates(figure: Figure, samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample[figure as usize].rate).collect()
}

/// Interceptions for each request in samples, where they are counted.
fn counts(figure: Figure, samples: &[Sample], select: fn(Counts) -> f64) -> Vec<f64> {
    samples.iter().filter_map(|sample| sample[figure as usize].interceptions.map(select)).collect()
}
