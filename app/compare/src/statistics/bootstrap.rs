//! Medians and their bootstrap intervals (Efron's percentile method).

use super::LEVEL;
use ambos_random::Random;
use serde::{Deserialize, Serialize};

/// How often samples are drawn anew.
const RESAMPLES: usize = 2000;

/// A range that a value lies in, as far as the samples tell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    /// Whether it includes `value`.
    pub fn contains(self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Half its width as a part of `centre`.
    pub fn relative(self, centre: f64) -> f64 {
        (self.high - self.low) / 2.0 / centre.abs().max(f64::MIN_POSITIVE)
    }
}

/// The middle of the samples; of an even number, the mean of the two in the middle.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    median_in_place(&mut sorted)
}

fn median_in_place(samples: &mut [f64]) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let upper = *samples.get(samples.len() / 2)?;
    if samples.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *samples.get(samples.len() / 2 - 1)?;
    Some(f64::midpoint(lower, upper))
}

/// Where the median of what the samples were drawn from lies.
pub fn median_interval(samples: &[f64]) -> Option<Interval> {
    if samples.is_empty() {
        return None;
    }
    let mut random = Random::new(1);
    percentiles(|| resampled_median(samples, &mut random))
}

/// Where the second median divided by the first lies.
pub fn ratio_interval(first: &[f64], second: &[f64]) -> Option<Interval> {
    if first.is_empty() || second.is_empty() {
        return None;
    }
    let mut random = Random::new(2);
    percentiles(|| resampled_median(second, &mut random) / resampled_median(first, &mut random))
}

/// Where a value lies that is computed from medians: `compute` is given what draws the median of a set
/// anew.
pub(crate) fn resample(
    compute: impl Fn(&mut dyn FnMut(&[f64]) -> Option<f64>) -> f64,
) -> Option<Interval> {
    let mut random = Random::new(4);
    percentiles(|| {
        compute(&mut |samples| {
            (!samples.is_empty()).then(|| resampled_median(samples, &mut random))
        })
    })
}

fn resampled_median(samples: &[f64], random: &mut Random) -> f64 {
    let mut drawn: Vec<f64> =
        samples.iter().map(|_| samples[random.index(samples.len())]).collect();
    median_in_place(&mut drawn).unwrap_or(f64::NAN)
}

fn percentiles(draw: impl FnMut() -> f64) -> Option<Interval> {
    let mut values: Vec<f64> = std::iter::repeat_with(draw).take(RESAMPLES).collect();
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get((share * (RESAMPLES - 1) as f64).round() as usize).copied();
    Some(Interval { low: at(LEVEL / 2.0)?, high: at(1.0 - LEVEL / 2.0)? })
}
