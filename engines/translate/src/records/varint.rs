//! Numbers as bytes: seven bits each, the lowest first, with the highest bit set in all but the last.

/// Appends a number.
pub(crate) fn put_unsigned(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Appends a number that may be negative: small ones of either sign are short.
pub(crate) fn put_signed(bytes: &mut Vec<u8>, value: i32) {
    put_unsigned(bytes, (value << 1 ^ value >> 31) as u32);
}

/// Takes a byte from the front, if there is one.
#[inline]
pub(crate) fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (&first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(first)
}

/// Takes what [`put_unsigned`] has put.
#[inline]
pub(crate) fn take_unsigned(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0;
    for shift in (0..32).step_by(7) {
        let byte = take_byte(bytes)?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    Some(value)
}

/// Takes what [`put_signed`] has put.
#[inline]
pub(crate) fn take_signed(bytes: &mut &[u8]) -> Option<i32> {
    let value = take_unsigned(bytes)?;
    Some((value >> 1) as i32 ^ -((value & 1) as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_they_were() {
        let mut bytes = Vec::new();
        let unsigned = [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u32::MAX];
        let signed = [0, -1, 1, 63, -64, 64, 0x1234, i32::MIN, i32::MAX];
        unsigned.iter().for_each(|&value| put_unsigned(&mut bytes, value));
        signed.iter().for_each(|&value| put_signed(&mut bytes, value));
        let mut rest = &bytes[..];
        assert!(unsigned.iter().all(|&value| take_unsigned(&mut rest) == Some(value)));
        assert!(signed.iter().all(|&value| take_signed(&mut rest) == Some(value)));
        assert_eq!(take_unsigned(&mut rest), None);
        assert_eq!(take_unsigned(&mut &[0xff, 0xff][..]), None);
    }
}
