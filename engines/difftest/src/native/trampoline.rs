//! The way into the code under test and out of it.
#![expect(unsafe_code, reason = "the trampoline is assembly")]

use super::end_of_fault;
use super::xsave::{AREA_SIZE, AreaLayout};
use crate::case::{Case, End, Registers};
use crate::layout;
use std::arch::asm;
use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, Ordering};

/// The code under test is running.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// What the trampoline loads and stores; lies at [`layout::CONTEXT`], where absolute addresses
/// reach it without any register.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Context {
    /// Registers before and after.
    gpr: [u64; 16],
    rflags: u64,
    /// Where the code begins.
    target: u64,
    /// Where it leaves to when it has run to its end.
    exit_completed: u64,
    /// Where it leaves to from [`layout::LANDING`].
    exit_landed: u64,
    landed: u64,
    host_rsp: u64,
    /// State components to load and store.
    components: u64,
    faulted: u64,
    vector: u64,
    error: u64,
    address: u64,
    rip: u64,
    area: Area,
    /// The initial state, with which the monitor's own code goes on.
    initial: Area,
}

#[derive(Debug)]
#[repr(C, align(64))]
struct Area([u8; AREA_SIZE]);

const _: () = assert!(size_of::<Context>() as u64 <= layout::CONTEXT_SIZE);

/// The absolute address of a field.
macro_rules! at {
    ($field:ident) => {
        layout::CONTEXT as usize + offset_of!(Context, $field)
    };
}

impl Context {
    /// Sets up what stays the same from case to case.
    pub(super) fn begin(&mut self, area: &AreaLayout) {
        self.components = area.components();
        self.initial.0.fill(0);
        self.initial.0[24..28].copy_from_slice(&ambos_x86::xstate::MXCSR_RESET.to_le_bytes());
    }

    /// The code that leaves to the exit: `jmp [exit]`.
    pub(super) fn jump_to_exit(landed: bool) -> [u8; 7] {
        let cell = if landed { at!(exit_landed) } else { at!(exit_completed) } as u32;
        let [a, b, c, d] = cell.to_le_bytes();
        [0xff, 0x24, 0x25, a, b, c, d]
    }

    /// Loads a case.
    pub(super) fn load(&mut self, case: &Case, area: &AreaLayout) {
        self.gpr = case.registers.gpr;
        self.rflags = case.registers.rflags;
        self.target = case.start;
        (self.landed, self.faulted) = (0, 0);
        area.write(&case.registers.vector, &mut self.area.0);
    }

    /// Stores what came of it.
    pub(super) fn store(&self, registers: &mut Registers, area: &AreaLayout) {
        registers.gpr = self.gpr;
        registers.rflags = self.rflags;
        area.read(&self.area.0, &mut registers.vector);
    }

    /// How it ended.
    pub(super) fn end(&self) -> End {
        if self.faulted != 0 {
            end_of_fault(self.vector, self.error, self.address, self.rip)
        } else if self.landed != 0 {
            End::Landed
        } else {
            End::Completed
        }
    }

    /// Runs the code under test.
    pub(super) fn run(&mut self) {
        RUNNING.store(true, Ordering::SeqCst);
        // SAFETY: this is the context at its fixed address, loaded with a case whose code is in
        // place. Everything the code may change is saved and restored or declared as clobbered.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "rdgsbase rax",
                "push rax",
                "wrgsbase rcx",
                "lea rax, [rip + 22f]",
                "mov qword ptr [{exit_landed}], rax",
                "lea rax, [rip + 23f]",
                "mov qword ptr [{exit_completed}], rax",
                "mov qword ptr [{host_rsp}], rsp",
                "mov eax, dword ptr [{components}]",
                "xor edx, edx",
                "xrstor64 [{area}]",
                "push qword ptr [{rflags}]",
                "popfq",
                "mov rax, qword ptr [{gpr}]",
                "mov rcx, qword ptr [{gpr} + 8]",
                "mov rdx, qword ptr [{gpr} + 16]",
                "mov rbx, qword ptr [{gpr} + 24]",
                "mov rsp, qword ptr [{gpr} + 32]",
                "mov rbp, qword ptr [{gpr} + 40]",
                "mov rsi, qword ptr [{gpr} + 48]",
                "mov rdi, qword ptr [{gpr} + 56]",
                "mov r8, qword ptr [{gpr} + 64]",
                "mov r9, qword ptr [{gpr} + 72]",
                "mov r10, qword ptr [{gpr} + 80]",
                "mov r11, qword ptr [{gpr} + 88]",
                "mov r12, qword ptr [{gpr} + 96]",
                "mov r13, qword ptr [{gpr} + 104]",
                "mov r14, qword ptr [{gpr} + 112]",
                "mov r15, qword ptr [{gpr} + 120]",
                "jmp qword ptr [{target}]",
                "22:",
                "mov dword ptr [{landed}], 1",
                "23:",
                "mov qword ptr [{gpr}], rax",
                "mov qword ptr [{gpr} + 8], rcx",
                "mov qword ptr [{gpr} + 16], rdx",
                "mov qword ptr [{gpr} + 24], rbx",
                "mov qword ptr [{gpr} + 32], rsp",
                "mov qword ptr [{gpr} + 40], rbp",
                "mov qword ptr [{gpr} + 48], rsi",
                "mov qword ptr [{gpr} + 56], rdi",
                "mov qword ptr [{gpr} + 64], r8",
                "mov qword ptr [{gpr} + 72], r9",
                "mov qword ptr [{gpr} + 80], r10",
                "mov qword ptr [{gpr} + 88], r11",
                "mov qword ptr [{gpr} + 96], r12",
                "mov qword ptr [{gpr} + 104], r13",
                "mov qword ptr [{gpr} + 112], r14",
                "mov qword ptr [{gpr} + 120], r15",
                "mov rsp, qword ptr [{host_rsp}]",
                "pushfq",
                "pop qword ptr [{rflags}]",
                "push 2",
                "popfq",
                "mov eax, dword ptr [{components}]",
                "xor edx, edx",
                "xsave64 [{area}]",
                "mov eax, dword ptr [{components}]",
                "xrstor64 [{initial}]",
                "pop rax",
                "wrgsbase rax",
                "pop rbp",
                "pop rbx",
                inout("rcx") layout::GS_BASE => _,
                gpr = const at!(gpr),
                rflags = const at!(rflags),
                target = const at!(target),
                exit_completed = const at!(exit_completed),
                exit_landed = const at!(exit_landed),
                landed = const at!(landed),
                host_rsp = const at!(host_rsp),
                components = const at!(components),
                area = const at!(area),
                initial = const at!(initial),
                out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                clobber_abi("sysv64"),
            );
        }
        RUNNING.store(false, Ordering::SeqCst);
    }

    /// Called by the signal handler: notes a fault of the code under test. Returns where to go on,
    /// or `None` if the code under test is not running.
    pub(super) fn note_fault(vector: u64, error: u64, address: u64, rip: u64) -> Option<u64> {
        if !RUNNING.load(Ordering::Relaxed) {
            return None;
        }
        // SAFETY: while code under test runs the context is mapped, and the only thread that uses
        // it is this one, inside `run`.
        unsafe {
            let context = &mut *(layout::CONTEXT as *mut Self);
            context.faulted = 1;
            context.vector = vector;
            context.error = error;
            context.address = address;
            context.rip = rip;
            Some(context.exit_completed)
        }
    }
}

/// Whether programs may set their GS base (CPUID and the kernel's word in AT_HWCAP2).
pub(super) fn can_set_gs_base() -> bool {
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    // SAFETY: getauxval has no preconditions.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 }
}
