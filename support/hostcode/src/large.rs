//! Large pages of the host for memory that is filled at once.
//!
//! A large page costs less time than its small ones where the host has memory at hand. A host that is itself a guest may give back
//! what it has no use for, and waits for its own host then: of small pages it has some left, of large ones each takes three
//! times as long as small ones. So the first ones are timed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;
/// What its small pages take, of a thread's time; it takes a tenth of that.
const SMALL_ONES: Duration = Duration::from_millis(1);
/// So many that took longer are enough of them.
const ENOUGH: u32 = 2;
/// How many did.
static DEAR: AtomicU32 = AtomicU32::new(0);

/// Whether the host has large pages at hand, as far as that is known.
fn are_cheap() -> bool {
    DEAR.load(Ordering::Relaxed) < ENOUGH
}

/// The time that the calling thread has run.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock is each thread's own, and the result goes to a local variable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Gives advice on a large page that has the host make it; whether it did.
///
/// # Safety
///
/// The large page at `address` lies in a mapping of the caller, and the advice changes nothing of what is there.
unsafe fn make(address: usize, advice: libc::c_int) -> bool {
    let start = thread_time();
    // SAFETY: the caller vouches for it.
    let refused = unsafe { libc::madvise(address as *mut libc::c_void, LARGE_PAGE, advice) };
    if thread_time().saturating_sub(start) > SMALL_ONES {
        DEAR.fetch_add(1, Ordering::Relaxed);
    }
    refused == 0
}

/// Has the host put a large page in the place of small ones, of which there must be some, if it has one at hand; whether it did.
///
/// # Safety
///
/// The large page at `address` lies in a mapping that exists meanwhile.
pub unsafe fn make_large(address: usize) -> bool {
    // SAFETY: the caller vouches for the mapping; what is there stays.
    are_cheap() && unsafe { make(address, libc::MADV_COLLAPSE) }
}

/// Backs `memory` by large pages as far as the host has them at hand: a fault costs it more time than to empty a page, and of large
/// pages there are few. For memory that is new and will all be used. Where the host will not, nothing happens.
pub fn prefer_large_pages<T>(memory: &mut [T]) {
    let size = size_of_val(memory);
    let start = memory.as_mut_ptr() as usize;
    let (first, end) = (start.next_multiple_of(LARGE_PAGE), (start + size) & !(LARGE_PAGE - 1));
    for large in (first..end).step_by(LARGE_PAGE) {
        if !are_cheap() {
            break;
        }
        // SAFETY: the large page lies in `memory`, which is borrowed for writing; the advice changes nothing of what is there.
        unsafe {
            libc::madvise(large as *mut libc::c_void, LARGE_PAGE, libc::MADV_HUGEPAGE);
            make(large, libc::MADV_POPULATE_WRITE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn memory_stays_as_it_is() {
        for size in [0, 1, PAGE, LARGE_PAGE, 3 * LARGE_PAGE + 5] {
            let mut bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            prefer_large_pages(&mut bytes);
            assert!(bytes.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8));
            prefer_large_pages(bytes.spare_capacity_mut());
        }
    }

    #[test]
    fn no_more_are_made_once_they_were_dear() {
        let mut bytes = vec![7_u8; 3 * LARGE_PAGE];
        let large = (bytes.as_mut_ptr() as usize).next_multiple_of(LARGE_PAGE);
        DEAR.fetch_add(ENOUGH, Ordering::Relaxed);
        // SAFETY: there are three times as many bytes.
        assert!(!unsafe { make_large(large) });
        prefer_large_pages(&mut bytes);
        DEAR.fetch_sub(ENOUGH, Ordering::Relaxed);
        assert!(bytes.iter().all(|&byte| byte == 7));
    }
}
