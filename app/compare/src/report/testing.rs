//! A report for tests.

use super::model::{
    Cell, Column, Counts, Finding, FindingKind, Guest, Host, Intercepts, MemoryUse, Report, Row,
    SCHEMA, Settings,
};
use crate::analysis;
use crate::statistics::{median, median_interval};
use crate::workload::{Better, Class, Unit};

fn cell(samples: &[f64], port: u64) -> Cell {
    let line = |class: &str, label: &str, count, seconds| Intercepts {
        class: class.to_owned(),
        label: label.to_owned(),
        count,
        seconds,
    };
    Cell {
        samples: samples.to_vec(),
        median: median(samples),
        interval: median_interval(samples),
        failure: None,
        counts: Some(Counts {
            operations: 100.0,
            seconds: 1.0,
            cpu_seconds: 0.9,
            intercepts: vec![
                line("port", "IDE controller", port, 0.2),
                line("privileged", "CPUID", 50, 0.0),
            ],
            transfers: Vec::new(),
        }),
    }
}

fn column(name: &str) -> Column {
    Column {
        name: name.to_owned(),
        about: "a technique".to_owned(),
        boots: 5,
        failure: None,
        memory: Some(MemoryUse { guest: 100 << 20, monitor: 50 << 20 }),
        clock_drift: Some(0.001),
        stopwatch_drift: Some(-0.01),
        unserved: Vec::new(),
        facts: Vec::new(),
    }
}

fn row(name: &str, better: Better, cells: Vec<Cell>) -> Row {
    let unit = match better {
        Better::Lower => Unit::Seconds,
        Better::Higher => Unit::BytesPerSecond,
    };
    Row {
        name: name.to_owned(),
        class: Class::Disk,
        about: "something with a disk".to_owned(),
        unit,
        better,
        cells,
        pairs: Vec::new(),
        winner: None,
        because: Vec::new(),
    }
}

/// A report of two techniques that ran and one that did not.
pub(crate) fn report() -> Report {
    let slow = [2.0e-4, 2.1e-4, 2.2e-4, 1.9e-4, 2.05e-4];
    let fast = [1.0e-4, 1.05e-4, 1.1e-4, 0.95e-4, 1.02e-4];
    let rates = [2.0e8, 2.2e8, 2.1e8, 1.9e8, 2.05e8];
    let missing = || Cell { failure: Some("it does not run".to_owned()), ..Cell::default() };
    let mut para = column("para");
    para.boots = 0;
    para.memory = None;
    para.failure = Some("it does not run".to_owned());
    let mut report = Report {
        schema: SCHEMA,
        began: "2026-01-02T03:04:05Z".to_owned(),
        seconds: 61.0,
        complete: true,
        host: Host {
            processor: "A Processor".to_owned(),
            processors: 2,
            kernel: "6.1".to_owned(),
            memory: 8 << 30,
            load: 0.1,
        },
        guest: Guest {
            name: "debian-standard".to_owned(),
            release: Some("6.1.0".to_owned()),
            memory: 512 << 20,
            cpus: 1,
        },
        settings: Settings {
            ambos: "0.1.0".to_owned(),
            runs: 5,
            time_limit: 170.0,
            repetitions: 5,
            repetition_seconds: 0.03,
            level: 0.05,
        },
        columns: vec![column("full"), column("hybrid"), para],
        rows: vec![
            row("disk-random", Better::Lower, vec![cell(&slow, 2000), cell(&fast, 20), missing()]),
            row(
                "disk-sequential",
                Better::Higher,
                vec![cell(&rates, 9), cell(&rates, 9), missing()],
            ),
        ],
        findings: vec![Finding {
            column: "para".to_owned(),
            kind: FindingKind::Compatibility,
            text: "does not run: it does not run".to_owned(),
        }],
        verdict: Vec::new(),
    };
    analysis::conclude_rows(&mut report, |_, _| true);
    report
}
