//! What a running vCPU asks of the machine around it.

use crate::Supervisor;
use ambos_intercept::{Ledger, UnservedLog};

/// Width of a port access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PortWidth {
    /// One byte.
    Byte = 1,
    /// Two bytes.
    Word = 2,
    /// Four bytes.
    Dword = 4,
}

/// The platform does not have this model-specific register, or refuses the value: #GP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsrFault;

/// Bits of a guest-physical address (MAXPHYADDR): the software MMU's own, whatever the host has.
pub const PHYSICAL_BITS: u32 = 46;

/// The machine as one vCPU sees it.
///
/// Engines call these from inside the run of guest code; nothing unwinds to an outer loop. An
/// implementation belongs to one vCPU and is used only from its thread.
pub trait Platform {
    /// Reads an I/O port; absent devices read as all-ones.
    fn port_read(&mut self, port: u16, width: PortWidth) -> u32;

    /// Writes an I/O port.
    fn port_write(&mut self, port: u16, width: PortWidth, value: u32);

    /// Reads `data.len()` (1–64) bytes of memory that is not RAM; absent devices read as all-ones.
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]);

    /// Writes memory that is not RAM.
    fn mmio_write(&mut self, gpa: u64, data: &[u8]);

    /// Takes what the last access to a port or to memory asked for if no device served it. The engine
    /// enters it in the list of unserved requests with where the guest is.
    fn take_unserved(&mut self) -> Option<String> {
        None
    }

    /// Reads a model-specific register that the engine does not hold itself.
    ///
    /// # Errors
    ///
    /// [`MsrFault`] if there is none: the engine raises #GP.
    fn msr_read(&mut self, index: u32) -> Result<u64, MsrFault>;

    /// Writes a model-specific register that the engine does not hold itself.
    ///
    /// # Errors
    ///
    /// [`MsrFault`] if there is none or the value is illegal: the engine raises #GP.
    fn msr_write(&mut self, index: u32, value: u64) -> Result<(), MsrFault>;

    /// CPUID for this vCPU: EAX, EBX, ECX, EDX. The engine itself fills in what depends on the
    /// vCPU's control registers (OSXSAVE, OSPKE, XSAVE area sizes). Leaf 0x8000_0008 must give
    /// [`PHYSICAL_BITS`].
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4];

    /// Takes the most urgent deliverable maskable interrupt from the interrupt controllers and
    /// returns its vector; `None` if there is none after all. Lowers
    /// [`crate::Request::INTERRUPT`] when nothing more is deliverable.
    fn acknowledge_interrupt(&mut self) -> Option<u8>;

    /// The task-priority class, CR8 (0–15).
    fn task_priority(&mut self) -> u8;

    /// Sets the task-priority class, CR8.
    fn set_task_priority(&mut self, class: u8);

    /// Asks every other vCPU of the machine to drop cached code and translations
    /// ([`crate::Request::FLUSH`]), because this one begins to cache code of a page they may write,
    /// or changed a page they cache.
    fn flush_others(&mut self);

    /// VMCALL or VMMCALL with `number` in RAX and `arguments` in RBX, RCX, RDX and RSI, from a `long`
    /// mode guest or another, from its `supervisor` or not. What is returned goes to RAX; `None` says
    /// that the machine takes no hypercalls: #UD.
    fn hypercall(
        &mut self,
        number: u64,
        arguments: [u64; 4],
        long: bool,
        supervisor: bool,
    ) -> Option<u64> {
        let _ = (number, arguments, long, supervisor);
        None
    }

    /// What a deprivileged guest traps to; `None` for a guest that has the processor to itself.
    fn supervisor(&mut self) -> Option<&mut dyn Supervisor> {
        None
    }

    /// This vCPU's ledger of interceptions.
    fn ledger(&self) -> &Ledger;

    /// The machine's list of unserved requests.
    fn unserved(&self) -> &UnservedLog;
}
