//! The kernel's calls and the program's entry.

#![expect(unsafe_code, reason = "system calls and the entry point")]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicUsize, Ordering};

/// An error number of the kernel, negative.
pub(crate) type Errno = i32;

pub(crate) const READ: usize = 0;
pub(crate) const WRITE: usize = 1;
pub(crate) const OPEN: usize = 2;
pub(crate) const CLOSE: usize = 3;
pub(crate) const LSEEK: usize = 8;
pub(crate) const MMAP: usize = 9;
pub(crate) const MPROTECT: usize = 10;
pub(crate) const MUNMAP: usize = 11;
pub(crate) const PREAD: usize = 17;
pub(crate) const PWRITE: usize = 18;
pub(crate) const PIPE: usize = 22;
pub(crate) const MADVISE: usize = 28;
pub(crate) const NANOSLEEP: usize = 35;
pub(crate) const SOCKET: usize = 41;
pub(crate) const CONNECT: usize = 42;
pub(crate) const ACCEPT: usize = 43;
pub(crate) const BIND: usize = 49;
pub(crate) const LISTEN: usize = 50;
pub(crate) const SETSOCKOPT: usize = 54;
pub(crate) const FORK: usize = 57;
pub(crate) const EXECVE: usize = 59;
pub(crate) const EXIT: usize = 60;
pub(crate) const WAIT4: usize = 61;
pub(crate) const FSYNC: usize = 74;
pub(crate) const GETPPID: usize = 110;
pub(crate) const SCHED_SETAFFINITY: usize = 203;
pub(crate) const CLOCK_GETTIME: usize = 228;
pub(crate) const EXIT_GROUP: usize = 231;

/// Makes a system call.
#[inline(always)]
pub(crate) fn call(number: usize, arguments: [usize; 6]) -> Result<usize, Errno> {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the kernel touches only memory that the arguments name; callers pass addresses of
    // live objects of sufficient size, and do not unmap what is in use.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    if (-4095..0).contains(&result) { Err(result as Errno) } else { Ok(result as usize) }
}

/// A system call with up to three arguments.
#[inline(always)]
pub(crate) fn call3(number: usize, a: usize, b: usize, c: usize) -> Result<usize, Errno> {
    call(number, [a, b, c, 0, 0, 0])
}

/// Ends the program.
pub(crate) fn exit(status: i32) -> ! {
    loop {
        let _ = call3(EXIT_GROUP, status as usize, 0, 0);
        let _ = call3(EXIT, status as usize, 0, 0);
    }
}

/// A whole number of the guest's clock `clock`, in nanoseconds.
#[inline(always)]
pub(crate) fn nanoseconds(clock: usize) -> u64 {
    let mut time = [0u64; 2];
    let _ = call3(CLOCK_GETTIME, clock, (&raw mut time) as usize, 0);
    time[0].wrapping_mul(1_000_000_000).wrapping_add(time[1])
}

/// Reads a word that was mapped.
#[inline(always)]
pub(crate) fn load(address: usize) -> usize {
    // SAFETY: the address lies in a mapping of the caller's and is aligned.
    unsafe { (address as *const usize).read_volatile() }
}

/// Reads a byte that was mapped.
#[inline(always)]
pub(crate) fn load_byte(address: usize) -> u8 {
    // SAFETY: the address lies in a mapping.
    unsafe { (address as *const u8).read_volatile() }
}

/// Writes a word that was mapped.
#[inline(always)]
pub(crate) fn store(address: usize, value: usize) {
    // SAFETY: the address lies in a mapping of the caller's and is aligned.
    unsafe { (address as *mut usize).write_volatile(value) }
}

/// Runs code that was written to memory.
pub(crate) fn run(address: usize) -> u32 {
    // SAFETY: the memory is executable and holds a function that returns a number and changes no other
    // register.
    unsafe { core::mem::transmute::<usize, extern "C" fn() -> u32>(address)() }
}

/// What the kernel's function at `address` for reading a clock says of the clock `clock`, in nanoseconds.
#[inline(always)]
pub(crate) fn nanoseconds_by(address: usize, clock: usize) -> u64 {
    let mut time = [0u64; 2];
    // SAFETY: the address is that of `clock_gettime` in the object that the kernel maps into each program.
    unsafe {
        let read: extern "C" fn(usize, *mut [u64; 2]) -> i32 = core::mem::transmute(address);
        read(clock, &raw mut time);
    }
    time[0].wrapping_mul(1_000_000_000).wrapping_add(time[1])
}

/// Where the object is that the kernel maps into each program; zero if it maps none.
static VDSO: AtomicUsize = AtomicUsize::new(0);

/// The address of the function `name` in the object that the kernel maps into each program.
pub(crate) fn kernel_function(name: &str) -> Option<usize> {
    match VDSO.load(Ordering::Relaxed) {
        0 => None,
        object => crate::vdso::function(object, name),
    }
}

/// Room for a path or an argument with the NUL that ends it.
pub(crate) struct CString {
    bytes: [u8; 256],
}

impl CString {
    pub(crate) fn new(text: &str) -> Self {
        let mut bytes = [0; 256];
        for (to, from) in bytes[..255].iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Self { bytes }
    }

    pub(crate) fn address(&self) -> usize {
        self.bytes.as_ptr() as usize
    }
}

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {enter}",
    "ud2",
    enter = sym enter,
);

/// Most arguments that the program looks at.
const ARGUMENTS: usize = 48;
/// The entry of the auxiliary vector that says where the object is (`AT_SYSINFO_EHDR`).
const VDSO_ENTRY: usize = 33;

/// What follows the entry: `stack` is the stack as the kernel left it.
extern "C" fn enter(stack: *const usize) -> ! {
    let mut arguments = [""; ARGUMENTS];
    // SAFETY: the kernel puts the number of arguments, then their addresses, onto the stack, then what is looked through
    // below (System V ABI, 3.4.1); each argument ends with a NUL and stays where it is.
    let count = unsafe {
        let count = (*stack).min(ARGUMENTS);
        for (index, slot) in arguments[..count].iter_mut().enumerate() {
            let start = *stack.add(1 + index) as *const u8;
            let mut length = 0;
            while *start.add(length) != 0 {
                length += 1;
            }
            *slot = core::str::from_utf8(core::slice::from_raw_parts(start, length)).unwrap_or("");
        }
        // Behind the arguments, and behind the environment, each ended by a zero, are pairs of words.
        let mut at = stack.add(1 + *stack + 1);
        while *at != 0 {
            at = at.add(1);
        }
        at = at.add(1);
        while *at != 0 && *at != VDSO_ENTRY {
            at = at.add(2);
        }
        VDSO.store(if *at == VDSO_ENTRY { *at.add(1) } else { 0 }, Ordering::Relaxed);
        count
    };
    exit(crate::main(&arguments[..count]))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}
