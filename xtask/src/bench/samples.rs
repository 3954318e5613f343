//! Samples of alternating runs.

/// Repeats a measurement, alternating between the subjects; the samples of each.
pub(super) fn alternate<Subject: Copy, Sample>(
    subjects: &[Subject],
    runs: usize,
    mut measure: impl FnMut(Subject) -> Result<Sample, String>,
) -> Result<Vec<Vec<Sample>>, String> {
    let mut samples: Vec<Vec<Sample>> = subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..runs {
        for (subject, samples) in subjects.iter().zip(&mut samples) {
            samples.push(measure(*subject)?);
        }
    }
    Ok(samples)
}

/// The median, and the distance between the least and the greatest sample in parts of it.
pub(super) fn summary(samples: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, greatest) = (sorted.first()?, sorted.last()?);
    let half = sorted.len() / 2;
    let median =
        if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 };
    Some((median, (greatest - least) / median.max(1e-9)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_alternate() {
        let mut order = Vec::new();
        let samples = alternate(&['a', 'b'], 2, |subject| {
            order.push(subject);
            Ok(order.len())
        });
        assert_eq!(order, ['a', 'b', 'a', 'b']);
        assert_eq!(samples, Ok(vec![vec![1, 3], vec![2, 4]]));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(summary(&[3.0, 1.0, 2.0]), Some((2.0, 1.0)));
        assert_eq!(summary(&[4.0, 1.0, 2.0, 4.0]), Some((3.0, 1.0)));
        assert_eq!(summary(&[]), None);
    }
}
