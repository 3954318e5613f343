//! What was counted, for people and programs.

use crate::tsc;
use ambos_intercept::{Intercept, Ledger, Privileged, UnservedLog};
use ambos_x86::Vector;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

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
        ledgers: &[Arc<Ledger>],
        unserved: &UnservedLog,
        devices: &[String],
        instructions: u64,
        counters: &BTreeMap<&'static str, u64>,
        resets: u64,
    ) -> Self {
        let mut sums: BTreeMap<(&'static str, String), (u64, u64)> = BTreeMap::new();
        for count in ledgers.iter().flat_map(|ledger| ledger.counts()) {
            let sum = sums.entry(describe(count.intercept, devices)).or_default();
            sum.0 += count.count;
            sum.1 += count.ticks;
        }
        let hz = u128::from(tsc::frequency().max(1));
        let nanoseconds =
            |ticks: u64| u64::try_from(u128::from(ticks) * 1_000_000_000 / hz).unwrap_or(u64::MAX);
        let mut intercepts: Vec<Line> = sums
            .into_iter()
            .map(|((class, label), (count, ticks))| Line {
                class,
                label,
                count,
                nanoseconds: nanoseconds(ticks),
            })
            .collect();
        intercepts.sort_by_key(|line| std::cmp::Reverse(line.count));
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
            intercepts,
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

fn describe(intercept: Intercept, devices: &[String]) -> (&'static str, String) {
    let device = |row: usize| devices.get(row).cloned().unwrap_or_else(|| format!("device {row}"));
    match intercept {
        Intercept::Privileged(class) => {
            ("privileged", Privileged::TABLE[class as usize].1.to_owned())
        }
        Intercept::PortIo(row) => ("port", device(row.row())),
        Intercept::Mmio(row) => ("mmio", device(row.row())),
        Intercept::Hypercall(number) => ("hypercall", format!("hypercall {number}")),
        Intercept::Exception(vector) => ("exception", exception(vector)),
        Intercept::Interrupt => ("interrupt", "interrupt delivered".to_owned()),
        Intercept::TlbFill => ("engine", "TLB fill".to_owned()),
        Intercept::Translation => ("engine", "block decoded".to_owned()),
        Intercept::CodeInvalidation => ("engine", "code invalidated".to_owned()),
        Intercept::Shootdown => ("engine", "write translations shot down".to_owned()),
        Intercept::Idle => ("idle", "idle".to_owned()),
    }
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
