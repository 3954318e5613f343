//! Numbers as people read them.

use crate::workload::Unit;

/// A value with its unit, three digits long.
pub(crate) fn value(value: f64, unit: &Unit) -> String {
    match unit {
        Unit::Seconds => {
            scaled(value, &[("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9), ("ps", 1e-12)])
        }
        Unit::BytesPerSecond => {
            scaled(value, &[("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3), ("B/s", 1.0)])
        }
        Unit::Share => format!("{} %", digits(value * 100.0)),
        Unit::Other(unit) if unit.is_empty() => digits(value),
        Unit::Other(unit) => format!("{} {unit}", digits(value)),
    }
}

/// Bytes in the unit that suits.
pub(crate) fn bytes(value: f64) -> String {
    scaled(value, &[("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0), ("B", 1.0)])
}

/// In the first unit that leaves a number above one; in the last if none does.
fn scaled(value: f64, units: &[(&str, f64)]) -> String {
    let unit = units.iter().find(|(_, size)| value.abs() >= *size).or(units.last());
    unit.map_or_else(String::new, |(name, size)| format!("{} {name}", digits(value / size)))
}

/// Three digits that count, with thousands apart.
pub(crate) fn digits(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 {
        let whole = format!("{:.0}", magnitude);
        let mut text = String::new();
        for (index, digit) in whole.chars().enumerate() {
            if index > 0 && (whole.len() - index) % 3 == 0 {
                text.push(',');
            }
            text.push(digit);
        }
        return if value < 0.0 { format!("-{text}") } else { text };
    }
    if magnitude >= 100.0 {
        format!("{value:.0}")
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else if magnitude >= 0.01 || magnitude == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.1e}")
    }
}

/// A part of one in percent, without a fraction where it has no use.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent.abs() >= 10.0 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_three_digits_and_a_unit() {
        assert_eq!(value(2.345, &Unit::Seconds), "2.35 s");
        assert_eq!(value(0.000_012_34, &Unit::Seconds), "12.3 µs");
        assert_eq!(value(4.2e-10, &Unit::Seconds), "420 ps");
        assert_eq!(value(123_456_789.0, &Unit::BytesPerSecond), "123 MB/s");
        assert_eq!(value(0.014, &Unit::Share), "1.40 %");
        assert_eq!(value(12_345.6, &Unit::Other("requests/s".into())), "12,346 requests/s");
        assert_eq!(bytes(1536.0), "1.50 KiB");
        assert_eq!(bytes(0.0), "0.00 B");
    }

    #[test]
    fn percents_are_short() {
        assert_eq!(percent(0.384), "38 %");
        assert_eq!(percent(0.0123), "1.2 %");
    }
}
