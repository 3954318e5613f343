//! A guest that does whatever random bytes say: nothing panics, nothing hangs, and no page that it did
//! not grant is touched. The fuzz target does the same with better chosen bytes.

mod guest;

#[test]
fn random_guests_do_no_harm() {
    let mut random = ambos_random::Random::new(1);
    let mut byte = || (random.next() >> 56) as u8;
    for round in 0..300 {
        let data: Vec<u8> = (0..200 + round * 4).map(|_| byte()).collect();
        guest::run(&data);
    }
}
