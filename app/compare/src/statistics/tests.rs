use super::*;
use ambos_random::Random;
use proptest::prelude::*;

/// Samples of a skewed distribution, as run times have it: mostly near one, now and then far above.
fn run_times(count: usize, random: &mut Random) -> Vec<f64> {
    let mut uniform = || random.index(1 << 30) as f64 / f64::from(1 << 30);
    (0..count).map(|_| 1.0 + 0.1 * uniform() - 0.2 * uniform().max(1e-9).ln() * uniform()).collect()
}

/// How often two sets come out as different, of `trials`.
fn differences(trials: u32, sizes: (usize, usize), factor: f64) -> u32 {
    let mut random = Random::new(u64::from(trials) + sizes.0 as u64 * 31 + sizes.1 as u64);
    let trial = |_: &u32| {
        let first = run_times(sizes.0, &mut random);
        let second: Vec<f64> =
            run_times(sizes.1, &mut random).into_iter().map(|sample| sample * factor).collect();
        compare(&first, &second).unwrap().outcome == Outcome::Different
    };
    (0..trials).filter(trial).count() as u32
}

#[test]
fn samples_of_one_distribution_are_alike_nineteen_times_in_twenty() {
    for sizes in [(4, 4), (5, 5), (5, 8), (8, 8), (15, 15), (3, 12)] {
        let different = differences(500, sizes, 1.0);
        assert!(different <= 25, "{sizes:?}: {different} of 500");
    }
}

#[test]
fn the_very_same_samples_are_alike() {
    let samples = [1.0, 1.1, 0.9, 1.05, 0.97];
    let comparison = compare(&samples, &samples).unwrap();
    assert_eq!((comparison.outcome, comparison.ratio, comparison.p), (Outcome::Alike, 1.0, 1.0));
}

#[test]
fn a_clear_difference_is_found() {
    for sizes in [(4, 4), (5, 5), (8, 8), (15, 15)] {
        let different = differences(100, sizes, 2.0);
        assert!(different >= 95, "{sizes:?}: {different} of 100");
    }
    // A tenth, which is what the samples scatter by, with many of them.
    assert!(differences(100, (30, 30), 1.1) >= 80);
}

#[test]
fn few_samples_never_differ() {
    for sizes in [(1, 1), (2, 2), (3, 3), (1, 10)] {
        let first = vec![1.0; sizes.0];
        let second = vec![100.0; sizes.1];
        assert_eq!(compare(&first, &second).unwrap().outcome, Outcome::TooFew, "{sizes:?}");
    }
    assert_eq!(compare(&[], &[1.0]), None);
    assert_eq!(compare(&[1.0], &[0.0]), None);
    assert_eq!(compare(&[1.0], &[f64::NAN]), None);
}

#[test]
fn ratios_have_their_truth_in_the_interval() {
    let mut random = Random::new(9);
    let within = (0..200).filter(|_| {
        let first = run_times(12, &mut random);
        let second: Vec<f64> =
            run_times(12, &mut random).iter().map(|sample| sample * 1.5).collect();
        compare(&first, &second).unwrap().interval.contains(1.5)
    });
    // Percentile intervals of so few samples are a little too narrow.
    assert!(within.count() >= 180);
}

#[test]
fn chances_are_those_of_the_tables() {
    // Complete separation: 2 / (n over m).
    assert_eq!(rank_test(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]), 2.0 / 70.0);
    assert_eq!(rank_test(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 2.0 / 20.0);
    // U = 1 of 16 with four against four: (1 + 1) * 2 / 70.
    assert_eq!(rank_test(&[1.0, 2.0, 3.0, 5.0], &[4.0, 6.0, 7.0, 8.0]), 4.0 / 70.0);
    assert_eq!(rank_test(&[1.0, 1.0], &[1.0, 1.0]), 1.0);
}

#[test]
fn many_samples_are_tested_by_drawing() {
    let first: Vec<f64> = (0..30).map(f64::from).collect();
    let second: Vec<f64> = (0..30).map(|sample| f64::from(sample) + 0.5).collect();
    assert!(rank_test(&first, &second) > 0.5);
    let far: Vec<f64> = (0..30).map(|sample| f64::from(sample) + 20.0).collect();
    assert!(rank_test(&first, &far) < 0.001);
}

#[test]
fn medians_are_in_the_middle() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    let interval = median_interval(&[5.0; 7]).unwrap();
    assert_eq!((interval.low, interval.high), (5.0, 5.0));
    assert_eq!(Interval { low: 9.0, high: 11.0 }.relative(10.0), 0.1);
}

proptest! {
    #[test]
    fn intervals_lie_within_the_samples(samples in proptest::collection::vec(0.1f64..1e9, 1..20)) {
        let interval = median_interval(&samples).unwrap();
        let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
        let most = samples.iter().copied().fold(0.0, f64::max);
        prop_assert!(least <= interval.low && interval.low <= interval.high && interval.high <= most);
        prop_assert!(interval.contains(median(&samples).unwrap()));
    }

    #[test]
    fn the_order_of_the_sets_does_not_matter(
        first in proptest::collection::vec(0.1f64..10.0, 1..7),
        second in proptest::collection::vec(0.1f64..10.0, 1..7),
    ) {
        let there = rank_test(&first, &second);
        prop_assert_eq!(there, rank_test(&second, &first));
        prop_assert!(there > 0.0 && there <= 1.0);
    }
}
