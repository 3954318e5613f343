//! Single words of guest RAM, for those who keep tables in it that the guest or another thread uses
//! at the same time.

use crate::GuestRam;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

macro_rules! words {
    ($($name:ident: $cell:ty, $value:ty, $what:literal;)*) => {
        impl GuestRam {
            $(
                #[doc = concat!("The aligned ", $what, " at guest-physical address `gpa`; `None` where there is no RAM or \
                    it is not aligned.")]
                #[inline]
                pub fn $name(&self, gpa: u64) -> Option<&$cell> {
                    if !gpa.is_multiple_of(size_of::<$value>() as u64) {
                        return None;
                    }
                    let (page, _) = self.host_page(gpa)?;
                    let at = page + (gpa & 0xfff) as usize;
                    #[expect(unsafe_code, reason = "guest RAM is shared with the guest")]
                    // SAFETY: `at` is aligned and lies in a page of guest RAM, which is mapped readable and
                    // writable as long as `self` lives; everyone accesses it atomically or by raw copies.
                    Some(unsafe { <$cell>::from_ptr(at as *mut $value) })
                }
            )*
        }
    };
}

words! {
    byte: AtomicU8, u8, "byte";
    word32: AtomicU32, u32, "32-bit word";
    word: AtomicU64, u64, "64-bit word";
}

/// 64-bit words in a page.
pub const PAGE_WORDS: usize = 512;

impl GuestRam {
    /// The words of the page at guest-physical address `gpa`; `None` where there is no RAM or no page begins.
    #[inline]
    pub fn page_words(&self, gpa: u64) -> Option<&[AtomicU64; PAGE_WORDS]> {
        if !gpa.is_multiple_of(0x1000) {
            return None;
        }
        let (page, _) = self.host_page(gpa)?;
        #[expect(unsafe_code, reason = "guest RAM is shared with the guest")]
        // SAFETY: `page` is a page of guest RAM, aligned and mapped readable and writable as long as `self`
        // lives; everyone accesses it atomically or by raw copies.
        Some(unsafe { &*(page as *const [AtomicU64; PAGE_WORDS]) })
    }

    /// Reads the 64-bit word at `gpa`; zero where there is none.
    #[inline]
    pub fn load_word(&self, gpa: u64) -> u64 {
        self.word(gpa).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Writes the 64-bit word at `gpa`; nothing where there is none.
    #[inline]
    pub fn store_word(&self, gpa: u64, value: u64) {
        if let Some(word) = self.word(gpa) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_where_ram_is() {
        let ram = GuestRam::new(1 << 20).unwrap();
        ram.store_word(0x1008, 0x0102_0304_0506_0708);
        assert_eq!(ram.load_word(0x1008), 0x0102_0304_0506_0708);
        assert_eq!(ram.byte(0x100f).unwrap().load(Ordering::Relaxed), 1);
        assert_eq!(ram.word32(0x1008).unwrap().load(Ordering::Relaxed), 0x0506_0708);
        assert_eq!(
            ram.page_words(0x1000).unwrap()[1].load(Ordering::Relaxed),
            0x0102_0304_0506_0708
        );
        assert!(ram.page_words(0x1008).is_none() && ram.page_words(1 << 20).is_none());
        assert!(ram.word(0x1001).is_none());
        assert!(ram.word(1 << 20).is_none());
        ram.store_word(u64::MAX - 7, 1);
        assert_eq!(ram.load_word(u64::MAX - 7), 0);
    }
}
