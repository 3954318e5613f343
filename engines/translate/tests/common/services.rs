//! What programs ask a supervisor for by interrupts, from user mode as well.

use super::place::write;
use ambos_memory::GuestRam;
use ambos_vcpu::CpuState;
use vm_memory::{Bytes, GuestAddress};

/// Has two pages take turns at an address.
pub(crate) const SWAP: u8 = 0x80;
/// Writes RSI to the page-table entry at RDI and drops the translation of the page at RDX.
pub(crate) const REMAP: u8 = 0x81;
/// Loads CR3 with RSI.
pub(crate) const RELOAD: u8 = 0x82;
/// The supervisor's stack.
pub(crate) const STACK: u64 = 0x3_8000;
/// Page tables that map the same, but for one page.
pub(crate) const ROOTS: [u64; 2] = [0x1000, 0x18_0000];
const HANDLERS: u64 = 0x9100;

/// Address of the page-table entry of a page in the first 2 MiB.
pub(crate) fn entry_of(page: u64) -> u64 {
    0x4000 + (page >> 12) * 8
}

/// Maps a page of the first 2 MiB.
pub(crate) fn map(ram: &GuestRam, page: u64, gpa: u64) {
    write(ram, entry_of(page), &(gpa | 0x67).to_le_bytes());
}

/// Makes all pages ones of user mode, or of the supervisor.
pub(crate) fn give_pages_to(ram: &GuestRam, user: bool) {
    for page in 0..512 {
        let at = entry_of(page << 12);
        let entry: u64 = ram.memory().read_obj(GuestAddress(at)).unwrap();
        write(ram, at, &(entry & !4 | (u64::from(user) << 2)).to_le_bytes());
    }
}

/// Makes the second tables: those as they are, with `other` in the place of a page.
pub(crate) fn second_tables(ram: &GuestRam, page: u64, other: u64) {
    let [first, second] = ROOTS;
    let mut table = vec![0; 0x4000];
    ram.memory().read_slice(&mut table, GuestAddress(first)).unwrap();
    write(ram, second, &table);
    for level in 0..3 {
        let next = (second + (level + 1) * 0x1000) | 7;
        write(ram, second + level * 0x1000, &next.to_le_bytes());
    }
    let entry = second + 0x3000 + (page >> 12) * 8;
    let before: u64 = ram.memory().read_obj(GuestAddress(entry)).unwrap();
    write(ram, entry, &(other | (before & 0xfff)).to_le_bytes());
}

/// Sets up the handlers; the page that is swapped is at `swapped` first, where `other` takes turns with it.
pub(crate) fn install(ram: &GuestRam, swapped: u64, other: u64) {
    let entry = (entry_of(swapped) as u32).to_le_bytes();
    let change = ((swapped ^ other) as u32).to_le_bytes();
    let page = (swapped as u32).to_le_bytes();
    // xor qword ptr [entry], change; invlpg [page]; iretq
    let swap: [&[u8]; 6] = [
        &[0x48, 0x81, 0x34, 0x25],
        &entry,
        &change,
        &[0x0f, 0x01, 0x3c, 0x25],
        &page,
        &[0x48, 0xcf],
    ];
    // mov [rdi], rsi; invlpg [rdx]; iretq
    let remap = [0x48, 0x89, 0x37, 0x0f, 0x01, 0x3a, 0x48, 0xcf];
    // mov cr3, rsi; iretq
    let reload = [0x0f, 0x22, 0xde, 0x48, 0xcf];
    let handlers: [(u8, &[u8]); 3] = [(SWAP, &swap.concat()), (REMAP, &remap), (RELOAD, &reload)];
    for (number, (vector, code)) in handlers.into_iter().enumerate() {
        let at = HANDLERS + number as u64 * 0x40;
        write(ram, at, code);
        let gate = at | 8 << 16 | 0xee00 << 32;
        write(ram, 0x8000 + u64::from(vector) * 16, &gate.to_le_bytes());
    }
    // A user's code and data segments.
    write(ram, 0xa018, &0x00af_fb00_0000_ffff_u64.to_le_bytes());
    write(ram, 0xa020, &0x00cf_f300_0000_ffff_u64.to_le_bytes());
    // For privilege level 0, and the first interrupt stack.
    for at in [0xb004, 0xb024] {
        ram.memory().write_obj(STACK, GuestAddress(at)).unwrap();
    }
}

/// The state that programs begin in, of supervisor or of user mode.
pub(crate) fn start(user: bool) -> CpuState {
    let mut state = super::state();
    if user {
        to_user(&mut state);
    }
    state
}

/// Makes a state one of user mode.
pub(crate) fn to_user(state: &mut CpuState) {
    state.segments.cs.attributes |= 0x60;
    state.segments.ss.attributes |= 0x60;
    state.segments.cs.selector = 0x1b;
    state.segments.ss.selector = 0x23;
    state.segments.tr.base = 0xb000;
    state.segments.tr.limit = 0x67;
    state.segments.tr.attributes = 0x8b;
}

/// Gives exceptions whose gates say so a stack of their own, in supervisor mode as well.
pub(crate) fn with_interrupt_stack(state: &mut CpuState) {
    state.segments.tr.base = 0xb000;
    state.segments.tr.limit = 0x67;
    state.segments.tr.attributes = 0x8b;
}
