//! Sizes as people write them.

use thiserror::Error;

/// Why a text is no size.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum SizeError {
    /// No number, or one with a sign or fraction.
    #[error("a size is a whole number and a unit, such as 512M or 2G")]
    Number,
    /// Without a unit nobody knows what is meant.
    #[error("a size needs a unit: K, M, G or T, as in {0}M")]
    NoUnit(u64),
    /// Something other than K, M, G, T.
    #[error("{0:?} is not a unit of size; K, M, G and T are")]
    Unit(String),
    /// More than 64 bits.
    #[error("the size is too large")]
    TooLarge,
}

/// Reads a number of bytes such as `512M`, `2G`, `1GiB`; units are powers of 1024.
pub(crate) fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::Number);
    }
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "" => return Err(SizeError::NoUnit(number)),
        other if other.starts_with('.') => return Err(SizeError::Number),
        _ => return Err(SizeError::Unit(unit.trim().to_owned())),
    };
    number.checked_mul(1 << shift).ok_or(SizeError::TooLarge)
}

/// Writes a number of bytes for people.
pub(crate) fn format(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B");
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        assert_eq!(parse("512M"), Ok(512 << 20));
        assert_eq!(parse("2g"), Ok(2 << 30));
        assert_eq!(parse(" 1 GiB "), Ok(1 << 30));
        assert_eq!(parse("64kb"), Ok(64 << 10));
        assert_eq!(parse("0T"), Ok(0));
    }

    #[test]
    fn unclear_sizes_are_refused() {
        assert_eq!(parse("512"), Err(SizeError::NoUnit(512)));
        assert_eq!(parse(""), Err(SizeError::Number));
        assert_eq!(parse("-1M"), Err(SizeError::Number));
        assert_eq!(parse("1.5G"), Err(SizeError::Number));
        assert_eq!(parse("1X"), Err(SizeError::Unit("X".to_owned())));
        assert_eq!(parse("99999999T"), Err(SizeError::TooLarge));
        assert_eq!(parse("99999999999999999999M"), Err(SizeError::TooLarge));
    }

    #[test]
    fn sizes_are_written_for_people() {
        assert_eq!(format(0), "0 B");
        assert_eq!(format(1536), "1.5 KiB");
        assert_eq!(format(9_135_616), "8.7 MiB");
        assert_eq!(format(u64::MAX), "16777216.0 TiB");
    }
}
