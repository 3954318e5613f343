//! Loads, stores, atomics and string instructions on raw host addresses.
//!
//! Guest memory is shared with other vCPUs and devices, and guests access it at any alignment. Each
//! function is one host instruction, so it is as atomic as the guest's own instruction and the
//! compiler can neither split nor repeat it; copies of few bytes, and [`copy_words_from`], are one for each word.

use crate::alu::{ARITHMETIC, Word};
use std::arch::asm;

/// Widths that can be loaded and stored by one instruction.
pub trait Cell: Word {
    /// Loads from `address`.
    ///
    /// # Safety
    ///
    /// `Self::SIZE` bytes at `address` must be mapped readable.
    unsafe fn load(address: usize) -> Self;

    /// Stores to `address`.
    ///
    /// # Safety
    ///
    /// `Self::SIZE` bytes at `address` must be mapped writable and not be borrowed by Rust code.
    unsafe fn store(address: usize, value: Self);

    /// LOCK CMPXCHG: stores `new` if the cell holds `expected`; returns what it held.
    ///
    /// # Safety
    ///
    /// As [`Cell::store`].
    unsafe fn compare_exchange(address: usize, expected: Self, new: Self) -> Self;

    /// XCHG: stores `new` and returns what the cell held.
    ///
    /// # Safety
    ///
    /// As [`Cell::store`].
    unsafe fn exchange(address: usize, new: Self) -> Self;
}

macro_rules! cell {
    ($type:ty, $class:ident, $size:literal, $ptr:literal, $acc:tt) => {
        impl Cell for $type {
            #[inline(always)]
            unsafe fn load(address: usize) -> Self {
                let value: $type;
                // SAFETY: the caller vouches for the address.
                unsafe {
                    asm!(
                        concat!("mov {value", $size, "}, ", $ptr, " ptr [{address}]"),
                        value = out($class) value, address = in(reg) address,
                        options(nostack, preserves_flags, readonly),
                    );
                }
                value
            }

            #[inline(always)]
            unsafe fn store(address: usize, value: Self) {
                // SAFETY: the caller vouches for the address.
                unsafe {
                    asm!(
                        concat!("mov ", $ptr, " ptr [{address}], {value", $size, "}"),
                        value = in($class) value, address = in(reg) address,
                        options(nostack, preserves_flags),
                    );
                }
            }

            #[inline]
            unsafe fn compare_exchange(address: usize, expected: Self, new: Self) -> Self {
                let held: $type;
                // SAFETY: the caller vouches for the address.
                unsafe {
                    asm!(
                        concat!("lock cmpxchg ", $ptr, " ptr [{address}], {new", $size, "}"),
                        new = in($class) new, address = in(reg) address,
                        inout($acc) expected => held,
                        options(nostack),
                    );
                }
                held
            }

            #[inline]
            unsafe fn exchange(address: usize, new: Self) -> Self {
                let mut value = new;
                // SAFETY: the caller vouches for the address.
                unsafe {
                    asm!(
                        concat!("xchg ", $ptr, " ptr [{address}], {value", $size, "}"),
                        value = inout($class) value, address = in(reg) address,
                        options(nostack, preserves_flags),
                    );
                }
                value
            }
        }
    };
}

cell!(u8, reg_byte, "", "byte", "al");
cell!(u16, reg, ":x", "word", "ax");
cell!(u32, reg, ":e", "dword", "eax");
cell!(u64, reg, ":r", "qword", "rax");

/// LOCK CMPXCHG16B on `address`: stores `new` if the cell holds `expected`; returns what it held.
/// Values are (low, high).
///
/// # Safety
///
/// 16 bytes at `address`, a multiple of 16, must be mapped writable and not be borrowed.
pub unsafe fn compare_exchange_16(
    address: usize,
    expected: (u64, u64),
    new: (u64, u64),
) -> (u64, u64) {
    let (low, high);
    // SAFETY: the caller vouches for the address. RBX is saved because asm! cannot name it.
    unsafe {
        asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b xmmword ptr [rdi]",
            "mov rbx, rsi",
            inout("rsi") new.0 => _, in("rdi") address,
            inout("rax") expected.0 => low, inout("rdx") expected.1 => high, in("rcx") new.1,
            options(nostack),
        );
    }
    (low, high)
}

/// Up to so many bytes are copied word by word: a string instruction takes some 20 ns to begin.
const SHORT: usize = 128;

/// Copies `data.len()` bytes from `address`.
///
/// # Safety
///
/// The bytes must be mapped readable.
pub unsafe fn copy_from(address: usize, data: &mut [u8]) {
    if data.len() > SHORT {
        // SAFETY: the caller vouches for the source; the destination is an exclusive borrow and thus
        // does not overlap memory that the guest can write.
        return unsafe { string_copy(address, data.as_mut_ptr() as usize, data.len(), 1, false) };
    }
    let mut at = address;
    let mut words = data.chunks_exact_mut(size_of::<u64>());
    for word in &mut words {
        // SAFETY: the caller vouches for the source.
        word.copy_from_slice(&unsafe { u64::load(at) }.to_le_bytes());
        at += word.len();
    }
    for byte in words.into_remainder() {
        // SAFETY: the caller vouches for the source.
        *byte = unsafe { u8::load(at) };
        at += 1;
    }
}

/// Copies `data.len()` bytes from `address`, of each aligned word of 8 bytes all that is wanted by one load. So
/// processors fetch code: who changes it by such words while it runs has either the old or the new one run, where a
/// string instruction can see half of each.
///
/// # Safety
///
/// The aligned words that have some of the bytes must be mapped readable.
pub unsafe fn copy_words_from(address: usize, data: &mut [u8]) {
    const WORD: usize = size_of::<u64>();
    // SAFETY: the caller vouches for the words.
    let word = |at: usize| unsafe { u64::load(at) }.to_le_bytes();
    let before = address % WORD;
    let (head, rest) = data.split_at_mut(data.len().min((WORD - before) % WORD));
    if !head.is_empty() {
        head.copy_from_slice(&word(address - before)[before..before + head.len()]);
    }
    let mut at = address + head.len();
    let mut words = rest.chunks_exact_mut(WORD);
    for place in &mut words {
        place.copy_from_slice(&word(at));
        at += WORD;
    }
    let tail = words.into_remainder();
    if !tail.is_empty() {
        tail.copy_from_slice(&word(at)[..tail.len()]);
    }
}

/// Copies `data` to `address`.
///
/// # Safety
///
/// The bytes must be mapped writable and not be borrowed by Rust code.
pub unsafe fn copy_to(address: usize, data: &[u8]) {
    if data.len() > SHORT {
        // SAFETY: the caller vouches for the destination.
        return unsafe { string_copy(data.as_ptr() as usize, address, data.len(), 1, false) };
    }
    let mut at = address;
    let (words, bytes) = data.as_chunks();
    for &word in words {
        // SAFETY: the caller vouches for the destination.
        unsafe { u64::store(at, u64::from_le_bytes(word)) };
        at += word.len();
    }
    for &byte in bytes {
        // SAFETY: the caller vouches for the destination.
        unsafe { u8::store(at, byte) };
        at += 1;
    }
}

/// REP MOVS of `count` elements of `size` (1, 2, 4, 8) bytes; with `backward`, the direction flag
/// is set and the addresses are those of the first element moved.
///
/// # Safety
///
/// The elements must be mapped, the destination writable and not borrowed by Rust code.
pub unsafe fn string_copy(from: usize, to: usize, count: usize, size: usize, backward: bool) {
    macro_rules! run {
        ($insn:literal) => {
            // SAFETY: the caller vouches for both ranges; the direction flag is cleared again.
            unsafe {
                asm!(
                    "test {backward}, {backward}", "jz 2f", "std", "2:",
                    concat!("rep ", $insn), "cld",
                    backward = in(reg_byte) backward as u8,
                    inout("rcx") count => _, inout("rsi") from => _, inout("rdi") to => _,
                    options(nostack),
                );
            }
        };
    }
    match size {
        1 => run!("movsb"),
        2 => run!("movsw"),
        4 => run!("movsd"),
        _ => run!("movsq"),
    }
}

/// REP STOS of `count` elements of `size` bytes; see [`string_copy`].
///
/// # Safety
///
/// The elements must be mapped writable and not be borrowed by Rust code.
pub unsafe fn string_fill(to: usize, value: u64, count: usize, size: usize, backward: bool) {
    macro_rules! run {
        ($insn:literal) => {
            // SAFETY: the caller vouches for the range; the direction flag is cleared again.
            unsafe {
                asm!(
                    "test {backward}, {backward}", "jz 2f", "std", "2:",
                    concat!("rep ", $insn), "cld",
                    backward = in(reg_byte) backward as u8,
                    inout("rcx") count => _, inout("rdi") to => _, in("rax") value,
                    options(nostack),
                );
            }
        };
    }
    match size {
        1 => run!("stosb"),
        2 => run!("stosw"),
        4 => run!("stosd"),
        _ => run!("stosq"),
    }
}

/// REPE/REPNE CMPS: compares up to `count` (not zero) elements and returns how many were left when
/// it ended and the flags of the last comparison (`[left]` minus `[right]`).
///
/// # Safety
///
/// The elements must be mapped readable.
pub unsafe fn string_compare(
    left: usize,
    right: usize,
    count: usize,
    size: usize,
    backward: bool,
    while_equal: bool,
) -> (usize, u64) {
    let mut rest = count;
    let flags: u64;
    macro_rules! run {
        ($insn:literal) => {
            // SAFETY: the caller vouches for both ranges; the direction flag is cleared again.
            unsafe {
                asm!(
                    "cld",
                    "test {backward}, {backward}", "jz 2f", "std", "2:",
                    "test {equal}, {equal}", "jz 3f",
                    concat!("repe ", $insn), "jmp 4f", "3:", concat!("repne ", $insn), "4:",
                    "cld", "pushfq", "pop {flags}",
                    backward = in(reg_byte) backward as u8, equal = in(reg_byte) while_equal as u8,
                    flags = out(reg) flags,
                    inout("rcx") rest, inout("rsi") left => _, inout("rdi") right => _,
                );
            }
        };
    }
    match size {
        1 => run!("cmpsb"),
        2 => run!("cmpsw"),
        4 => run!("cmpsd"),
        _ => run!("cmpsq"),
    }
    (rest, flags & ARITHMETIC)
}

/// REPE/REPNE SCAS: compares `value` with up to `count` (not zero) elements; see
/// [`string_compare`].
///
/// # Safety
///
/// The elements must be mapped readable.
pub unsafe fn string_scan(
    at: usize,
    value: u64,
    count: usize,
    size: usize,
    backward: bool,
    while_equal: bool,
) -> (usize, u64) {
    let mut rest = count;
    let flags: u64;
    macro_rules! run {
        ($insn:literal) => {
            // SAFETY: the caller vouches for the range; the direction flag is cleared again.
            unsafe {
                asm!(
                    "cld",
                    "test {backward}, {backward}", "jz 2f", "std", "2:",
                    "test {equal}, {equal}", "jz 3f",
                    concat!("repe ", $insn), "jmp 4f", "3:", concat!("repne ", $insn), "4:",
                    "cld", "pushfq", "pop {flags}",
                    backward = in(reg_byte) backward as u8, equal = in(reg_byte) while_equal as u8,
                    flags = out(reg) flags,
                    inout("rcx") rest, inout("rdi") at => _, in("rax") value,
                );
            }
        };
    }
    match size {
        1 => run!("scasb"),
        2 => run!("scasw"),
        4 => run!("scasd"),
        _ => run!("scasq"),
    }
    (rest, flags & ARITHMETIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_copied_from_any_place() {
        let words: Vec<u64> = (0..8).map(|word| word * 0x0123_4567_89ab_cdef).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for start in 0..bytes.len() {
            for end in start..=bytes.len() {
                let mut copy = vec![0; end - start];
                // SAFETY: the bytes lie in `words`.
                unsafe { copy_words_from(words.as_ptr() as usize + start, &mut copy) };
                assert_eq!(copy, bytes[start..end]);
            }
        }
    }

    #[test]
    fn as_many_bytes_are_copied_as_there_are() {
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        for length in (0..=SHORT + 9).step_by(3) {
            let (mut copy, mut back) = (vec![0; length], [0; 256]);
            // SAFETY: the bytes lie in `bytes` and in `back`.
            unsafe {
                copy_from(bytes.as_ptr() as usize + 5, &mut copy);
                copy_to(back.as_mut_ptr() as usize + 3, &copy);
            }
            assert_eq!(copy, bytes[5..5 + length]);
            assert_eq!(back[3..3 + length], copy);
            assert!(back[..3].iter().chain(&back[3 + length..]).all(|&byte| byte == 0));
        }
    }

    #[test]
    fn words_that_change_are_copied_whole() {
        use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
        let words: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut value = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    for word in &words {
                        value = (value + 1) & 0xff;
                        word.store(value * 0x0101_0101_0101_0101, Ordering::Relaxed);
                    }
                }
            });
            let mut copy = vec![0; 8 * words.len() - 8];
            let torn = (0..2000).any(|_| {
                // SAFETY: the bytes lie in `words`.
                unsafe { copy_words_from(words.as_ptr() as usize + 8, &mut copy) };
                copy.chunks_exact(8).any(|word| word.iter().any(|&byte| byte != word[0]))
            });
            done.store(true, Ordering::Relaxed);
            assert!(!torn);
        });
    }

    #[test]
    fn overlapping_copies_propagate_like_the_instruction() {
        let mut bytes = *b"ab------";
        let at = bytes.as_mut_ptr() as usize;
        // SAFETY: both ranges lie within `bytes`.
        unsafe { string_copy(at, at + 2, 6, 1, false) };
        assert_eq!(&bytes, b"abababab");
    }

    #[test]
    fn scans_stop_at_the_match() {
        let text = *b"hello";
        // SAFETY: the range is `text`.
        let (rest, flags) =
            unsafe { string_scan(text.as_ptr() as usize, u64::from(b'l'), 5, 1, false, false) };
        assert_eq!(rest, 2);
        assert_ne!(flags & 1 << 6, 0);
    }

    #[test]
    fn compare_exchange_reports_what_was_there() {
        let mut cell = 5u32;
        let at = &raw mut cell as usize;
        // SAFETY: `cell` is a live local.
        unsafe {
            assert_eq!(u32::compare_exchange(at, 4, 9), 5);
            assert_eq!(u32::compare_exchange(at, 5, 9), 5);
            assert_eq!(u32::load(at), 9);
        }
    }
}
