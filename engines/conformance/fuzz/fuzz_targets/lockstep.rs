//! Any state and any code, translated and interpreted: both must do the same.
#![no_main]

use ambos_conformance::Hostile;
use ambos_vcpu::Stop;
use ambos_verify::Verifier;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

thread_local! {
    static GUEST: RefCell<Hostile<Verifier>> = RefCell::new(Hostile::new(|ram, attention| {
        Verifier::new(ram, attention).expect("the host runs translated code")
    }));
}

/// The state lives as long as the process, in memory where the sanitizer does not look for pointers.
#[unsafe(no_mangle)]
extern "C" fn __lsan_is_turned_off() -> i32 {
    1
}

fuzz_target!(|input: &[u8]| {
    GUEST.with_borrow_mut(|guest| {
        if let Stop::Failed(report) = guest.run(input) {
            panic!("{report}");
        }
    });
});
