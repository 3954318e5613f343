//! Preparing a thread for generated code that owns the stack pointer.
//!
//! While such code runs, RSP holds whatever the guest put there. Signals must then be handled on an
//! alternate stack, and those that nothing here needs wait for another thread.

use std::cell::RefCell;
use std::ptr;

/// Bytes of the alternate stack; AVX-512 signal frames take some 3 KiB.
const STACK_SIZE: usize = 64 << 10;

struct AlternateStack(usize);

impl Drop for AlternateStack {
    fn drop(&mut self) {
        // SAFETY: the stack is switched off before its mapping, made by `prepare_thread`, goes.
        unsafe {
            let mut off: libc::stack_t = std::mem::zeroed();
            off.ss_flags = libc::SS_DISABLE;
            libc::sigaltstack(&raw const off, ptr::null_mut());
            libc::munmap(self.0 as *mut libc::c_void, STACK_SIZE);
        }
    }
}

thread_local! {
    static PREPARED: RefCell<Option<AlternateStack>> = const { RefCell::new(None) };
}

/// Gives the calling thread an alternate signal stack and blocks all signals but those that faults
/// raise, once for the thread's life.
///
/// # Errors
///
/// The host's reason, if it refuses the memory.
pub fn prepare_thread() -> std::io::Result<()> {
    PREPARED.with_borrow_mut(|prepared| {
        if prepared.is_some() {
            return Ok(());
        }
        // SAFETY: a fresh mapping at an address the kernel chooses replaces nothing.
        let stack = unsafe {
            libc::mmap(
                ptr::null_mut(),
                STACK_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if stack == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let owner = AlternateStack(stack as usize);
        // SAFETY: the stack is mapped and owned; all structures are initialized before use. With
        // SS_AUTODISARM a stack pointer that happens to point into the stack does not confuse the
        // kernel.
        unsafe {
            const SS_AUTODISARM: i32 = i32::MIN;
            let new = libc::stack_t { ss_sp: stack, ss_flags: SS_AUTODISARM, ss_size: STACK_SIZE };
            if libc::sigaltstack(&raw const new, ptr::null_mut()) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            for signal in [
                libc::SIGSEGV,
                libc::SIGBUS,
                libc::SIGFPE,
                libc::SIGILL,
                libc::SIGTRAP,
                libc::SIGABRT,
            ] {
                libc::sigdelset(&raw mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
        }
        *prepared = Some(owner);
        Ok(())
    })
}

/// Whether user code may write the GS base itself: the host kernel announces it in the second
/// hardware-capability word.
pub fn has_segment_base_instructions() -> bool {
    const AT_HWCAP2: libc::c_ulong = 26;
    const HWCAP2_FSGSBASE: libc::c_ulong = 2;
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE != 0 }
}
