//! A driver that does whatever random bytes say to each device: nothing panics and nothing hangs. The
//! fuzz target does the same with better chosen bytes.

mod driver;

#[test]
fn random_drivers_do_no_harm() {
    let mut random = ambos_random::Random::new(1);
    for round in 0..350u64 {
        let length = 200 + round as usize * 4;
        let mut data: Vec<u8> = (0..length).map(|_| (random.next() >> 56) as u8).collect();
        // Each device has its turn.
        data[0] = round as u8;
        driver::run(&data);
    }
}
