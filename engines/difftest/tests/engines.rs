//! The engines against the host's processor.

use ambos_difftest::{Options, Report, run_blocks, run_single};
use ambos_interpret::Cpu;
use ambos_translate::{Translator, Views};

fn judge(options: &Options, report: &Report) {
    println!("seed {}: {report}", options.seed);
    assert_eq!(report.failed, 0, "seed {}: {report}", options.seed);
    // Nearly every number gives a case, and a good part of them faults.
    let cases = options.cases.end - options.cases.start;
    assert!(report.ran > cases / 100 * 99 && report.faulted > cases / 20, "{report}");
}

#[test]
fn the_interpreter_executes_single_instructions_as_the_processor_does() {
    let options = Options { cases: 0..1_000_000, seed: 20_250_101, filter: None };
    let report = run_single(&options, |ram, attention| Cpu::new(ram, attention).unwrap());
    judge(&options, &report.unwrap());
}

#[test]
fn the_translator_executes_single_instructions_as_the_processor_does() {
    let options = Options { cases: 0..1_000_000, seed: 20_250_102, filter: None };
    let report = run_single(&options, |ram, attention| {
        // Code is translated the first time it runs.
        let eager = ambos_translate::Options { threshold: 0, ..Default::default() };
        Translator::new(ram, attention, eager).unwrap()
    });
    judge(&options, &report.unwrap());
}

#[test]
fn the_interpreter_executes_blocks_as_the_processor_does() {
    let options = Options { cases: 0..100_000, seed: 20_250_103, filter: None };
    let report = run_blocks(&options, true, |ram, attention| Cpu::new(ram, attention).unwrap());
    judge(&options, &report.unwrap());
}

#[test]
fn the_translator_executes_blocks_as_the_processor_does() {
    let options = Options { cases: 0..200_000, seed: 20_250_104, filter: None };
    let report = run_blocks(&options, false, |ram, attention| {
        let eager = ambos_translate::Options { threshold: 0, ..Default::default() };
        Translator::new(ram, attention, eager).unwrap()
    });
    judge(&options, &report.unwrap());
}

/// One whose operands are reached through views.
fn viewing(
    ram: std::sync::Arc<ambos_memory::GuestRam>,
    attention: std::sync::Arc<ambos_vcpu::Attention>,
) -> Translator {
    let options =
        ambos_translate::Options { threshold: 0, views: Views::Always, ..Default::default() };
    Translator::new(ram, attention, options).unwrap()
}

#[test]
fn views_execute_single_instructions_as_the_processor_does() {
    let options = Options { cases: 0..100_000, seed: 20_250_105, filter: None };
    judge(&options, &run_single(&options, viewing).unwrap());
}

#[test]
fn views_execute_blocks_as_the_processor_does() {
    let options = Options { cases: 0..20_000, seed: 20_250_106, filter: None };
    judge(&options, &run_blocks(&options, false, viewing).unwrap());
}
