//! A map of translated code for `perf`.
//!
//! Linux's `perf` names code that belongs to no file by `/tmp/perf-PID.map`: a line for each function with its
//! address, its length and its name, the numbers in hexadecimal.

use std::fs::File;
use std::io::Write;

/// The map of this process.
#[derive(Debug)]
pub(crate) struct PerfMap(File);

impl PerfMap {
    /// Opens the map; the translators of one process share it.
    pub(crate) fn open() -> std::io::Result<Self> {
        let path = format!("/tmp/perf-{}.map", std::process::id());
        File::options().create(true).append(true).open(path).map(Self)
    }

    /// Adds the block of the guest code at `guest`. A map that cannot be written stays incomplete.
    pub(crate) fn add(&mut self, start: u64, length: usize, guest: u64) {
        // One write, so that lines of different vCPUs do not mix.
        let _ = self.0.write_all(line(start, length, guest).as_bytes());
    }
}

fn line(start: u64, length: usize, guest: u64) -> String {
    format!("{start:x} {length:x} guest_{guest:x}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_perf_reads_them() {
        assert_eq!(line(0x7f00_1000, 300, 0xffff_8000), "7f001000 12c guest_ffff8000\n");
    }
}
