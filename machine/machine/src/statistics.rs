//! What was counted, for people and programs.

use crate::observer::{self, Observer};
use crate::tsc;
use ambos_intercept::{Intercept, Moved, Privileged, UnservedLog};
use ambos_x86::Vector;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Version of the JSON form; it changes when a field changes its meaning or disappears.
pub(crate) const SCHEMA: u32 = 1;

/// Counts of one machine.
#[derive(Debug, Clone, Serialize)]
pub struct Statistics {
    /// Version of this form.
    pub schema: u32,
    /// Guest instructions that engines counted, of all vCPUs: the interpreter counts each one, translated
    /// code does not count.
    pub instructions: u64,
    /// How often the guest was booted again.
    pub resets: u64,
    /// Since the machine was made, in seconds.
    pub seconds: f64,
    /// Frequency of the host's time-stamp counter, in hertz.
    pub tsc_hz: u64,
    /// Memory of the monitor's process.
    pub memory: Memory,
    /// Bytes that the back-ends moved.
    pub transfers: Vec<TransferLine>,
    /// What happened between two marks that the guest set, in the order in which they ended.
    pub windows: Vec<WindowLine>,
    /// Interceptions by class and label, most frequent first.
    pub intercepts: Vec<Line>,
    /// What the engine counts of its own work.
    pub engine: Vec<Counter>,
    /// What could not be served.
    pub unserved: Vec<UnservedLine>,
    /// Unserved requests of kinds that found the list full.
    pub unserved_dropped: u64,
}

/// One kind of interception.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// `privileged`, `port`, `mmio`, `hypercall`, `exception`, `interrupt`, `engine`, `idle`.
    pub class: &'static str,
    /// Which one.
    pub label: String,
    /// How often.
    pub count: u64,
    /// Host time spent, in nanoseconds; zero where it is only counted.
    pub nanoseconds: u64,
}

/// What one back-end moved.
#[derive(Debug, Clone, Serialize)]
pub struct TransferLine {
    /// Which one.
    pub label: String,
    /// Bytes that went to the guest.
    pub to_guest: u64,
    /// Bytes that came from the guest.
    pub from_guest: u64,
    /// Requests that moved them.
    pub requests: u64,
}

impl TransferLine {
    pub(crate) fn new(label: &str, moved: Moved) -> Self {
        let Moved { to_guest, from_guest, requests } = moved;
        Self { label: label.to_owned(), to_guest, from_guest, requests }
    }
}

/// Memory of the monitor's process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Guest RAM that has been touched.
    pub guest: u64,
    /// Everything else.
    pub monitor: u64,
    /// The most there was of both together.
    pub peak: u64,
}

/// What happened between two marks that the guest set.
#[derive(Debug, Clone, Serialize)]
pub struct WindowLine {
    /// The guest's name for it.
    pub name: String,
    /// When it began, in seconds since the machine was made.
    pub start: f64,
    /// How long it lasted on the host's clock, in seconds.
    pub seconds: f64,
    /// Processor time of the monitor's process in it, in seconds.
    pub cpu_seconds: f64,
    /// Interceptions by class and label, most frequent first.
    pub intercepts: Vec<Line>,
    /// Bytes that the back-ends moved.
    pub transfers: Vec<TransferLine>,
}

/// A counter of the engine.
#[derive(Debug, Clone, Serialize)]
pub struct Counter {
    /// What it counts.
    pub label: &'static str,
    /// How often.
    pub count: u64,
}

/// One kind of request that could not be served.
#[derive(Debug, Clone, Serialize)]
pub struct UnservedLine {
    /// What was asked for.
    pub what: String,
    /// Guest RIP of the first one; zero where it is not known.
    pub rip: u64,
    /// Instruction bytes, in hexadecimal; empty where they are not known.
    pub bytes: String,
    /// How often.
    pub count: u64,
}

impl Statistics {
    pub(crate) fn collect(
        observer: &Observer,
        unserved: &UnservedLog,
        instructions: u64,
        counters: &BTreeMap<&'static str, u64>,
        resets: u64,
    ) -> Self {
        let now = observer.now();
        let seconds = now.elapsed.as_secs_f64();
        let transfers = observer
            .transfers
            .iter()
            .map(|(label, transfer)| TransferLine::new(label, transfer.moved()));
        let entries = unserved.entries().into_iter().map(|entry| UnservedLine {
            what: entry.what,
            rip: entry.rip,
            bytes: entry.bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            count: entry.count,
        });
        Self {
            schema: SCHEMA,
            instructions,
            resets,
            seconds,
            tsc_hz: tsc::frequency(),
            memory: observer::memory(),
            transfers: transfers.collect(),
            windows: Vec::new(),
            intercepts: observer::lines(now.counts),
            engine: counters.iter().map(|(&label, &count)| Counter { label, count }).collect(),
            unserved: entries.collect(),
            unserved_dropped: unserved.dropped(),
        }
    }

    /// The JSON form.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// Nanoseconds of so many ticks of the host's time-stamp counter.
pub(crate) fn nanoseconds(ticks: u64) -> u64 {
    let hz = u128::from(tsc::frequency().max(1));
    u64::try_from(u128::from(ticks) * 1_000_000_000 / hz).unwrap_or(u64::MAX)
}

/// The class and the label of an interception; devices go by the labels of their rows.
pub(crate) fn describe(intercept: Intercept, devices: &[String]) -> (&'static str, String) {
    let device = |row: usize| devices.get(row).cloned().unwrap_or_else(|| format!("device {row}"));
    match intercept {
        Intercept::Privileged(class) => {
            ("privileged", Privileged::TABLE[class as usize].1.to_owned())
        }
        Intercept::PortIo(row) => ("port", device(row.row())),
        Intercept::Mmio(row) => ("mmio", device(row.row())),
        Intercept::Hypercall(number) => ("hypercall", hypercall(number)),
        Intercept::Exception(vector) => ("exception", exception(vector)),
        Intercept::Interrupt => ("interrupt", "interrupt delivered".to_owned()),
        Intercept::TlbFill => ("engine", "TLB fill".to_owned()),
        Intercept::Translation => ("engine", "block decoded".to_owned()),
        Intercept::CodeInvalidation => ("engine", "code invalidated".to_owned()),
        Intercept::Shootdown => ("engine", "write translations shot down".to_owned()),
        Intercept::Idle => ("idle", "idle".to_owned()),
    }
}

fn hypercall(number: u8) -> String {
    ambos_xen_abi::Hypercall::from_number(number.into())
        .map_or_else(|| format!("hypercall {number}"), |call| call.name().to_owned())
}

fn exception(vector: u8) -> String {
    const NAMED: [Vector; 18] = [
        Vector::DivideError,
        Vector::Debug,
        Vector::Nmi,
        Vector::Breakpoint,
        Vector::Overflow,
        Vector::BoundRange,
        Vector::InvalidOpcode,
        Vector::DeviceNotAvailable,
        Vector::DoubleFault,
        Vector::InvalidTss,
        Vector::SegmentNotPresent,
        Vector::StackFault,
        Vector::GeneralProtection,
        Vector::PageFault,
        Vector::X87FloatingPoint,
        Vector::AlignmentCheck,
        Vector::MachineCheck,
        Vector::SimdFloatingPoint,
    ];
    let known = NAMED.into_iter().find(|known| *known as u8 == vector);
    known.map_or_else(|| format!("vector {vector}"), |known| known.mnemonic().to_owned())
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<12} {:<32} {:>14} {:>12}", "class", "what", "count", "time")?;
        for line in &self.intercepts {
            let time = if line.nanoseconds == 0 {
                String::new()
            } else {
                format!("{:.3} ms", line.nanoseconds as f64 / 1e6)
            };
            writeln!(f, "{:<12} {:<32} {:>14} {:>12}", line.class, line.label, line.count, time)?;
        }
        for counter in &self.engine {
            writeln!(f, "{:<12} {:<32} {:>14}", "engine", counter.label, counter.count)?;
        }
        for line in &self.transfers {
            let TransferLine { label, to_guest, from_guest, requests } = line;
            writeln!(
                f,
                "{label}: {to_guest} bytes read, {from_guest} written, {requests} requests"
            )?;
        }
        for window in &self.windows {
            let count: u64 = window.intercepts.iter().map(|line| line.count).sum();
            writeln!(f, "{}: {:.6} s, {count} interceptions", window.name, window.seconds)?;
        }
        writeln!(f, "{} guest instructions interpreted", self.instructions)?;
        if self.resets > 0 {
            writeln!(f, "{} resets", self.resets)?;
        }
        if self.unserved.is_empty() {
            return writeln!(f, "no request went unserved");
        }
        writeln!(f, "requests that could not be served:")?;
        for entry in &self.unserved {
            write!(f, "  {:>8} × {}", entry.count, entry.what)?;
            if entry.rip != 0 {
                write!(f, " at {:#x}", entry.rip)?;
            }
            if !entry.bytes.is_empty() {
                write!(f, " ({})", entry.bytes)?;
            }
            writeln!(f)?;
        }
        if self.unserved_dropped > 0 {
            writeln!(f, "  {:>8} × others", self.unserved_dropped)?;
        }
        Ok(())
    }
}
