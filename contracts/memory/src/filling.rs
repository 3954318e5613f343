//! Putting much into RAM before a guest runs.
//!
//! What is written through the mapping costs a fault of the host for each page, which zeroes the page first. Much goes into large
//! pages. Where there are none it is written through the file, which costs two thirds of that. Zeroes cost nothing if their storage is
//! given back.

use crate::{DmaRange, GuestRam};
use std::os::unix::fs::FileExt;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// Bytes from which on it pays to go through the file.
const LARGE: usize = 1 << 16;
const PAGE: u64 = 4096;

impl GuestRam {
    /// Writes `bytes` from guest-physical address `address` on.
    ///
    /// # Errors
    ///
    /// [`GuestMemoryError`] if there is no RAM for some of them; others may have been written.
    pub fn fill(&self, address: u64, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let large = self.with_large_pages(address, bytes.len() as u64);
        let (before, rest) = bytes.split_at((large.start - address) as usize);
        let (within, behind) = rest.split_at((large.end - large.start) as usize);
        self.fill_small_pages(address, before)?;
        self.memory().write_slice(within, GuestAddress(large.start))?;
        self.fill_small_pages(large.end, behind)
    }

    fn fill_small_pages(&self, address: u64, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let small = bytes.len() < LARGE;
        if !small && self.fill_through_file(address, bytes) {
            return Ok(());
        }
        self.memory().write_slice(bytes, GuestAddress(address))
    }

    /// Whether all of it could be written through the file.
    fn fill_through_file(&self, address: u64, bytes: &[u8]) -> bool {
        let offset = self.file_range(address, bytes.len() as u64);
        let written =
            self.file().zip(offset).is_some_and(|(file, at)| file.write_all_at(bytes, at).is_ok());
        if written {
            self.map_in(address, bytes.len());
        }
        written
    }

    /// Has the host map some consecutive bytes of RAM that are in the file: together that costs little.
    fn map_in(&self, address: u64, length: usize) {
        let Some((page, _)) = self.host_page(address) else { return };
        let length = length + (address & (PAGE - 1)) as usize;
        #[expect(unsafe_code, reason = "advice on memory has no safe wrapper")]
        // SAFETY: the pages lie in the mapping of one region, which exists as long as `self` does; their contents stay.
        unsafe {
            libc::madvise(page as *mut libc::c_void, length, libc::MADV_POPULATE_READ);
        }
    }

    /// Where in the file some consecutive bytes of RAM begin.
    fn file_range(&self, address: u64, length: u64) -> Option<u64> {
        self.regions().iter().find_map(|region| {
            let within = address.checked_sub(region.start)?;
            let end = within.checked_add(length)?;
            (end <= region.size).then_some(((region.first_page as u64) << 12) + within)
        })
    }

    /// Makes `length` bytes from guest-physical address `address` on zero.
    ///
    /// # Errors
    ///
    /// [`GuestMemoryError`] if there is no RAM for some of them; others may have been written.
    pub fn fill_zero(&self, address: u64, length: u64) -> Result<(), GuestMemoryError> {
        const ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];
        let end = address.saturating_add(length);
        let mut at = address;
        while at < end {
            let whole = (end & !(PAGE - 1)).saturating_sub(at);
            if at.is_multiple_of(PAGE) && whole > 0 && self.returns(at, whole) {
                at += whole;
                continue;
            }
            let part = (PAGE - at % PAGE).min(end - at);
            self.memory().write_slice(&ZEROES[..part as usize], GuestAddress(at))?;
            at += part;
        }
        Ok(())
    }

    /// Gives whole pages back to the host; whether they are zero by that.
    fn returns(&self, address: u64, length: u64) -> bool {
        let returned = self.file_range(address, length).is_some_and(|at| self.punch(at, length));
        if returned {
            for part in (0..length).step_by(1 << 30) {
                let length = (length - part).min(1 << 30) as u32;
                self.device_wrote(&[DmaRange { address: address + part, length }]);
            }
        }
        returned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PCI_HOLE_END, PCI_HOLE_START};

    #[test]
    fn what_is_filled_in_is_there() {
        let ram = GuestRam::new(PCI_HOLE_START + 0x20_0000).unwrap();
        let bytes: Vec<u8> = (0..LARGE + 77).map(|at| (at * 7) as u8).collect();
        let read = |address, length| {
            let mut found = vec![0; length];
            ram.memory().read_slice(&mut found, GuestAddress(address)).unwrap();
            found
        };
        for address in [0x1003, 0x40_0000, PCI_HOLE_START - bytes.len() as u64, PCI_HOLE_END + 5] {
            for length in [0, 1, 5000, bytes.len()] {
                ram.fill(address, &bytes[..length]).unwrap();
                assert_eq!(read(address, length), &bytes[..length], "{address:x} {length}");
            }
        }
        for outside in [PCI_HOLE_START - 9, PCI_HOLE_END + 0x20_0000 - 9, u64::MAX - 9] {
            assert!(ram.fill(outside, &bytes).is_err());
            assert!(ram.fill(outside, &bytes[..100]).is_err());
        }
    }

    #[test]
    fn zeroes_replace_what_was_there_and_no_more() {
        let ram = GuestRam::new(1 << 20).unwrap();
        for (address, length) in [
            (0x1000, 0x3000),
            (0x1234, 0x5678),
            (0x1fff, 2),
            (0x2000, 1),
            (0x2001, 0xfff),
            (0xf_f000, 0x1000),
            (5, 0),
        ] {
            ram.fill(0, &vec![5; 1 << 20]).unwrap();
            ram.fill_zero(address, length).unwrap();
            let mut found = vec![0; 1 << 20];
            ram.memory().read_slice(&mut found, GuestAddress(0)).unwrap();
            let zeroes = address as usize..(address + length) as usize;
            let wrong = (0..1 << 20).find(|at| (found[*at] == 0) != zeroes.contains(at));
            assert_eq!(wrong, None, "{address:x} {length:x}");
        }
        assert!(ram.fill_zero(0xf_f000, 0x1001).is_err());
        assert!(ram.fill_zero(u64::MAX - 5, 100).is_err());
    }
}
