//! One test case and what came of it.

use crate::layout::{self, Page};
use ambos_vcpu::VectorState;
use ambos_x86::PAGE_SIZE;

/// Writable scratch pages.
pub const MEMORY_PAGES: usize = 3;
/// Bytes of writable scratch memory.
pub const MEMORY_SIZE: usize = MEMORY_PAGES * PAGE_SIZE as usize;

/// Registers of a user program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registers {
    /// General-purpose registers.
    pub gpr: [u64; 16],
    /// RFLAGS.
    pub rflags: u64,
    /// Vector and x87 registers.
    pub vector: VectorState,
}

/// The content of the writable scratch pages, in ascending order of address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory(pub Box<[u8; MEMORY_SIZE]>);

impl Memory {
    /// The bytes of writable page `number`.
    pub fn page(&self, number: usize) -> &[u8] {
        let start = number * PAGE_SIZE as usize;
        &self.0[start..start + PAGE_SIZE as usize]
    }

    /// The bytes of writable page `number`.
    pub fn page_mut(&mut self, number: usize) -> &mut [u8] {
        let start = number * PAGE_SIZE as usize;
        &mut self.0[start..start + PAGE_SIZE as usize]
    }

    /// Where the byte of linear `address` is, if it is writable scratch memory.
    pub fn index(address: u64) -> Option<usize> {
        let offset = address.checked_sub(layout::SCRATCH)?;
        let within = (offset % PAGE_SIZE) as usize;
        match layout::page(offset / PAGE_SIZE) {
            Page::Writable(number) | Page::Device(number) => {
                Some(number * PAGE_SIZE as usize + within)
            }
            Page::Unmapped | Page::ReadOnly => None,
        }
    }

    /// The linear address of byte `index`.
    pub fn address(index: usize) -> u64 {
        let page = match index / PAGE_SIZE as usize {
            0 => 1,
            1 => 2,
            _ => 5,
        };
        layout::SCRATCH + page * PAGE_SIZE + (index as u64 & (PAGE_SIZE - 1))
    }

    /// The byte at linear `address`, if programs can read it.
    pub fn read(&self, address: u64) -> Option<u8> {
        let offset = address.checked_sub(layout::SCRATCH)?;
        match layout::page(offset / PAGE_SIZE) {
            Page::ReadOnly => Some(layout::read_only_byte((offset % PAGE_SIZE) as usize)),
            _ => Self::index(address).map(|index| self.0[index]),
        }
    }

    /// Writes `bytes` at linear `address` as far as it is writable scratch memory.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        for (offset, &byte) in bytes.iter().enumerate() {
            if let Some(index) = Self::index(address.wrapping_add(offset as u64)) {
                self.0[index] = byte;
            }
        }
    }
}

/// Code and everything it can see.
#[derive(Debug, Clone)]
pub struct Case {
    /// Linear address of the first byte of code.
    pub start: u64,
    /// The instructions, back to back.
    pub code: Vec<u8>,
    /// Registers before.
    pub registers: Registers,
    /// Memory before.
    pub memory: Memory,
}

/// An exception as the operating system under the program sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Vector.
    pub vector: u8,
    /// Error code; zero where the vector has none.
    pub error: u64,
    /// CR2 for page faults, otherwise zero.
    pub address: u64,
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The code ran to its end.
    Completed,
    /// It branched to [`layout::LANDING`].
    Landed,
    /// An instruction faulted.
    Faulted {
        /// Its address.
        rip: u64,
        /// The exception.
        fault: Fault,
    },
    /// The engine did not come to an end as it should; only engines report this.
    Lost {
        /// What happened instead.
        what: &'static str,
        /// Where it was.
        rip: u64,
    },
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Registers after.
    pub registers: Registers,
    /// Memory after.
    pub memory: Memory,
}
