//! How the host's allocator keeps large tables.

/// Bytes from which on an allocation is a mapping of its own.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 << 10;

/// Has each large allocation of the process be a mapping of its own: it grows where the host has room, without a
/// copy, takes memory only where it was written to, and gives all of it back when it is freed.
///
/// The GNU C library begins so, but puts ever larger ones among the small ones once it has seen some freed. Tables
/// that grow by doubling then leave holes behind them that nothing else fills: of a monitor's memory, half. Other
/// libraries are left as they are.
pub fn keep_large_apart() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator allows these to be set at any time; what is allocated stays as it is.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn large_allocations_are_mappings_of_their_own() {
        keep_large_apart();
        // What would have the allocator think that this size is usual.
        drop(vec![1_u8; 4 * LARGE as usize]);
        let large = vec![1_u8; 2 * LARGE as usize];
        // Such a mapping begins with the two words that the allocator keeps of it.
        assert_eq!(large.as_ptr() as usize % 4096, 16);
    }
}
