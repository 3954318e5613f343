//! Hostile guests made from a fixed seed: the short version of the fuzz targets.

use ambos_conformance::{Guests, Hostile};
use ambos_interpret::Cpu;
use ambos_vcpu::Stop;

#[test]
fn the_interpreter_comes_back() {
    let mut hostile = Hostile::new(|ram, attention| Cpu::new(ram, attention).unwrap());
    let mut guests = Guests::new(1);
    let (mut crashed, mut spent) = (0, 0);
    for _ in 0..3000 {
        match hostile.run(&guests.guest()) {
            Stop::Crashed(_) => crashed += 1,
            Stop::Budget => spent += 1,
            _ => {}
        }
    }
    assert!(crashed > 0 && spent > 0, "{crashed} {spent}");
}
