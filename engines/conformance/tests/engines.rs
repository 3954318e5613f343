//! Every program on every engine.

use ambos_conformance::{PROGRAMS, Verdict, run};
use ambos_interpret::Cpu;
use ambos_memory::GuestRam;
use ambos_translate::Translator;
use ambos_vcpu::{Attention, Engine};
use std::sync::Arc;

/// Runs all programs and lists the ones that did not pass.
fn all_pass<E: Engine>(make: impl Fn(Arc<GuestRam>, Arc<Attention>) -> E) {
    let mut failures = String::new();
    for (name, image) in PROGRAMS {
        let verdict = run(name, image, &make);
        if verdict != Verdict::Passed {
            failures.push_str(&format!("{name}: {verdict}\n"));
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

#[test]
fn the_interpreter_conforms() {
    all_pass(|ram, attention| Cpu::new(ram, attention).unwrap());
}

#[test]
fn the_translator_conforms() {
    all_pass(|ram, attention| {
        // Code is translated the first time it runs.
        let eager = ambos_translate::Options { threshold: 0, ..Default::default() };
        Translator::new(ram, attention, eager).unwrap()
    });
}

#[test]
fn the_translator_conforms_with_views() {
    all_pass(|ram, attention| {
        let options = ambos_translate::Options {
            threshold: 0,
            views: ambos_translate::Views::Always,
            ..Default::default()
        };
        Translator::new(ram, attention, options).unwrap()
    });
}
