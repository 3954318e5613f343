//! Hostile guests made from a fixed seed run translated as they run interpreted.

use ambos_conformance::{Guests, Hostile};
use ambos_translate::Options;
use ambos_vcpu::Stop;
use ambos_verify::Verifier;

#[test]
fn hostile_guests_run_as_they_are_interpreted() {
    let mut hostile = Hostile::new(|ram, attention| {
        let options = Options { threshold: 0, ..Options::default() };
        Verifier::with_options(ram, attention, options).unwrap()
    });
    let mut guests = Guests::new(1);
    for number in 0..1500 {
        if let Stop::Failed(report) = hostile.run(&guests.guest()) {
            panic!("guest {number}: {report}");
        }
    }
}
