//! Lists of guest memory: what descriptors name.

use ambos_memory::{DmaRange, GuestRam, NotRam};

/// Takes the first `length` bytes off `ranges`; `None`, and no change, if there are fewer.
pub(crate) fn take_front(ranges: &mut Vec<DmaRange>, length: u64) -> Option<Vec<DmaRange>> {
    if total(ranges) < length {
        return None;
    }
    let (mut left, mut front) = (length, Vec::new());
    let mut whole = 0;
    for range in ranges.iter_mut() {
        let taken = u64::from(range.length).min(left) as u32;
        front.push(DmaRange { address: range.address, length: taken });
        left -= u64::from(taken);
        if taken < range.length {
            range.address = range.address.wrapping_add(u64::from(taken));
            range.length -= taken;
            break;
        }
        whole += 1;
        if left == 0 {
            break;
        }
    }
    ranges.drain(..whole);
    Some(front)
}

/// Takes the last byte off `ranges`.
pub(crate) fn take_last_byte(ranges: &mut Vec<DmaRange>) -> Option<DmaRange> {
    while ranges.last().is_some_and(|range| range.length == 0) {
        ranges.pop();
    }
    let last = ranges.last_mut()?;
    last.length -= 1;
    let address = last.address.wrapping_add(u64::from(last.length));
    Some(DmaRange { address, length: 1 })
}

/// Bytes of all ranges together.
pub(crate) fn total(ranges: &[DmaRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.length)).sum()
}

/// Copies guest memory into an array, as far as it reaches.
pub(crate) fn read(ram: &GuestRam, ranges: &[DmaRange], bytes: &mut [u8]) -> Result<(), NotRam> {
    let mut rest = bytes;
    for slice in ram.dma_slices(ranges)? {
        let (head, tail) = rest.split_at_mut(slice.len().min(rest.len()));
        slice.copy_to(head);
        rest = tail;
    }
    Ok(())
}

/// Copies bytes into guest memory, as far as there is room.
pub(crate) fn write(ram: &GuestRam, ranges: &[DmaRange], bytes: &[u8]) -> Result<(), NotRam> {
    let mut rest = bytes;
    for slice in ram.dma_slices(ranges)? {
        let (head, tail) = rest.split_at(slice.len().min(rest.len()));
        slice.copy_from(head);
        rest = tail;
    }
    ram.device_wrote(ranges);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(address: u64, length: u32) -> DmaRange {
        DmaRange { address, length }
    }

    #[test]
    fn fronts_are_taken_at_any_byte() {
        let all = vec![range(0, 4), range(100, 0), range(200, 8)];
        for length in 0..=12 {
            let mut rest = all.clone();
            let front = take_front(&mut rest, length).unwrap();
            assert_eq!((total(&front), total(&rest)), (length, 12 - length));
        }
        let mut rest = all.clone();
        assert_eq!(take_front(&mut rest, 13), None);
        assert_eq!(rest, all);
        assert_eq!(take_front(&mut rest, 6).unwrap(), [range(0, 4), range(100, 0), range(200, 2)]);
        assert_eq!(rest, [range(202, 6)]);
    }

    #[test]
    fn the_last_byte_may_be_anywhere() {
        let mut ranges = vec![range(10, 2), range(20, 1), range(30, 0)];
        let taken: Vec<_> = std::iter::from_fn(|| take_last_byte(&mut ranges)).collect();
        assert_eq!(taken, [range(20, 1), range(11, 1), range(10, 1)]);
    }
}
