//! The operations on a PC.

#![expect(unsafe_code, reason = "privileged instructions")]

use crate::entry::{addresses, interrupt_count};
use crate::measure::{measure, ticks};
use core::arch::asm;

const SERIAL: u16 = 0x3f8;
const DEBUG_EXIT: u16 = 0xf4;
/// A port that no one listens to since the days of power-on self-test cards.
const POST: u16 = 0x80;
const APIC: u64 = 0xfee0_0000;
const APIC_SPURIOUS: u64 = APIC + 0xf0;
const APIC_COMMAND: u64 = APIC + 0x300;
const APIC_TIMER: u64 = APIC + 0x320;
const TSC_DEADLINE_MODE: u32 = 1 << 18;
const MASKED: u32 = 1 << 16;
/// To oneself, fixed, edge.
const TO_SELF: u32 = 0x0004_4000;
const VECTOR: usize = 0x40;
const BREAKPOINT: usize = 3;
const TSC_DEADLINE: u32 = 0x6e0;

/// Runs all operations and ends the machine.
pub(crate) extern "C" fn main() -> ! {
    let places = addresses();
    let table = interrupt_table(places.pc_trap, places.pc_interrupt);
    load_interrupt_table(&table);
    write(APIC_SPURIOUS, 0x1ff);
    write(APIC_TIMER, TSC_DEADLINE_MODE | MASKED | 0xef);

    measure("address-space", print, || load_cr3(places.page_root));
    let entry = page_entry(&places);
    let value = read64(entry);
    measure("page-table-entry", print, || {
        write64(entry, value);
        invalidate(places.spare_page);
    });
    measure("interrupt-mask", print, interrupt_mask);
    measure("trap", print, breakpoint);
    measure("timer-program", print, || write_msr(TSC_DEADLINE, ticks() + (1 << 40)));
    enable_interrupts();
    measure("event", print, || {
        let before = interrupt_count();
        write(APIC_COMMAND, TO_SELF | VECTOR as u32);
        while interrupt_count() == before {}
    });
    disable_interrupts();
    measure("monitor-call", print, || write_port(POST, 0));
    measure("cpuid", print, || {
        core::hint::black_box(core::arch::x86_64::__cpuid(1));
    });
    loop {
        write_port(DEBUG_EXIT, 0);
    }
}

fn print(bytes: &[u8]) {
    for &byte in bytes {
        write_port(SERIAL, byte);
    }
}

/// Interrupt gates (SDM volume 3, 6.14.1).
struct Table([[u64; 2]; 256]);

fn interrupt_table(trap: u64, interrupt: u64) -> Table {
    let gate = |address: u64| {
        let low = address & 0xffff | 8 << 16 | 0x8e00 << 32 | (address >> 16 & 0xffff) << 48;
        [low, address >> 32]
    };
    let mut table = Table([[0; 2]; 256]);
    table.0[BREAKPOINT] = gate(trap);
    table.0[VECTOR] = gate(interrupt);
    table
}

fn load_interrupt_table(table: &Table) {
    let mut register = [0u8; 10];
    register[..2].copy_from_slice(&0xfff_u16.to_le_bytes());
    register[2..].copy_from_slice(&((&raw const *table) as u64).to_le_bytes());
    // SAFETY: the table lives as long as the machine: `main` does not return.
    unsafe { asm!("lidt [{}]", in(reg) register.as_ptr(), options(nostack)) };
}

/// The page-directory entry that maps the spare page: two levels below the root.
fn page_entry(places: &crate::entry::Addresses) -> u64 {
    let pointers = read64(places.page_root) & !0xfff;
    let directory = read64(pointers) & !0xfff;
    directory + places.spare_page / 0x20_0000 * 8
}

fn read64(address: u64) -> u64 {
    // SAFETY: callers pass aligned addresses of page tables.
    unsafe { (address as *const u64).read_volatile() }
}

fn write64(address: u64, value: u64) {
    // SAFETY: callers write the entry that is there.
    unsafe { (address as *mut u64).write_volatile(value) }
}

fn write(address: u64, value: u32) {
    // SAFETY: callers pass addresses of device registers.
    unsafe { (address as *mut u32).write_volatile(value) }
}

fn load_cr3(root: u64) {
    // SAFETY: the tables are those in use.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack)) };
}

fn invalidate(address: u64) {
    // SAFETY: this only drops what the processor remembers.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack)) };
}

fn interrupt_mask() {
    // SAFETY: no interrupt is due; the table has gates for those that may come.
    unsafe { asm!("sti", "cli", options(nostack)) };
}

fn enable_interrupts() {
    // SAFETY: the table has gates for the interrupts that may come.
    unsafe { asm!("sti", options(nostack)) };
}

fn disable_interrupts() {
    // SAFETY: nothing waits for interrupts.
    unsafe { asm!("cli", options(nostack)) };
}

fn breakpoint() {
    // SAFETY: the gate leads to a handler that returns.
    unsafe { asm!("int3") };
}

fn write_msr(register: u32, value: u64) {
    // SAFETY: the register programs a timer whose interrupt is masked.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack));
    }
}

fn write_port(port: u16, value: u8) {
    // SAFETY: the ports have no effect on memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
}
