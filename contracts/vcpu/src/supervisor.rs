//! The contract of a deprivileged guest.
//!
//! A paravirtualized guest's kernel runs at privilege level 3, like its programs, and has no
//! interrupt table: everything that would enter a kernel on a processor comes to its [`Supervisor`],
//! which is the monitor's. An engine is put into this mode by [`crate::Engine::deprivilege`]; from then on
//!
//! - SYSCALL, SYSENTER and INT n are [`Trap`]s with the instruction pointer after the instruction;
//! - exceptions are [`Trap::Exception`]s with the instruction pointer at the instruction (after it
//!   for traps: INT3, INTO, single step); privileged instructions raise #GP as at any other
//!   level 3, so a supervisor that wants to emulate one decodes it;
//! - CLI and STI raise it too, until the supervisor says by [`GuestCpu::ignore_interrupt_flag`] that the guest's I/O
//!   privilege level permits them: then they are executed, counted, and do nothing;
//! - [`crate::Request::INTERRUPT`] is [`Trap::Event`], whatever the interrupt flag says.
//!
//! The supervisor reads and changes the vCPU through [`GuestCpu`]. Page tables are the processor's own
//! format: the engine walks what [`GuestCpu::switch_space`] names with its ordinary software MMU. Address spaces
//! have numbers, under which translations stay cached while another one is in use; whoever changes
//! page tables flushes them.

use crate::{Control, DebugRegisters, Segment, Stop};
use ambos_x86::Vector;

/// Why a deprivileged guest came to its supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// SYSCALL. RCX and R11 are unchanged.
    SystemCall,
    /// SYSENTER.
    SystemEnter,
    /// INT n, INT3 or INTO, by vector; `length` is the instruction's.
    SoftwareInterrupt {
        /// Vector.
        vector: u8,
        /// Bytes of the instruction.
        length: u8,
    },
    /// An exception.
    Exception(Exception),
    /// Someone raised [`crate::Request::INTERRUPT`].
    Event,
    /// Someone raised [`crate::Request::NMI`].
    Nmi,
}

/// An exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Vector.
    pub vector: Vector,
    /// Error code, zero where the vector has none.
    pub error: u32,
    /// For page faults, the address.
    pub address: u64,
}

/// How the guest goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// At its instruction pointer.
    Run,
    /// With one instruction, for which the page at `linear` reads and writes the guest-physical page
    /// at `frame`, whatever the page tables say; then [`Supervisor::emulated`] is called.
    Substitute {
        /// Linear address of the page.
        linear: u64,
        /// Guest-physical address of the page that stands in.
        frame: u64,
    },
    /// Not now.
    Stop(Box<Stop>),
}

/// Serves a deprivileged guest's traps. Belongs to one vCPU and is used only from its thread.
pub trait Supervisor {
    /// Serves a trap.
    fn trap(&mut self, cpu: &mut dyn GuestCpu, trap: Trap) -> Resume;

    /// An instruction that [`Resume::Substitute`] asked for has run; `completed` says whether, or whether
    /// it faulted on something else (that trap comes next, unless the answer is to stop).
    fn emulated(&mut self, cpu: &mut dyn GuestCpu, completed: bool) -> Resume;
}

/// The guest may not access this address so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestFault {
    /// The address.
    pub address: u64,
    /// The page fault's error code.
    pub error: u32,
}

/// A segment register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the variants are the registers of these names")]
pub enum SegmentName {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
}

/// How many address spaces a supervisor may number for one vCPU, for what is cached of all of them to be kept.
pub const SPACES: usize = 8;

/// A deprivileged vCPU as its supervisor sees it, between two instructions.
pub trait GuestCpu {
    /// General-purpose registers.
    fn gpr(&self) -> &[u64; 16];
    /// General-purpose registers, to change.
    fn gpr_mut(&mut self) -> &mut [u64; 16];
    /// Instruction pointer.
    fn rip(&self) -> u64;
    /// Sets the instruction pointer.
    fn set_rip(&mut self, rip: u64);
    /// Flags.
    fn rflags(&self) -> u64;
    /// Sets the flags.
    fn set_rflags(&mut self, rflags: u64);
    /// Whether CLI and STI do nothing from now on, instead of raising #GP(0) as they do at first. The interrupt flag
    /// that the guest sees is set in either case.
    fn ignore_interrupt_flag(&mut self, ignored: bool);
    /// Whether 64-bit code runs.
    fn is_64bit(&self) -> bool;
    /// A segment register.
    fn segment(&self, name: SegmentName) -> Segment;
    /// Sets a segment register with its hidden part.
    fn set_segment(&mut self, name: SegmentName, segment: Segment);
    /// Sets code and stack segment at once: cheaper.
    fn set_code_and_stack(&mut self, code: Segment, stack: Segment);
    /// Sets the base of FS or GS alone.
    fn set_base(&mut self, name: SegmentName, base: u64);
    /// Sets the tables' linear addresses and limits: global, local.
    fn set_descriptor_tables(&mut self, global: (u64, u16), local: (u64, u16));
    /// Control registers.
    fn control(&self) -> Control;
    /// Sets CR0, CR2, CR4 and XCR0; the address space is [`GuestCpu::switch_space`]'s.
    fn set_control(&mut self, control: Control);
    /// Debug registers.
    fn debug(&self) -> DebugRegisters;
    /// Sets the debug registers.
    fn set_debug(&mut self, debug: DebugRegisters);
    /// The guest's time-stamp counter.
    fn tsc(&self) -> u64;

    /// Reads memory as the guest may at present.
    ///
    /// # Errors
    ///
    /// [`GuestFault`]; part of `data` may have been read.
    fn read(&mut self, linear: u64, data: &mut [u8]) -> Result<(), GuestFault>;

    /// Writes memory as the guest may at present.
    ///
    /// # Errors
    ///
    /// [`GuestFault`]; a part may have been written.
    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), GuestFault>;

    /// Reads code as the guest may fetch it; returns how many bytes there are.
    fn fetch(&mut self, linear: u64, data: &mut [u8]) -> usize;

    /// Uses the top-level page table at guest-physical address `root` under the number `space`,
    /// keeping what is cached of it, and of as many others as [`SPACES`] allows.
    fn switch_space(&mut self, root: u64, space: u16);
    /// Forgets what is cached of a number.
    fn flush_space(&mut self, space: u16);
    /// Forgets all translations.
    fn flush_all(&mut self);
    /// Forgets the translations of the page of `linear` in all address spaces.
    fn flush_page(&mut self, linear: u64);
    /// Forgets the translations of the page of `linear`, which is of 4 KiB, in what is cached of a number.
    fn flush_page_of(&mut self, space: u16, linear: u64);
    /// Forgets the translations of addresses in the lower half, those of programs, in what is cached of a number.
    fn flush_lower_half_of(&mut self, space: u16);
    /// Forgets what makes the guest-physical page at `gpa` writable.
    fn protect_frame(&mut self, gpa: u64);
    /// Serves pending requests of other vCPUs to forget translations, while the supervisor waits for one of them.
    fn serve_flush(&mut self);
    /// Code of the guest-physical page at `gpa`, if any is cached, must be looked at again.
    fn wrote_frame(&mut self, gpa: u64);
}
