//! The checksum of the Internet protocols (RFC 1071).

/// The ones' complement sum of `bytes`, begun with `sum`, not complemented. Only the last piece of
/// several may have an odd length.
pub fn add(sum: u16, bytes: &[u8]) -> u16 {
    // Words of 32 bits in two lanes each, so that the compiler uses vectors; the sum of at most
    // 2^32 of them has no overflow. The order of bytes does not matter to a ones' complement sum,
    // if it is put right at the end.
    let (words, rest) = bytes.as_chunks::<4>();
    let words: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut tail = [0; 4];
    tail[..rest.len()].copy_from_slice(rest);
    let mut total = words + u64::from(u32::from_ne_bytes(tail));
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    join(sum, u16::from_be(total as u16))
}

/// The ones' complement sum of two sums.
pub fn join(first: u16, second: u16) -> u16 {
    let (sum, carry) = first.overflowing_add(second);
    sum + u16::from(carry)
}

/// The checksum field for a sum: its complement.
pub fn field(sum: u16) -> [u8; 2] {
    (!sum).to_be_bytes()
}

/// The sum of a pseudo-header: addresses of either version (as `addresses`, source and
/// destination), protocol, and length of the transport's part.
pub fn pseudo_header(addresses: &[u8], protocol: u8, length: u16) -> u16 {
    let [high, low] = length.to_be_bytes();
    add(add(0, &[0, protocol, high, low]), addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow(bytes: &[u8]) -> u16 {
        let sum = bytes.chunks(2).fold(0u64, |sum, pair| {
            sum + u64::from(pair[0]) * 256 + pair.get(1).map_or(0, |low| u64::from(*low))
        });
        let mut sum = sum;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_definition(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..100,
        ) {
            let cut = (cut * 2).min(bytes.len() & !1);
            let (first, second) = bytes.split_at(cut);
            prop_assert_eq!(add(add(0, first), second), slow(&bytes));
        }
    }
}
