//! Single privileged operations, timed by a kernel of our own (`guests/probe`).

use crate::collected::Collected;
use crate::report::model::Row;
use crate::runner::{Errand, Outcome, Root, Said};
use crate::workload::{Better, Class, Unit};
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of memory that the probe needs.
const MEMORY: u64 = 32 << 20;
/// The longest that it may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The operations: what the probe calls them, and what they are on a PC and in a domain.
pub const OPERATIONS: &[(&str, &str)] = &[
    ("address-space", "loading the page tables: CR3, or new_baseptr"),
    ("page-table-entry", "changing an entry: write and INVLPG, or mmu_update"),
    ("interrupt-mask", "allowing interrupts and not: STI and CLI, or the shared page's mask"),
    ("trap", "a breakpoint, there and back"),
    ("timer-program", "setting the timer: TSC_DEADLINE, or set_timer_op"),
    ("event", "an interrupt to oneself: local APIC, or event channel"),
    ("monitor-call", "the cheapest request: a port write, or xen_version"),
    ("cpuid", "asking for the processor's features"),
];

/// Their rows, before anything was measured.
pub(crate) fn rows() -> impl Iterator<Item = Row> {
    OPERATIONS.iter().map(|(name, about)| Row {
        name: (*name).to_owned(),
        class: Class::Operation,
        about: (*about).to_owned(),
        unit: Unit::Seconds,
        better: Better::Lower,
        cells: Vec::new(),
        pairs: Vec::new(),
        winner: None,
        because: Vec::new(),
    })
}

/// A run of the probe, whose file is `kernel`.
pub(crate) fn errand(kernel: PathBuf) -> Errand {
    Errand {
        command: String::new(),
        root: Root::Probe(kernel),
        memory: MEMORY,
        cpus: 1,
        disk: false,
        network: false,
        forward: None,
        limit: LIMIT,
    }
}

/// Takes what the probe said of one operation.
pub(crate) fn take(name: &str, outcome: &Outcome, collected: &mut Collected) {
    let ticks = outcome.said.iter().find_map(|said| match said {
        Said::Ticks { name: other, operations, ticks } if other == name && *operations > 0 => {
            Some(*ticks as f64 / *operations as f64)
        }
        _ => None,
    });
    match (ticks, outcome.tsc_hz) {
        (Some(ticks), Some(hz)) if ticks > 0.0 => collected.sample(ticks / hz as f64),
        _ => {
            let reason = outcome.failure.as_deref();
            collected.fail(reason.unwrap_or("the probe said nothing of it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_seconds() {
        let said = Said::Ticks { name: "trap".to_owned(), operations: 4, ticks: 8000 };
        let outcome =
            Outcome { said: vec![said], tsc_hz: Some(2_000_000_000), ..Outcome::default() };
        let mut collected = Collected::default();
        take("trap", &outcome, &mut collected);
        assert_eq!(collected.cell().median, Some(1e-6));
        take("event", &outcome, &mut collected);
        assert!(collected.cell().failure.is_some());
    }

    #[test]
    fn the_probe_has_them_under_each_technique() {
        for source in [
            include_str!("../../../guests/probe/pc.rs"),
            include_str!("../../../guests/probe/xen.rs"),
        ] {
            for (name, _) in OPERATIONS {
                assert!(source.contains(&format!("measure(\"{name}\"")), "{name}");
            }
        }
    }
}
