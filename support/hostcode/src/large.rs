//! Large pages of the host for memory that is filled at once.

const PAGE: usize = 4096;
/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;

/// Advises the host to back `memory` by large pages: a fault costs it more time than to empty a page, and of large pages there
/// are few. For memory that is new and will all be used. Where the host will not, nothing happens.
pub fn prefer_large_pages<T>(memory: &mut [T]) {
    let size = size_of_val(memory);
    let start = memory.as_mut_ptr() as usize;
    let (first, end) = (start.next_multiple_of(PAGE), (start + size) & !(PAGE - 1));
    if size < LARGE_PAGE || first >= end {
        return;
    }
    // SAFETY: the pages lie in `memory`, which is borrowed for writing; the advice changes nothing of what is there.
    unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_stays_as_it_is() {
        for size in [0, 1, PAGE, LARGE_PAGE, 3 * LARGE_PAGE + 5] {
            let mut bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            prefer_large_pages(&mut bytes);
            assert!(bytes.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8));
            prefer_large_pages(bytes.spare_capacity_mut());
        }
    }
}
