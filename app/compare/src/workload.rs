//! The built-in workloads: what they are called, what they measure, in which unit.
//!
//! What they do is in `guests/workload`, and in `guests/probe` for the class [`Class::Operation`].

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a workload exercises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// From power-on to the first program.
    Boot,
    /// The processor alone.
    Cpu,
    /// The guest kernel: system calls, processes, memory management.
    Kernel,
    /// Clocks and timers, and doing nothing.
    Time,
    /// The disk.
    Disk,
    /// The network.
    Network,
    /// Someone's own service.
    Service,
    /// Single privileged operations, in a guest of our own.
    Operation,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Boot,
        Self::Cpu,
        Self::Kernel,
        Self::Time,
        Self::Disk,
        Self::Network,
        Self::Service,
        Self::Operation,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Cpu => "cpu",
            Self::Kernel => "kernel",
            Self::Time => "time",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Service => "service",
            Self::Operation => "operation",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which values are the good ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Low ones: times, costs.
    Lower,
    /// High ones: rates.
    Higher,
}

/// How a value is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Seconds; written in the unit that suits.
    Seconds,
    /// Bytes per second.
    BytesPerSecond,
    /// Processor time per time, without a dimension; written in percent.
    Share,
    /// Whatever a service's metric is.
    Other(String),
}

/// How a workload's value comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The host's time from the start of the monitor to the first program.
    Boot,
    /// Time for one operation.
    Time,
    /// Operations, which are bytes, in a second.
    Bytes,
    /// Processor time of the monitor in the time it takes.
    Processor,
}

/// A built-in workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Its name on the command line, in the guest and in reports.
    pub name: &'static str,
    /// What it exercises.
    pub class: Class,
    /// What one operation is.
    pub about: &'static str,
    /// What is measured.
    pub measure: Measure,
    /// What it needs besides a kernel.
    pub needs: Need,
}

/// What a workload needs besides a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// A second processor.
    Processors,
    /// A disk.
    Disk,
    /// A network.
    Network,
}

impl Workload {
    /// Which values are the good ones.
    pub fn better(&self) -> Better {
        match self.measure {
            Measure::Bytes => Better::Higher,
            _ => Better::Lower,
        }
    }

    /// The unit of its value.
    pub fn unit(&self) -> Unit {
        match self.measure {
            Measure::Boot | Measure::Time => Unit::Seconds,
            Measure::Bytes => Unit::BytesPerSecond,
            Measure::Processor => Unit::Share,
        }
    }
}

const fn workload(
    name: &'static str,
    class: Class,
    measure: Measure,
    needs: Need,
    about: &'static str,
) -> Workload {
    Workload { name, class, about, measure, needs }
}

/// The name of the workload that is the boot itself.
pub const BOOT: &str = "boot";

/// All that run in a Linux guest, in the order in which they run.
pub const WORKLOADS: &[Workload] = &[
    workload(BOOT, Class::Boot, Measure::Boot, Need::Nothing, "from power-on to the first program"),
    workload("integer", Class::Cpu, Measure::Time, Need::Nothing, "hashing and sorting a number"),
    workload("float", Class::Cpu, Measure::Time, Need::Nothing, "a multiplication and an addition"),
    workload("memory", Class::Cpu, Measure::Time, Need::Nothing, "a load that misses the caches"),
    workload("syscall", Class::Kernel, Measure::Time, Need::Nothing, "the cheapest system call"),
    workload(
        "fork-exec",
        Class::Kernel,
        Measure::Time,
        Need::Nothing,
        "a process: fork, exec, exit, wait",
    ),
    workload(
        "context-switch",
        Class::Kernel,
        Measure::Time,
        Need::Nothing,
        "a switch between two processes",
    ),
    workload(
        "wake-up",
        Class::Kernel,
        Measure::Time,
        Need::Processors,
        "waking a process on another processor",
    ),
    workload(
        "page-fault",
        Class::Kernel,
        Measure::Time,
        Need::Nothing,
        "the first touch of a page",
    ),
    workload(
        "page-table",
        Class::Kernel,
        Measure::Time,
        Need::Nothing,
        "protecting, unmapping and remapping a page",
    ),
    workload("timer", Class::Time, Measure::Time, Need::Nothing, "a sleep of 100 µs"),
    workload("clock", Class::Time, Measure::Time, Need::Nothing, "reading the time as programs do"),
    workload("disk-random", Class::Disk, Measure::Time, Need::Disk, "reading 4 KiB anywhere"),
    workload(
        "disk-sequential",
        Class::Disk,
        Measure::Bytes,
        Need::Disk,
        "reading 256 KiB in a row",
    ),
    workload("disk-fsync", Class::Disk, Measure::Time, Need::Disk, "writing 4 KiB to the medium"),
    workload(
        "net-throughput",
        Class::Network,
        Measure::Bytes,
        Need::Network,
        "receiving from the host by TCP",
    ),
    workload(
        "net-request",
        Class::Network,
        Measure::Time,
        Need::Network,
        "a byte to the host and back by TCP",
    ),
    workload(
        "idle",
        Class::Time,
        Measure::Processor,
        Need::Nothing,
        "processor time of the monitor while the guest sleeps",
    ),
];

/// The workload of this name.
pub fn find(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_has_the_same_workloads() {
        let guest = include_str!("../../../guests/workload/main.rs");
        for workload in WORKLOADS.iter().filter(|workload| workload.name != BOOT) {
            assert!(guest.contains(&format!("(\"{}\", ", workload.name)), "{}", workload.name);
        }
        let listed = guest.lines().filter(|line| line.starts_with("    (\"")).count();
        assert_eq!(listed, WORKLOADS.len() - 1);
    }

    #[test]
    fn names_are_words_and_no_class_but_boot_is_a_workload() {
        for workload in WORKLOADS {
            assert!(workload.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
        }
        for class in Class::ALL {
            let workload = find(class.name());
            assert!(workload.is_none_or(|workload| workload.name == BOOT), "{class}");
        }
    }
}
