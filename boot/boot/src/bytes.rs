//! Little-endian reads from untrusted bytes: `None` instead of a panic past the end.

/// The `N` bytes at `offset`.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// The byte at `offset`.
pub(crate) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

/// The 16-bit number at `offset`.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

/// The 32-bit number at `offset`.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

/// The 64-bit number at `offset`.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

/// `length` bytes at `offset`, where both come from a file and may be anything.
pub(crate) fn range(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(length)?).ok()?;
    bytes.get(start..end)
}

/// The text at `offset`, up to a NUL or `limit` bytes; what is not printable ASCII becomes `?`.
pub(crate) fn text_at(bytes: &[u8], offset: usize, limit: usize) -> Option<String> {
    let text = bytes.get(offset..)?;
    let text = &text[..text.len().min(limit)];
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    Some(printable(&text[..end]))
}

/// `bytes` as text; what is not printable ASCII becomes `?`.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let show = |&byte: &u8| match byte {
        b' '..=b'~' => char::from(byte),
        _ => '?',
    };
    bytes.iter().map(show).collect()
}

/// Where `needle` begins in `haystack`.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let (&first, rest) = needle.split_first()?;
    let mut from = 0;
    while let Some(found) = haystack.get(from..)?.iter().position(|&byte| byte == first) {
        let at = from + found;
        if haystack[at + 1..].starts_with(rest) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_past_the_end() {
        assert_eq!(u32_at(&[1, 0, 0, 0], 0), Some(1));
        assert_eq!(u32_at(&[1, 0, 0, 0], 1), None);
        assert_eq!(u16_at(&[1], usize::MAX), None);
        assert_eq!(range(&[1, 2, 3], 1, 2), Some(&[2, 3][..]));
        assert_eq!(range(&[1, 2, 3], u64::MAX, 2), None);
        assert_eq!(range(&[1, 2, 3], 2, 2), None);
        assert_eq!(text_at(b"a\x01b\0c", 0, 100).as_deref(), Some("a?b"));
    }

    #[test]
    fn a_needle_is_found_behind_false_starts() {
        assert_eq!(find(b"aab", b"ab"), Some(1));
        assert_eq!(find(b"aa", b"ab"), None);
        assert_eq!(find(b"", b"ab"), None);
    }
}
