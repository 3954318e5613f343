//! Running a case on the host's own processor.
//!
//! A trampoline loads every register that a user program has, jumps to the code under test and,
//! when the code comes to its end or faults, stores every register again. Faults arrive as signals;
//! the handler notes what the kernel tells of the exception and sends the thread on to the
//! trampoline's exit with all registers as they were.
//!
//! Code, scratch memory and the trampoline's context lie at fixed addresses ([`crate::layout`]), so
//! there is one [`Native`] in a process at a time.

mod map;
mod signals;
mod trampoline;
mod xsave;

use crate::case::{Case, End, Fault, Memory, Outcome};
use crate::layout;
use map::Maps;
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use trampoline::Context;
use xsave::AreaLayout;

/// Why cases cannot be run natively.
#[derive(Debug, Error)]
pub enum NativeError {
    /// A fixed address could not be mapped.
    #[error("cannot map {what} at {address:#x}")]
    Map {
        /// What for.
        what: &'static str,
        /// The address.
        address: u64,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
    /// The processor or its operating system lacks what the trampoline stands on.
    #[error("the host has no {0}")]
    Missing(&'static str),
}

/// Serializes the users of the fixed addresses.
static ONE: Mutex<()> = Mutex::new(());

/// The host's processor, ready to run cases. It belongs to the thread that made it.
#[derive(Debug)]
pub struct Native {
    maps: Maps,
    area: AreaLayout,
    /// Bytes of code that differ from the filling.
    dirty: Vec<(u64, usize)>,
    _stack: signals::Stack,
    _one: MutexGuard<'static, ()>,
    /// The trampoline sets this thread's GS base.
    _thread: std::marker::PhantomData<*const ()>,
}

/// What unused bytes of code are: HLT, which faults in a user program.
pub const FILLING: u8 = 0xf4;

impl Native {
    /// Maps the fixed addresses and installs the signal handlers. Waits for another user.
    ///
    /// # Errors
    ///
    /// [`NativeError`] if the host refuses.
    pub fn new() -> Result<Self, NativeError> {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let area = AreaLayout::of_host()?;
        if !trampoline::can_set_gs_base() {
            return Err(NativeError::Missing("FSGSBASE"));
        }
        let mut maps = Maps::new()?;
        maps.code_mut().fill(FILLING);
        maps.context().begin(&area);
        signals::install();
        Ok(Self {
            maps,
            area,
            dirty: Vec::new(),
            _stack: signals::Stack::new(),
            _one: one,
            _thread: std::marker::PhantomData,
        })
    }

    /// State components that the host has, as bits of XCR0, of those that cases use.
    pub fn components(&self) -> u64 {
        self.area.components()
    }

    /// Runs one case. What its memory operands may touch natively is its maker's responsibility;
    /// see [`layout::is_safe`].
    pub fn run(&mut self, case: &Case) -> Outcome {
        for (start, length) in self.dirty.drain(..) {
            let offset = (start - layout::CODE) as usize;
            self.maps.code_mut()[offset..offset + length].fill(FILLING);
        }
        let end = case.start + case.code.len() as u64;
        let completed = Context::jump_to_exit(false);
        let landed = Context::jump_to_exit(true);
        let pieces = [(case.start, &case.code[..]), (end, &completed), (layout::LANDING, &landed)];
        for (start, bytes) in pieces {
            let offset = (start - layout::CODE) as usize;
            self.maps.code_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
            self.dirty.push((start, bytes.len()));
        }
        self.maps.write_memory(&case.memory);
        let context = self.maps.context();
        context.load(case, &self.area);
        context.run();
        let mut registers = case.registers.clone();
        context.store(&mut registers, &self.area);
        let end = context.end();
        let mut memory = Memory(Box::new([0; crate::case::MEMORY_SIZE]));
        self.maps.read_memory(&mut memory);
        Outcome { end, registers, memory }
    }
}

/// What the kernel told of a fault, as [`End`].
fn end_of_fault(vector: u64, error: u64, address: u64, rip: u64) -> End {
    const PAGE_FAULT: u64 = 14;
    let address = if vector == PAGE_FAULT { address } else { 0 };
    // The kernel leaves stale error codes where the vector has none.
    let error = if matches!(vector, 8 | 10..=14 | 17) { error } else { 0 };
    End::Faulted { rip, fault: Fault { vector: vector as u8, error, address } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Registers;
    use ambos_vcpu::VectorState;

    fn case(code: &[u8]) -> Case {
        Case {
            start: layout::CODE_START,
            code: code.to_vec(),
            registers: Registers { gpr: [0; 16], rflags: 0x202, vector: VectorState::default() },
            memory: Memory(Box::new([0; crate::case::MEMORY_SIZE])),
        }
    }

    #[test]
    fn registers_flags_vectors_and_memory_travel_both_ways() {
        let mut native = Native::new().unwrap();
        // add rax, rcx; paddb xmm1, xmm2; push rax
        let mut case = case(&[0x48, 0x01, 0xc8, 0x66, 0x0f, 0xfc, 0xca, 0x50]);
        case.registers.gpr[0] = u64::MAX;
        case.registers.gpr[1] = 1;
        case.registers.gpr[4] = layout::SCRATCH + 0x1008;
        case.registers.vector.zmm[1][..16].fill(3);
        case.registers.vector.zmm[2][..16].fill(4);
        case.memory.0[..8].fill(0xff);
        let outcome = native.run(&case);
        assert_eq!(outcome.end, End::Completed);
        assert_eq!(outcome.registers.gpr[0], 0);
        assert_eq!(outcome.registers.rflags & 0x8d5, 0x55);
        assert_eq!(outcome.registers.vector.zmm[1][..16], [7; 16]);
        assert_eq!(outcome.registers.gpr[4], layout::SCRATCH + 0x1000);
        assert_eq!(outcome.memory.0[..8], [0; 8]);
    }

    #[test]
    fn faults_come_with_vector_error_code_and_address() {
        let mut native = Native::new().unwrap();
        // inc ecx; mov [rax], ecx
        let mut case = case(&[0xff, 0xc1, 0x89, 0x08]);
        for (address, fault) in [
            (layout::SCRATCH, Fault { vector: 14, error: 6, address: layout::SCRATCH }),
            (layout::SCRATCH + 0x4008, {
                Fault { vector: 14, error: 7, address: layout::SCRATCH + 0x4008 }
            }),
            (1 << 63, Fault { vector: 13, error: 0, address: 0 }),
        ] {
            case.registers.gpr[0] = address;
            let outcome = native.run(&case);
            assert_eq!(outcome.end, End::Faulted { rip: layout::CODE_START + 2, fault });
            assert_eq!(outcome.registers.gpr[1], 1);
        }
    }
}
