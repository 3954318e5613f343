//! The rank-sum test (Wilcoxon, Mann and Whitney) by permutation: exact where all permutations can be
//! looked at, by a sample of them where they cannot.

use ambos_random::Random;

/// Most permutations that are all looked at.
const ALL: u64 = 50_000;
/// Permutations that are drawn where there are more.
const DRAWN: u64 = 20_000;

/// The chance that ranks of one distribution are as unevenly divided as these, or more.
pub fn rank_test(first: &[f64], second: &[f64]) -> f64 {
    if first.is_empty() || second.is_empty() {
        return 1.0;
    }
    let ranks = ranks(first, second);
    let observed = deviation(&ranks, ranks[..first.len()].iter().sum(), first.len());
    if combinations(ranks.len(), first.len()) <= ALL {
        let mut count = Count { observed, ranks: &ranks, taken: first.len(), as_far: 0, all: 0 };
        count.combine(0, first.len(), 0);
        return count.as_far as f64 / count.all as f64;
    }
    let mut random = Random::new(3);
    let mut shuffled = ranks.clone();
    let as_far = (0..DRAWN).filter(|_| {
        // The first places get a random choice (Fisher and Yates).
        for place in 0..first.len() {
            let other = place + random.index(shuffled.len() - place);
            shuffled.swap(place, other);
        }
        deviation(&ranks, shuffled[..first.len()].iter().sum(), first.len()) >= observed
    });
    // The permutation that was observed is one of them.
    (as_far.count() as u64 + 1) as f64 / (DRAWN + 1) as f64
}

/// The smallest chance that so many samples can give.
pub(crate) fn smallest(first: usize, second: usize) -> f64 {
    2.0 / combinations(first + second, first) as f64
}

/// Twice the ranks of all samples, those of the first set first; equal samples share their ranks' mean.
fn ranks(first: &[f64], second: &[f64]) -> Vec<u64> {
    let all: Vec<f64> = first.iter().chain(second).copied().collect();
    let rank = |sample: &f64| {
        let below = all.iter().filter(|other| *other < sample).count() as u64;
        let equal = all.iter().filter(|other| *other == sample).count() as u64;
        2 * below + equal + 1
    };
    all.iter().map(rank).collect()
}

/// How far the sum of `taken` of the ranks is from what is expected, scaled so as to stay whole.
fn deviation(ranks: &[u64], sum: u64, taken: usize) -> u64 {
    let total: u64 = ranks.iter().sum();
    (sum * ranks.len() as u64).abs_diff(total * taken as u64)
}

/// Goes through all choices of ranks.
struct Count<'a> {
    observed: u64,
    ranks: &'a [u64],
    taken: usize,
    as_far: u64,
    all: u64,
}

impl Count<'_> {
    fn combine(&mut self, from: usize, left: usize, sum: u64) {
        if left == 0 {
            self.all += 1;
            self.as_far += u64::from(deviation(self.ranks, sum, self.taken) >= self.observed);
            return;
        }
        for place in from..=self.ranks.len() - left {
            self.combine(place + 1, left - 1, sum + self.ranks[place]);
        }
    }
}

fn combinations(of: usize, taken: usize) -> u64 {
    (0..taken as u64)
        .fold(1u64, |product, step| product.saturating_mul(of as u64 - step) / (step + 1))
}
