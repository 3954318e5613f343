//! What a compiler expects of a C library, for programs that have none.

#![expect(unsafe_code, reason = "functions by which the compiler copies and clears memory")]

use core::arch::asm;

/// The C library's function of that name.
#[unsafe(no_mangle)]
extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the compiler passes two areas of that length that do not overlap.
    unsafe {
        asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

/// The C library's function of that name.
#[unsafe(no_mangle)]
extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= length {
        return memcpy(to, from, length);
    }
    // SAFETY: the compiler passes two areas of that length; going down, each byte is read before it
    // is overwritten.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") length => _,
             inout("rdi") to.wrapping_add(length).wrapping_sub(1) => _,
             inout("rsi") from.wrapping_add(length).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// The C library's function of that name.
#[unsafe(no_mangle)]
extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    // SAFETY: the compiler passes an area of that length.
    unsafe {
        asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _, in("al") byte as u8,
             options(nostack, preserves_flags));
    }
    to
}

/// The C library's function of that name.
#[unsafe(no_mangle)]
extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    for index in 0..length {
        // SAFETY: the compiler passes two areas of that length. Volatile, lest the compiler makes
        // this loop a call of this function.
        let (x, y) = unsafe { (a.add(index).read_volatile(), b.add(index).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// The C library's function of that name.
#[unsafe(no_mangle)]
extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    memcmp(a, b, length)
}

/// The C library's function of that name.
#[unsafe(no_mangle)]
extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the compiler passes a text that ends with a NUL.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// Named by the tables of the core library, which was built to unwind; programs of guests do not.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
