//! The order in which things are measured, and when it is enough.
//!
//! A round boots every contender once for every task. The order changes from round to round, so that a
//! host that becomes slower or faster meanwhile does so for all.

use std::time::Duration;

/// How sure every median should be, as a part of it, for it to be enough.
const SURE: f64 = 0.02;

/// The bounds of a campaign.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Most rounds.
    pub(crate) runs: u32,
    /// Rounds before it can be enough.
    pub(crate) least: u32,
    pub(crate) time_limit: Duration,
}

impl Bounds {
    /// Whether there is to be a next boot: the first round is always finished, and after it nothing is
    /// begun that would probably end too late.
    pub(crate) fn allow(&self, round: u32, elapsed: Duration, expected: Duration) -> bool {
        round == 1 || elapsed + expected <= self.time_limit
    }

    /// Whether nothing more needs to be measured after `rounds`, going by how uncertain each median is.
    pub(crate) fn enough(&self, rounds: u32, uncertainties: impl Iterator<Item = f64>) -> bool {
        rounds >= self.runs || rounds >= self.least && uncertainties.fold(0.0, f64::max) <= SURE
    }
}

/// The order of `count` contenders in a round, counted from one: each begins in turn, and every other
/// time they go backwards.
pub(crate) fn order(round: u32, count: usize) -> Vec<usize> {
    let turn = round as usize - 1;
    let mut order: Vec<usize> = (0..count).map(|place| (place + turn) % count).collect();
    if turn % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_is_first_and_last() {
        let orders: Vec<Vec<usize>> = (1..=6).map(|round| order(round, 3)).collect();
        for contender in 0..3 {
            assert!(orders.iter().any(|order| order[0] == contender));
            assert!(orders.iter().any(|order| order[2] == contender));
        }
        for mut order in orders {
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2]);
        }
        assert!(order(1, 0).is_empty());
    }

    #[test]
    fn bounds_hold() {
        let bounds = Bounds { runs: 10, least: 5, time_limit: Duration::from_secs(60) };
        let seconds = Duration::from_secs;
        assert!(bounds.allow(1, seconds(500), seconds(10)));
        assert!(bounds.allow(2, seconds(50), seconds(10)));
        assert!(!bounds.allow(2, seconds(51), seconds(10)));
        assert!(!bounds.enough(4, [0.0].into_iter()));
        assert!(bounds.enough(5, [0.01, 0.02].into_iter()));
        assert!(!bounds.enough(5, [0.01, 0.1].into_iter()));
        assert!(bounds.enough(10, [9.0].into_iter()));
    }
}
