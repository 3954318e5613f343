//! Calls into generated code whose faults come back as values.
//!
//! A *thunk* is generated code that executes one guest instruction on the host. The instruction may
//! fault (#DE, #XM, #GP for alignment, #UD), which the host kernel reports as a signal. The
//! handler installed here recognizes a fault by its instruction pointer, notes it in the thunk's
//! [`ThunkFrame`] and resumes at the thunk's recovery code. Faults anywhere else go to whatever
//! handler was there before.
//!
//! Longer generated code has no room for that contract: its stack pointer may be the guest's. For it
//! an area is registered together with the address of one [`ThunkFrame`], to which the
//! faulting instruction pointer is noted as well.
//!
//! Contract with the thunk: while the instruction executes, the word at the host's RSP is the
//! address of the [`ThunkFrame`], whose `recover` is the address of the recovery code.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The part of a thunk's context that the fault handler knows.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
pub struct ThunkFrame {
    /// Where execution goes on after a fault.
    pub recover: usize,
    /// Zero, or the fault: signal number in the low half, signal code in the high half.
    pub fault: u64,
    /// The faulting data address, where the host kernel tells it.
    pub fault_address: usize,
    /// The exception's vector.
    pub vector: u64,
    /// The exception's error code, if it has one.
    pub error: u64,
    /// The faulting instruction's address, in areas with one frame.
    pub fault_code: usize,
}

/// A fault of an instruction executed in a thunk, as the host kernel reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostFault {
    /// SIGFPE for an integer division.
    Divide,
    /// SIGFPE for an x87 exception.
    X87,
    /// SIGFPE for a SIMD exception.
    Simd,
    /// SIGILL.
    IllegalInstruction,
    /// SIGSEGV without an address: the host's #GP (misaligned vector operand).
    GeneralProtection,
    /// SIGSEGV with an address, or SIGBUS.
    Memory {
        /// The address.
        address: usize,
    },
}

impl ThunkFrame {
    /// The fault noted in this frame, if any.
    pub fn host_fault(&self) -> Option<HostFault> {
        let (signal, code) = (self.fault as u32 as i32, (self.fault >> 32) as i32);
        match signal {
            0 => None,
            // FPE_INTDIV and FPE_INTOVF.
            libc::SIGFPE if matches!(code, 1 | 2) => Some(HostFault::Divide),
            libc::SIGFPE if self.vector == X87_EXCEPTION => Some(HostFault::X87),
            libc::SIGFPE => Some(HostFault::Simd),
            libc::SIGILL => Some(HostFault::IllegalInstruction),
            // SI_KERNEL: the kernel had no address to tell, so the processor raised #GP.
            libc::SIGSEGV if code == 0x80 => Some(HostFault::GeneralProtection),
            _ => Some(HostFault::Memory { address: self.fault_address }),
        }
    }
}

/// The vector of #MF.
const X87_EXCEPTION: u64 = 16;
/// How many code areas can be guarded at once in one process.
const MAX_AREAS: usize = 256;

/// A guarded area; a start of zero marks a free slot. Read by the signal handler.
struct Area {
    start: AtomicUsize,
    end: AtomicUsize,
    /// The area's one frame, or zero where each thunk has its own.
    frame: AtomicUsize,
}

static AREAS: [Area; MAX_AREAS] = [const {
    Area { start: AtomicUsize::new(0), end: AtomicUsize::new(0), frame: AtomicUsize::new(0) }
}; MAX_AREAS];

struct Previous(UnsafeCell<[MaybeUninit<libc::sigaction>; 4]>);
// SAFETY: written once inside `INSTALL`, before any handler that reads it can run.
unsafe impl Sync for Previous {}
static PREVIOUS: Previous = Previous(UnsafeCell::new([MaybeUninit::uninit(); 4]));
static INSTALL: Once = Once::new();
const SIGNALS: [i32; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];

/// A registered area of thunks; faults inside are recovered while this lives.
#[derive(Debug)]
pub struct GuardedArea {
    slot: usize,
}

impl GuardedArea {
    /// Registers `size` bytes of thunks at `start`. `None` if too many areas are registered.
    pub fn new(start: usize, size: usize) -> Option<Self> {
        Self::register(start, size, 0)
    }

    /// Registers `size` bytes of code at `start` that one thread at a time runs and whose faults all
    /// go to `frame`. `None` if too many areas are registered.
    ///
    /// # Safety
    ///
    /// `frame` must stay valid while the area is registered, and nothing else may access it while
    /// code of the area runs. Resuming at its `recover` address must be sound from any fault.
    pub unsafe fn with_frame(start: usize, size: usize, frame: *mut ThunkFrame) -> Option<Self> {
        Self::register(start, size, frame as usize)
    }

    fn register(start: usize, size: usize, frame: usize) -> Option<Self> {
        INSTALL.call_once(install);
        for (slot, area) in AREAS.iter().enumerate() {
            if area.start.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                area.frame.store(frame, Ordering::SeqCst);
                area.end.store(start + size, Ordering::SeqCst);
                area.start.store(start, Ordering::SeqCst);
                return Some(Self { slot });
            }
        }
        None
    }
}

impl Drop for GuardedArea {
    fn drop(&mut self) {
        AREAS[self.slot].end.store(0, Ordering::SeqCst);
        AREAS[self.slot].start.store(0, Ordering::SeqCst);
    }
}

fn install() {
    for (index, signal) in SIGNALS.into_iter().enumerate() {
        // SAFETY: `action` is fully initialized (zeroed, then set); the handler is async-signal-safe;
        // PREVIOUS is written only here, under `INSTALL`.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigemptyset(&raw mut action.sa_mask);
            let previous = (*PREVIOUS.0.get())[index].as_mut_ptr();
            libc::sigaction(signal, &raw const action, previous);
        }
    }
}

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes valid pointers to an SA_SIGINFO handler.
    let (registers, info_ref) =
        unsafe { (&mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs, &*info) };
    let rip = registers[libc::REG_RIP as usize] as usize;
    let guarded = AREAS.iter().find(|area| {
        let start = area.start.load(Ordering::Relaxed);
        start > 1 && rip >= start && rip < area.end.load(Ordering::Relaxed)
    });
    if let Some(area) = guarded {
        // SAFETY: `rip` is inside a registered area: either the area's frame is valid by the promise
        // made on registering it, or by this module's contract the word at RSP is the address of
        // the running thunk's frame.
        unsafe {
            let frame = match area.frame.load(Ordering::Relaxed) {
                0 => *(registers[libc::REG_RSP as usize] as *const *mut ThunkFrame),
                frame => frame as *mut ThunkFrame,
            };
            (*frame).fault = u64::from(signal as u32) | u64::from(info_ref.si_code as u32) << 32;
            (*frame).fault_address = info_ref.si_addr() as usize;
            (*frame).vector = registers[libc::REG_TRAPNO as usize] as u64;
            (*frame).error = registers[libc::REG_ERR as usize] as u64;
            (*frame).fault_code = rip;
            registers[libc::REG_RIP as usize] = (*frame).recover as i64;
        }
        return;
    }
    let index = SIGNALS.iter().position(|&known| known == signal).unwrap_or(0);
    // SAFETY: `install` filled PREVIOUS before this handler could run; the previous action is put
    // back or called exactly as the kernel would.
    unsafe {
        let previous = (*PREVIOUS.0.get())[index].assume_init_ref();
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                libc::sigaction(signal, previous, std::ptr::null_mut());
            }
            address if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let call: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(address);
                call(signal, info, context);
            }
            address => {
                let call: extern "C" fn(i32) = std::mem::transmute(address);
                call(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arena;
    use crate::arena::Region;

    #[test]
    fn a_fault_in_a_thunk_comes_back_as_a_value() {
        let mut arena = Arena::new(4096).unwrap();
        let _area = GuardedArea::new(arena.start(), arena.size()).unwrap();
        // push rdi; ud2 | recovery: pop rdi; ret
        let at = arena.push(Region::Hot, &[0x57, 0x0f, 0x0b, 0x5f, 0xc3]).unwrap();
        let mut frame = ThunkFrame { recover: at + 3, ..ThunkFrame::default() };
        // SAFETY: the bytes at `at` are a function of this type that keeps the guard's contract.
        let thunk: extern "sysv64" fn(*mut ThunkFrame) = unsafe { std::mem::transmute(at) };
        thunk(&raw mut frame);
        assert_eq!(frame.host_fault(), Some(HostFault::IllegalInstruction));
    }
}
