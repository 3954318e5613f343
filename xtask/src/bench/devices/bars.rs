//! What the devices must reach.

use super::contender::Contender;
use super::guest::Sample;
use super::{Figure, counts, rates};
use crate::bench::samples::summary;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantity {
    /// Ours is to be at least so many times theirs.
    Rate,
    /// Ours, between drivers and devices, are to be at most such a part of theirs.
    Interceptions,
    /// The same of all there are, with the guest's own work.
    AllInterceptions,
}

/// What one device must reach, compared with another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bar {
    figure: Figure,
    quantity: Quantity,
    pub(super) ours: Contender,
    pub(super) theirs: Contender,
    ratio: f64,
}

const fn faster(figure: Figure, ours: Contender, theirs: Contender, ratio: f64) -> Bar {
    Bar { figure, quantity: Quantity::Rate, ours, theirs, ratio }
}

const fn fewer(figure: Figure, ours: Contender, theirs: Contender) -> Bar {
    Bar { figure, quantity: Quantity::Interceptions, ours, theirs, ratio: 1.0 / 3.0 }
}

const fn fewer_of_all(figure: Figure, ours: Contender, theirs: Contender) -> Bar {
    Bar { quantity: Quantity::AllInterceptions, ..fewer(figure, ours, theirs) }
}

/// All of them: beside QEMU, then our paravirtual devices beside our generic ones.
pub(super) const BARS: &[Bar] = &[
    faster(Figure::Random, Contender::Full, Contender::QemuGeneric, 2.0),
    faster(Figure::Sequential, Contender::Full, Contender::QemuGeneric, 2.0),
    faster(Figure::Download, Contender::Full, Contender::QemuGeneric, 2.0),
    faster(Figure::Random, Contender::Hybrid, Contender::QemuVirtio, 3.0),
    faster(Figure::Sequential, Contender::Hybrid, Contender::QemuVirtio, 3.0),
    faster(Figure::Download, Contender::Hybrid, Contender::QemuVirtio, 2.0),
    faster(Figure::Random, Contender::Hybrid, Contender::Full, 1.5),
    faster(Figure::Sequential, Contender::Hybrid, Contender::Full, 1.5),
    faster(Figure::Download, Contender::Hybrid, Contender::Full, 1.5),
    fewer(Figure::Random, Contender::Hybrid, Contender::Full),
    fewer(Figure::Sequential, Contender::Hybrid, Contender::Full),
    fewer(Figure::Download, Contender::Hybrid, Contender::Full),
    fewer_of_all(Figure::Random, Contender::Hybrid, Contender::Full),
    fewer_of_all(Figure::Sequential, Contender::Hybrid, Contender::Full),
    fewer_of_all(Figure::Download, Contender::Hybrid, Contender::Full),
    faster(Figure::Random, Contender::Para, Contender::Full, 1.5),
    faster(Figure::Sequential, Contender::Para, Contender::Full, 1.5),
    faster(Figure::Download, Contender::Para, Contender::Full, 1.5),
    fewer(Figure::Random, Contender::Para, Contender::Full),
    fewer(Figure::Sequential, Contender::Para, Contender::Full),
    fewer(Figure::Download, Contender::Para, Contender::Full),
];

impl Bar {
    /// A line of a table: what is compared, the ratio of the medians, the bar, and whether it holds.
    pub(super) fn line(&self, ours: &[Sample], theirs: &[Sample]) -> String {
        let select = |figure, samples: &[Sample]| match self.quantity {
            Quantity::Rate => rates(figure, samples),
            Quantity::Interceptions => counts(figure, samples, |counts| counts.of_devices),
            Quantity::AllInterceptions => counts(figure, samples, |counts| counts.all),
        };
        let what = match self.quantity {
            Quantity::Rate => self.figure.name(),
            Quantity::Interceptions => "  interceptions by devices",
            Quantity::AllInterceptions => "  all interceptions",
        };
        let pair = format!("{}, {}", self.ours.name(self.figure), self.theirs.name(self.figure));
        let medians = (summary(&select(self.figure, ours)), summary(&select(self.figure, theirs)));
        let (Some((ours, _)), Some((theirs, _))) = medians else {
            return format!("{what:<28} {pair:<46} was not measured");
        };
        let ratio = ours / theirs.max(1e-9);
        let (sign, holds) = self.judge(ratio);
        let bar = format!("{sign} {:.2}", self.ratio);
        let verdict = if holds { "yes" } else { "NO" };
        format!("{what:<28} {pair:<46} {ratio:>7.2} {bar:>7}  {verdict}")
    }

    /// Which side the ratio is to be on, and whether it is.
    fn judge(&self, ratio: f64) -> (&'static str, bool) {
        match self.quantity {
            Quantity::Rate => (">=", ratio >= self.ratio),
            Quantity::Interceptions | Quantity::AllInterceptions => ("<=", ratio <= self.ratio),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::devices::guest::Value;
    use crate::bench::devices::interceptions::Counts;

    fn sample(rate: f64, interceptions: f64) -> Sample {
        let counts = Counts { all: 10.0 + interceptions, of_devices: interceptions };
        [Value { rate, interceptions: Some(counts) }; 3]
    }

    #[test]
    fn bars_are_on_the_right_side() {
        let (slow, fast) = ([sample(100.0, 90.0)], [sample(150.0, 30.0)]);
        let rate = faster(Figure::Random, Contender::Hybrid, Contender::Full, 1.5);
        assert!(rate.line(&fast, &slow).ends_with("1.50 >= 1.50  yes"));
        assert!(rate.line(&slow, &fast).ends_with("0.67 >= 1.50  NO"));
        let count = fewer(Figure::Random, Contender::Hybrid, Contender::Full);
        assert!(count.line(&fast, &slow).ends_with("0.33 <= 0.33  yes"));
        assert!(count.line(&slow, &fast).ends_with("3.00 <= 0.33  NO"));
        // 40 instead of 100.
        let all = fewer_of_all(Figure::Download, Contender::Hybrid, Contender::Full);
        assert!(all.line(&fast, &slow).ends_with("0.40 <= 0.33  NO"));
        assert!(count.line(&fast, &[]).ends_with("was not measured"));
    }
}
