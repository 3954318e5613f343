//! Accesses of any width to registers of one width.

use crate::AccessError;

/// Reads `data` from a device whose registers are one byte wide, lowest port first.
///
/// # Errors
///
/// The first error of `read`; later bytes are not read.
pub fn read_bytes(
    offset: u16,
    data: &mut [u8],
    mut read: impl FnMut(u16) -> Result<u8, AccessError>,
) -> Result<(), AccessError> {
    for (byte, offset) in data.iter_mut().zip(offset..=u16::MAX) {
        *byte = read(offset)?;
    }
    Ok(())
}

/// Writes `data` to a device whose registers are one byte wide, lowest port first.
///
/// # Errors
///
/// The first error of `write`; later bytes are not written.
pub fn write_bytes(
    offset: u16,
    data: &[u8],
    mut write: impl FnMut(u16, u8) -> Result<(), AccessError>,
) -> Result<(), AccessError> {
    data.iter().zip(offset..=u16::MAX).try_for_each(|(&byte, offset)| write(offset, byte))
}

/// Reads `data` from a device whose registers are four bytes wide. `read` gets offsets that are
/// multiples of four; parts of registers are cut out of the whole.
///
/// # Errors
///
/// The first error of `read`.
pub fn read_dwords(
    offset: u64,
    data: &mut [u8],
    mut read: impl FnMut(u64) -> Result<u32, AccessError>,
) -> Result<(), AccessError> {
    let mut done = 0;
    while done < data.len() {
        let at = offset.wrapping_add(done as u64);
        let skip = (at & 3) as usize;
        let part = &read(at & !3)?.to_le_bytes()[skip..];
        let count = part.len().min(data.len() - done);
        data[done..done + count].copy_from_slice(&part[..count]);
        done += count;
    }
    Ok(())
}

/// Writes `data` to a device whose registers are four bytes wide and are written whole: an access
/// must begin and end at a register's border.
///
/// # Errors
///
/// [`AccessError::Size`] for a part of a register, else the first error of `write`.
pub fn write_dwords(
    offset: u64,
    data: &[u8],
    mut write: impl FnMut(u64, u32) -> Result<(), AccessError>,
) -> Result<(), AccessError> {
    let (whole, rest) = data.as_chunks::<4>();
    if !offset.is_multiple_of(4) || !rest.is_empty() {
        return Err(AccessError::Size);
    }
    let offsets = (0..).map(|index: u64| offset.wrapping_add(index * 4));
    offsets.zip(whole).try_for_each(|(offset, bytes)| write(offset, u32::from_le_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dwords_are_cut_to_the_access() {
        let register = |offset: u64| Ok(0x0403_0201u32.wrapping_add(offset as u32 * 0x0101_0101));
        let mut data = [0; 5];
        read_dwords(2, &mut data, register).unwrap();
        assert_eq!(data, [3, 4, 5, 6, 7]);
    }

    #[test]
    fn parts_of_dwords_cannot_be_written() {
        let mut seen = Vec::new();
        let mut write = |offset, value| {
            seen.push((offset, value));
            Ok(())
        };
        assert_eq!(write_dwords(2, &[0; 4], &mut write), Err(AccessError::Size));
        assert_eq!(write_dwords(4, &[0; 2], &mut write), Err(AccessError::Size));
        assert_eq!(write_dwords(4, &[1, 0, 0, 0, 2, 0, 0, 0], &mut write), Ok(()));
        assert_eq!(seen, [(4, 1), (8, 2)]);
    }
}
