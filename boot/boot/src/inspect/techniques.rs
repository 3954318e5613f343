//! What each technique asks of a kernel, and whether it has it.

use super::{KernelConfig, OptionState, ProtocolReport};
use crate::image::{XenNote, XenNotes};
use serde::Serialize;
use std::fmt;

/// A technique of virtualization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Technique {
    /// Full virtualization: an unmodified guest on a PC.
    Full,
    /// Full virtualization of the CPU, paravirtual devices and clock.
    Hybrid,
    /// Paravirtualization: hypercalls for everything.
    Para,
}

/// Whether a kernel runs under a technique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It runs.
    Yes,
    /// It runs, but some device is of no use to it.
    Limited,
    /// It boots, but nothing is known of its drivers.
    Unknown,
    /// It does not run.
    No,
}

/// A driver that a technique's device needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// What it is for.
    pub purpose: &'static str,
    /// The kernel's option, without its prefix.
    pub option: &'static str,
    /// Whether the kernel has it.
    pub state: OptionState,
}

/// What a technique finds in a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TechniqueReport {
    /// The technique.
    pub technique: Technique,
    /// Whether the kernel runs under it.
    pub verdict: Verdict,
    /// Why not, or not wholly.
    pub reasons: Vec<String>,
    /// The drivers that matter; empty where the configuration is not known.
    pub drivers: Vec<Driver>,
}

/// What is known of a kernel.
pub(super) struct Facts<'a> {
    pub(super) protocols: &'a [ProtocolReport],
    pub(super) notes: &'a XenNotes,
    pub(super) is_linux: bool,
    pub(super) elf64: bool,
    pub(super) unpacked: bool,
    pub(super) config: Option<&'a KernelConfig>,
}

/// How much a driver matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Without it the technique is none.
    Must,
    /// Without it a device is of no use.
    Device,
    /// Good to have.
    Bonus,
}

type Row = (&'static str, &'static str, Need);

const FULL: &[Row] = &[
    ("bus", "PCI", Need::Device),
    ("tables", "ACPI", Need::Device),
    ("console", "SERIAL_8250_CONSOLE", Need::Device),
    ("interrupts", "X86_IO_APIC", Need::Bonus),
    ("timer", "HPET_TIMER", Need::Bonus),
    ("clock", "RTC_DRV_CMOS", Need::Bonus),
    ("disk", "ATA_PIIX", Need::Device),
    ("disk", "BLK_DEV_SD", Need::Device),
    ("network", "E1000", Need::Device),
    ("keyboard", "SERIO_I8042", Need::Bonus),
    ("keyboard", "KEYBOARD_ATKBD", Need::Bonus),
    ("screen", "VGA_CONSOLE", Need::Bonus),
];

const HYBRID: &[Row] = &[
    ("bus", "VIRTIO_PCI", Need::Must),
    ("clock", "KVM_GUEST", Need::Device),
    ("disk", "VIRTIO_BLK", Need::Device),
    ("network", "VIRTIO_NET", Need::Device),
    ("console", "VIRTIO_CONSOLE", Need::Device),
    ("entropy", "HW_RANDOM_VIRTIO", Need::Bonus),
    ("memory", "VIRTIO_BALLOON", Need::Bonus),
    ("sockets", "VIRTIO_VSOCKETS", Need::Bonus),
    ("files", "VIRTIO_FS", Need::Bonus),
];

const PARA: &[Row] = &[
    ("CPU and memory", "XEN_PV", Need::Must),
    ("multiprocessing", "XEN_PV_SMP", Need::Bonus),
    ("console", "HVC_XEN", Need::Device),
    ("bus", "XEN_XENBUS_FRONTEND", Need::Device),
    ("disk", "XEN_BLKDEV_FRONTEND", Need::Device),
    ("network", "XEN_NETDEV_FRONTEND", Need::Device),
    ("memory", "XEN_BALLOON", Need::Bonus),
];

impl Technique {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Full, Self::Hybrid, Self::Para];

    fn rows(self) -> &'static [Row] {
        match self {
            Self::Full => FULL,
            Self::Hybrid => HYBRID,
            Self::Para => PARA,
        }
    }

    /// Judges a kernel.
    pub(super) fn judge(self, facts: &Facts<'_>) -> TechniqueReport {
        let obstacle = match self {
            Self::Full | Self::Hybrid => no_boot(facts),
            Self::Para => no_paravirtual_start(facts),
        };
        let mut report = TechniqueReport {
            technique: self,
            verdict: Verdict::Yes,
            reasons: vec![],
            drivers: vec![],
        };
        if facts.is_linux {
            self.judge_drivers(facts, &mut report);
        }
        if let Some(obstacle) = obstacle {
            report.verdict = Verdict::No;
            report.reasons.insert(0, obstacle.into());
        } else if !facts.is_linux && self != Self::Full {
            report.verdict = Verdict::Unknown;
            report.reasons.push("it is not Linux: its drivers are not known".into());
        }
        report
    }

    fn judge_drivers(self, facts: &Facts<'_>, report: &mut TechniqueReport) {
        let Some(config) = facts.config else {
            report.reasons.push(
                "its configuration is not known (put config-VERSION beside it): \
                 its drivers cannot be told"
                    .into(),
            );
            report.verdict = Verdict::Unknown;
            return;
        };
        for &(purpose, option, need) in self.rows() {
            let state = config.state(option);
            report.drivers.push(Driver { purpose, option, state });
            if state != OptionState::Absent || need == Need::Bonus {
                continue;
            }
            report.reasons.push(format!("no {purpose}: {option} is off"));
            report.verdict = match (need, report.verdict) {
                (Need::Must, _) | (_, Verdict::No) => Verdict::No,
                _ => Verdict::Limited,
            };
        }
    }
}

fn no_boot(facts: &Facts<'_>) -> Option<&'static str> {
    let any = facts.protocols.iter().any(|report| report.supported);
    (!any).then_some("it has no boot protocol that Ambos knows")
}

fn no_paravirtual_start(facts: &Facts<'_>) -> Option<&'static str> {
    if !facts.unpacked {
        return Some("the kernel cannot be unpacked, so its Xen notes are not known");
    }
    if facts.notes.is_empty() {
        return Some("it has no Xen notes (XEN_PV is off)");
    }
    // A kernel that names Xen's interface may be entered where its ELF header says.
    let named = !facts.is_linux && facts.notes.text(XenNote::XenVersion).is_some();
    if facts.notes.number(XenNote::Entry).is_none() && !named {
        return Some("it has no paravirtual entry point (note ENTRY)");
    }
    if !facts.elf64 {
        return Some("it is a 32-bit kernel");
    }
    match facts.notes.text(XenNote::Loader) {
        None | Some("generic") => None,
        Some(_) => Some("it asks for an unknown kind of loader (note LOADER)"),
    }
}

impl fmt::Display for Technique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Full => "full",
            Self::Hybrid => "hybrid",
            Self::Para => "para",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Yes => "runs",
            Self::Limited => "runs, with limits",
            Self::Unknown => "boots, drivers unknown",
            Self::No => "does not run",
        })
    }
}
