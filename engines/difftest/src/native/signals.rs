//! Signals of the code under test.
#![expect(unsafe_code, reason = "signal handlers")]

use super::trampoline::Context;
use std::arch::naked_asm;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Once;

const SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
const TRAP_FLAG: i64 = 1 << 8;
/// Bytes of the alternate stack: the stack pointer of code under test is anything.
const STACK_SIZE: usize = 256 << 10;

/// The actions that were there before, for signals that are not ours.
struct Previous(UnsafeCell<[MaybeUninit<libc::sigaction>; 5]>);
// SAFETY: written once inside `INSTALL`, before any handler that reads it can run.
unsafe impl Sync for Previous {}
static PREVIOUS: Previous = Previous(UnsafeCell::new([MaybeUninit::uninit(); 5]));
static INSTALL: Once = Once::new();

/// Installs the handlers, which stay: other code may have put its own on top of them.
pub(super) fn install() {
    INSTALL.call_once(|| {
        for (index, signal) in SIGNALS.into_iter().enumerate() {
            // SAFETY: the structure is initialized before the kernel reads it; PREVIOUS is written
            // only here.
            unsafe {
                let previous = (*PREVIOUS.0.get())[index].as_mut_ptr();
                libc::sigaction(signal, std::ptr::null(), previous);
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = entry as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                libc::sigemptyset(&raw mut action.sa_mask);
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    });
}

/// A stack for this thread's signal handlers, as long as this lives.
#[derive(Debug)]
pub(super) struct Stack {
    _memory: Box<[u8]>,
    previous: libc::stack_t,
}

impl Stack {
    pub(super) fn new() -> Self {
        let mut memory = vec![0; STACK_SIZE].into_boxed_slice();
        // SAFETY: both structures are plain data; the stack lives as long as it is registered.
        let previous = unsafe {
            let mut previous: libc::stack_t = std::mem::zeroed();
            let mut new: libc::stack_t = std::mem::zeroed();
            new.ss_sp = memory.as_mut_ptr().cast();
            new.ss_size = memory.len();
            libc::sigaltstack(&raw const new, &raw mut previous);
            previous
        };
        Self { _memory: memory, previous }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: this is the stack that was there before.
        unsafe {
            libc::sigaltstack(&raw const self.previous, std::ptr::null_mut());
        }
    }
}

/// The kernel enters handlers with the alignment-check flag of the code under test.
#[unsafe(naked)]
extern "C" fn entry(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    naked_asm!(
        "pushfq",
        "and dword ptr [rsp], {without_ac}",
        "popfq",
        "jmp {handler}",
        without_ac = const !(1i32 << 18),
        handler = sym handler,
    )
}

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid ucontext to an SA_SIGINFO handler.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let register = |index: i32| registers[index as usize] as u64;
    let (vector, error) = (register(libc::REG_TRAPNO), register(libc::REG_ERR));
    let (address, rip) = (register(libc::REG_CR2), register(libc::REG_RIP));
    if let Some(exit) = Context::note_fault(vector, error, address, rip) {
        registers[libc::REG_RIP as usize] = exit as i64;
        // A single step would go on in the trampoline.
        registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
        return;
    }
    let index = SIGNALS.iter().position(|&known| known == signal).unwrap_or(0);
    // SAFETY: `install` filled PREVIOUS; the previous action is put back or called exactly as
    // the kernel would.
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
