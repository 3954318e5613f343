//! A guest that asks for whatever random bytes say: nothing panics, every request ends, and at no time
//! can the guest write to a page table or see a frame that is not its own. The fuzz target does the same
//! with better chosen bytes.

mod cpu;
mod guest;

use ambos_random::Random;

#[test]
fn random_guests_do_no_harm() {
    let mut random = Random::new(1);
    for round in 0..300 {
        let data: Vec<u8> = (0..500 + round * 20).map(|_| random.below(256) as u8).collect();
        guest::run(&data);
    }
}
