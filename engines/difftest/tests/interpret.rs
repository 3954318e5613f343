//! The interpreter against the host's processor.

use ambos_difftest::{Options, run_single};
use ambos_interpret::Cpu;

#[test]
fn single_instructions_do_what_the_processor_does() {
    let options = Options { cases: 0..1_000_000, seed: 20_250_101, filter: None };
    println!("seed {}", options.seed);
    let report = run_single(&options, |ram, attention| Cpu::new(ram, attention).unwrap()).unwrap();
    println!("{report}");
    assert_eq!(report.failed, 0, "{report}");
    assert!(report.ran > 990_000, "{report}");
    assert!(report.faulted > 50_000, "{report}");
}
