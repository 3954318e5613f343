//! Code at places of a test's choice.

use super::Nothing;
use ambos_memory::GuestRam;
use ambos_vcpu::{CpuState, Engine, Stop};
use vm_memory::{Bytes, GuestAddress};

/// Code that begins at a linear address.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
    /// The guest-physical address, if that is another one.
    pub(crate) stored: Option<u64>,
}

impl Place {
    pub(crate) fn at(start: u64) -> Self {
        Self { start, bytes: Vec::new(), stored: None }
    }

    /// Code of these bytes.
    pub(crate) fn of(start: u64, bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), ..Self::at(start) }
    }

    pub(crate) fn here(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// An instruction that ends with its distance from `target`.
    fn relative(&mut self, opcode: &[u8], target: u64) {
        self.raw(opcode);
        let distance = target.wrapping_sub(self.here() + 4) as i32;
        self.raw(&distance.to_le_bytes());
    }

    pub(crate) fn jump(&mut self, target: u64) {
        self.relative(&[0xe9], target);
    }

    pub(crate) fn jump_if(&mut self, condition: u8, target: u64) {
        self.relative(&[0x0f, 0x80 | condition], target);
    }

    pub(crate) fn call(&mut self, target: u64) {
        self.relative(&[0xe8], target);
    }

    /// An instruction whose opcode ends with a memory operand relative to the instruction pointer.
    pub(crate) fn byte_operand(&mut self, opcode: &[u8], target: u64) {
        self.relative(opcode, target);
    }

    /// lea rax, [rip + ..]
    pub(crate) fn address_in_rax(&mut self, target: u64) {
        self.relative(&[0x48, 0x8d, 0x05], target);
    }

    /// Puts it into memory; engines are told that code changed.
    pub(crate) fn store(&self, ram: &GuestRam) {
        write(ram, self.stored.unwrap_or(self.start), &self.bytes);
    }
}

/// Writes to guest-physical memory; engines are told that code changed.
pub(crate) fn write(ram: &GuestRam, gpa: u64, bytes: &[u8]) {
    ram.memory().write_slice(bytes, GuestAddress(gpa)).unwrap();
    for page in gpa >> 12..=(gpa + bytes.len() as u64 - 1) >> 12 {
        ram.page_flags().bump_version(page as usize);
    }
}

/// Runs from `start` until the guest halts, going on whenever the engine was asked to stop; returns the state, and the memory that tests use: from
/// [`super::DATA`] to the end of the supervisor's stack.
pub(crate) fn run(
    engine: &mut dyn Engine,
    ram: &GuestRam,
    start: &CpuState,
) -> (CpuState, Vec<u8>) {
    engine.set_state(start);
    let mut stop = engine.run(&mut Nothing::default(), None);
    let mut stops = 0;
    while stop == Stop::Asked {
        // Now and then it is another one that goes on.
        if stops % 8 == 7 {
            let state = engine.state();
            engine.set_state(&state);
        }
        stops += 1;
        stop = engine.run(&mut Nothing::default(), None);
    }
    assert_eq!(stop, Stop::Halted, "{:x?}", engine.state());
    let mut data = vec![0; (super::services::STACK - super::DATA) as usize];
    ram.memory().read_slice(&mut data, GuestAddress(super::DATA)).unwrap();
    (engine.state(), data)
}
