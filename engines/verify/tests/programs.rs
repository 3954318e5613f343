//! The conformance suite finds no difference, and a wrong translation would be found.

use ambos_conformance::{PROGRAMS, Verdict, run};
use ambos_translate::Options;
use ambos_verify::Verifier;

#[test]
fn no_program_runs_differently() {
    let mut failures = String::new();
    for (name, image) in PROGRAMS {
        let options = Options { threshold: 0, ..Options::default() };
        let verdict = run(name, image, |ram, attention| {
            Verifier::with_options(ram, attention, options).unwrap()
        });
        if verdict != Verdict::Passed {
            failures.push_str(&format!("{name}: {verdict}\n"));
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}
