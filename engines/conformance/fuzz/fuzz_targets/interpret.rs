//! Any state and any code in the interpreter: it must come back.
#![no_main]

use ambos_conformance::Hostile;
use ambos_interpret::Cpu;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

thread_local! {
    static GUEST: RefCell<Hostile<Cpu>> = RefCell::new(Hostile::new(|ram, attention| {
        Cpu::new(ram, attention).expect("the host has executable memory")
    }));
}

fuzz_target!(|input: &[u8]| {
    GUEST.with_borrow_mut(|guest| guest.run(input));
});
