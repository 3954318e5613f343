//! The state in which programs begin; `board.h` describes it to them.

use ambos_memory::GuestRam;
use ambos_vcpu::{CpuState, Segment, TableRegister};
use ambos_x86::segment::attr;
use ambos_x86::{Cr0, Cr4, Efer, paging};
use vm_memory::{Bytes, GuestAddress};

/// Bytes of RAM.
pub const RAM_SIZE: u64 = 16 << 20;
const PML4: u64 = 0x1000;
const POINTERS: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const PROGRAM: u64 = 0x8000;

/// Writes a program and its page tables to RAM.
pub fn lay_out(ram: &GuestRam, image: &[u8]) {
    let open = paging::PRESENT | paging::WRITE | paging::USER;
    let write = |at: u64, value: u64| {
        let written = ram.memory().write_obj(value, GuestAddress(at));
        debug_assert!(written.is_ok());
    };
    write(PML4, POINTERS | open);
    write(POINTERS, DIRECTORY | open);
    for index in 0..512 {
        write(DIRECTORY + index * 8, index << 21 | open | paging::PAGE_SIZE);
    }
    let written = ram.memory().write_slice(image, GuestAddress(PROGRAM));
    debug_assert!(written.is_ok());
}

/// The state in which the program called `name` begins.
pub fn initial_state(name: &str) -> CpuState {
    let mut state = CpuState::reset();
    state.rip = PROGRAM;
    if name.starts_with("real_") {
        state.segments.cs = Segment::real_mode(0, true);
        return state;
    }
    let present = attr::P | attr::S | attr::READ_WRITE | attr::ACCESSED | attr::G;
    let flat =
        |selector, kind| Segment { selector, base: 0, limit: u32::MAX, attributes: present | kind };
    state.segments.cs = flat(0x08, attr::CODE | attr::L);
    let data = flat(0x10, attr::DB);
    (state.segments.ss, state.segments.ds, state.segments.es) = (data, data, data);
    (state.segments.fs, state.segments.gs) = (data, data);
    state.gdtr = TableRegister::default();
    state.idtr = TableRegister::default();
    let cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::PG;
    state.control.cr0 = cr0.bits();
    state.control.cr4 = (Cr4::PAE | Cr4::OSFXSR).bits();
    state.control.cr3 = PML4;
    state.control.efer = (Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE).bits();
    state
}
