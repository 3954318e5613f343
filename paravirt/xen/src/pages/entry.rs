//! Entries of page tables: what a guest may put into them, and what Xen makes of it.

use ambos_x86::paging::{
    ACCESSED, ADDRESS_MASK, DIRTY, GLOBAL, NO_EXECUTE, PAGE_SIZE, PCD, PRESENT, PWT, USER, WRITE,
};
use ambos_xen_abi::mmu::GUEST_KERNEL;

/// Bits that no entry of a guest may have: cache attributes (there is nothing to cache otherwise), large
/// pages. In entries of level 1 the large-page bit is the attribute table's.
const FORBIDDEN: u64 = PWT | PCD | PAGE_SIZE;
/// Bits whose change needs no look at the frame behind.
const HARMLESS: u64 = NO_EXECUTE | GLOBAL | DIRTY | ACCESSED | USER | 0x0e00 | 0x7ff << 52;

/// Whether the entry maps or links something.
pub(crate) fn is_present(entry: u64) -> bool {
    entry & PRESENT != 0
}

/// Whether the entry allows writing.
pub(crate) fn is_writable(entry: u64) -> bool {
    entry & WRITE != 0
}

/// The frame an entry names.
pub(crate) fn frame(entry: u64) -> u64 {
    (entry & ADDRESS_MASK) >> 12
}

/// Whether the guest may set such an entry in a table of `level`.
pub(crate) fn is_allowed(entry: u64, level: u8) -> bool {
    let forbidden = if level == 1 { FORBIDDEN } else { FORBIDDEN | GLOBAL };
    entry & forbidden == 0
}

/// The entry as it is written: the guest's kernel runs at the user's privilege level, so all its
/// pages must be accessible from there; a mark tells them from those of user mode.
pub(crate) fn adjusted(entry: u64, level: u8) -> u64 {
    if !is_present(entry) {
        return entry;
    }
    if level > 1 {
        return entry | USER;
    }
    let kernel = entry & USER == 0 || entry & GUEST_KERNEL != 0;
    entry | USER | if kernel { GUEST_KERNEL } else { GLOBAL }
}

/// Whether `new` differs from `old` so little that it names the same frame with the same right to write.
pub(crate) fn is_similar(old: u64, new: u64) -> bool {
    is_present(old) && (old ^ new) & !HARMLESS == 0
}

/// Whether a translation cached from `old` could be wrong under `new`.
pub(crate) fn is_restriction(old: u64, new: u64) -> bool {
    let lost = old & !new & (PRESENT | WRITE | USER | ACCESSED | DIRTY);
    let forbidden = new & !old & NO_EXECUTE;
    is_present(old) && (lost | forbidden | (old ^ new) & ADDRESS_MASK) != 0
}

/// Whether `new` differs from `old` in nothing that a cached translation could have but the right to write.
pub(crate) fn only_forbids_writing(old: u64, new: u64) -> bool {
    is_writable(old) && !is_writable(new) && !is_restriction(old, new | WRITE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_pages_are_marked_and_stay_so() {
        let kernel = adjusted(0x5000 | PRESENT | WRITE, 1);
        assert_eq!(kernel & (USER | GUEST_KERNEL | GLOBAL), USER | GUEST_KERNEL);
        assert_eq!(adjusted(kernel, 1), kernel);
        let user = adjusted(0x5000 | PRESENT | USER, 1);
        assert_eq!(user & (USER | GUEST_KERNEL | GLOBAL), USER | GLOBAL);
        assert_eq!(adjusted(0x5000 | PRESENT, 3), 0x5000 | PRESENT | USER);
        assert_eq!(adjusted(0x5002, 1), 0x5002);
    }

    #[test]
    fn restrictions_are_told_from_extensions() {
        let old = 0x5000 | PRESENT | ACCESSED;
        assert!(!is_restriction(old, old | WRITE | DIRTY));
        assert!(!is_restriction(0, old));
        for new in [0, old | NO_EXECUTE, 0x6000 | PRESENT | ACCESSED, old & !ACCESSED] {
            assert!(is_restriction(old, new), "{new:#x}");
        }
        assert!(is_similar(old, old | NO_EXECUTE));
        assert!(only_forbids_writing(old | WRITE, old));
        assert!(!only_forbids_writing(old, old));
        assert!(!only_forbids_writing(old | WRITE, old | NO_EXECUTE));
        assert!(!only_forbids_writing(old | WRITE, 0));
        assert!(!is_similar(old, old | WRITE));
        assert!(!is_similar(0, 0));
    }

    #[test]
    fn cache_attributes_and_large_pages_are_refused() {
        for bit in [PWT, PCD, PAGE_SIZE] {
            assert!(!is_allowed(PRESENT | bit, 1));
            assert!(!is_allowed(PRESENT | bit, 3));
        }
        assert!(is_allowed(PRESENT | GLOBAL, 1));
        assert!(!is_allowed(PRESENT | GLOBAL, 2));
    }
}
