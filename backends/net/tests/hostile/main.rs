//! A guest that sends whatever random bytes say: the network goes on to answer. The fuzz target does the same with
//! better chosen bytes.

mod guest;

#[test]
fn random_frames_do_no_harm() {
    let mut random = ambos_random::Random::new(1);
    let mut guest = guest::Guest::new();
    for round in 0..1000 {
        let data: Vec<u8> = (0..200 + round * 2).map(|_| (random.next() >> 56) as u8).collect();
        guest.run(&data);
    }
}
