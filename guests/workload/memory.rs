//! What works the memory management: loads that miss, page faults, page tables that change.

use crate::bench::{Bench, Failure, refused};
use crate::sys;

const PAGE: usize = 4096;
const READ_WRITE: usize = 3;
const READ_ONLY: usize = 1;
const PRIVATE_ANONYMOUS: usize = 0x22;
const DONT_NEED: usize = 4;

/// A private mapping of zeroes.
pub(crate) fn map(bytes: usize) -> Result<usize, Failure> {
    let arguments = [0, bytes, READ_WRITE, PRIVATE_ANONYMOUS, usize::MAX, 0];
    sys::call(sys::MMAP, arguments).map_err(refused("mmap"))
}

/// Follows a chain of pointers through 8 MiB in an order that no cache and no prefetcher likes. One
/// operation is one load.
pub(crate) fn chase(bench: &mut Bench) -> Result<(), Failure> {
    const LINE: usize = 64;
    const LINES: usize = (8 << 20) / LINE;
    let base = map(LINES * LINE)?;
    // A full-period congruential sequence visits each line once (Hull and Dobell).
    let next = |line: usize| (line.wrapping_mul(0x0001_9665 - 4) + 0x3c6e_f35f) % LINES;
    for line in 0..LINES {
        sys::store(base + line * LINE, base + next(line) * LINE);
    }
    let mut at = base;
    bench.measure(|| {
        for _ in 0..4096 {
            at = sys::load(at);
        }
        Ok(4096)
    })
}

/// First touches of fresh memory. One operation is a page that faults in.
pub(crate) fn page_fault(bench: &mut Bench) -> Result<(), Failure> {
    const PAGES: usize = 64;
    bench.measure(|| {
        let base = map(PAGES * PAGE)?;
        for page in 0..PAGES {
            sys::store(base + page * PAGE, page);
        }
        sys::call3(sys::MUNMAP, base, PAGES * PAGE, 0).map_err(refused("munmap"))?;
        Ok(PAGES as u64)
    })
}

/// Page-table churn: pages are made read-only and writable again, written, thrown away and written
/// again. One operation is one page taken through all of it.
pub(crate) fn page_table(bench: &mut Bench) -> Result<(), Failure> {
    const PAGES: usize = 32;
    let base = map(PAGES * PAGE)?;
    let touch = |value: usize| {
        for page in 0..PAGES {
            sys::store(base + page * PAGE, value);
        }
    };
    touch(1);
    bench.measure(|| {
        for protection in [READ_ONLY, READ_WRITE] {
            sys::call3(sys::MPROTECT, base, PAGES * PAGE, protection).map_err(refused("mprotect"))?;
        }
        touch(2);
        sys::call3(sys::MADVISE, base, PAGES * PAGE, DONT_NEED).map_err(refused("madvise"))?;
        touch(3);
        Ok(PAGES as u64)
    })
}
