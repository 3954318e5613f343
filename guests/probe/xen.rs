//! The operations in a paravirtualized domain: the same tasks, by hypercall (Xen's public headers).

#![expect(unsafe_code, reason = "hypercalls, and pages shared with the host")]

use crate::entry::{Addresses, addresses, interrupt_count};
use crate::measure::{measure, ticks};
use core::arch::asm;

const SET_TRAP_TABLE: u64 = 0;
const MMU_UPDATE: u64 = 1;
const SET_CALLBACKS: u64 = 4;
const UPDATE_VA_MAPPING: u64 = 14;
const SET_TIMER: u64 = 15;
const XEN_VERSION: u64 = 17;
const CONSOLE_IO: u64 = 18;
const MMUEXT: u64 = 26;
const SCHED: u64 = 29;
const EVENT_CHANNEL: u64 = 32;

const NEW_BASE: u32 = 5;
const BIND_IPI: u64 = 7;
const SEND: u64 = 4;
const SHUTDOWN: u64 = 2;
const DOMAIN_SELF: u64 = 0x7ff0;
const BREAKPOINT: u8 = 3;
/// The code selector that the host gives a 64-bit kernel.
const CODE: u16 = 0xe033;
/// Present, writable, user, accessed, dirty.
const PAGE: u64 = 0x67;
const INVALIDATE: u64 = 2;
/// Where the host maps its table of frames by machine frame.
const FRAMES: u64 = 0xffff_8000_0000_0000;

/// What of the start information is used (`struct start_info`).
const SHARED_INFO: u64 = 40;
const PT_BASE: u64 = 88;
const MFN_LIST: u64 = 104;
const MASK: u64 = 1;
const EVENT_MASKS: u64 = 2560;

/// Runs all operations and ends the domain; `start` is its start information.
pub(crate) extern "C" fn main(start: u64) -> ! {
    let places = addresses();
    let list = read64(start + MFN_LIST);
    let machine = |address: u64| read64(list + (address >> 12) * 8);
    let root = read64(start + PT_BASE);
    share(&places, read64(start + SHARED_INFO));
    handle(&places);

    let top = machine(root);
    measure("address-space", print, || {
        let operation = [u64::from(NEW_BASE), top, 0];
        call(MMUEXT, [(&raw const operation) as u64, 1, 0, DOMAIN_SELF]);
    });
    let entry = page_entry(root, places.spare_page);
    let value = machine(places.spare_page) << 12 | PAGE;
    measure("page-table-entry", print, || {
        let update = [entry, value];
        call(MMU_UPDATE, [(&raw const update) as u64, 1, 0, DOMAIN_SELF]);
    });
    measure("interrupt-mask", print, || {
        write8(places.shared_page + MASK, 0);
        write8(places.shared_page + MASK, 1);
    });
    measure("trap", print, breakpoint);
    measure("timer-program", print, || {
        call(SET_TIMER, [ticks() + (1 << 50), 0, 0, 0]);
    });
    if let Some(port) = event_port(&places) {
        write8(places.shared_page + MASK, 0);
        measure("event", print, || {
            let before = interrupt_count();
            call(EVENT_CHANNEL, [SEND, (&raw const port) as u64, 0, 0]);
            while interrupt_count() == before {}
        });
        write8(places.shared_page + MASK, 1);
    }
    measure("monitor-call", print, || {
        call(XEN_VERSION, [0; 4]);
    });
    measure("cpuid", print, cpuid);
    let power_off = 0u32;
    loop {
        call(SCHED, [SHUTDOWN, (&raw const power_off) as u64, 0, 0]);
    }
}

fn print(bytes: &[u8]) {
    call(CONSOLE_IO, [0, bytes.len() as u64, bytes.as_ptr() as u64, 0]);
}

/// Maps the page that is shared with the host.
fn share(places: &Addresses, machine_address: u64) {
    call(UPDATE_VA_MAPPING, [places.shared_page, machine_address | PAGE, INVALIDATE, 0]);
    write8(places.shared_page + MASK, 1);
}

/// Names the handlers of traps and events.
fn handle(places: &Addresses) {
    // `struct trap_info`: vector, flags, selector, address; the list ends with an address of zero.
    let trap = u64::from(BREAKPOINT) | 3 << 8 | u64::from(CODE) << 16;
    let traps = [trap, places.xen_trap, 0, 0];
    call(SET_TRAP_TABLE, [(&raw const traps) as u64, 0, 0, 0]);
    call(SET_CALLBACKS, [places.xen_event, places.xen_failsafe, 0, 0]);
}

/// A port by which the domain sends events to itself.
fn event_port(places: &Addresses) -> Option<u32> {
    // `struct evtchn_bind_ipi`: vCPU, then the port.
    let mut bind = [0u32, 0];
    if call(EVENT_CHANNEL, [BIND_IPI, (&raw mut bind) as u64, 0, 0]) != 0 {
        return None;
    }
    let port = read32((&raw const bind) as u64 + 4);
    let mask = read64(places.shared_page + EVENT_MASKS);
    write64(places.shared_page + EVENT_MASKS, mask & !(1 << (port & 63)));
    Some(port)
}

/// The machine address of the entry that maps `address`.
fn page_entry(root: u64, address: u64) -> u64 {
    let mut table = root;
    let mut shift = 39;
    loop {
        let entry = read64(table + (address >> shift & 511) * 8);
        let machine = entry >> 12 & 0xff_ffff_ffff;
        shift -= 9;
        if shift == 12 {
            return machine << 12 | (address >> 12 & 511) * 8;
        }
        table = read64(FRAMES + machine * 8) << 12;
    }
}

fn read64(address: u64) -> u64 {
    // SAFETY: callers pass aligned addresses in pages that the host has mapped.
    unsafe { (address as *const u64).read_volatile() }
}

fn read32(address: u64) -> u32 {
    // SAFETY: callers pass aligned addresses in pages that the host has mapped.
    unsafe { (address as *const u32).read_volatile() }
}

fn write64(address: u64, value: u64) {
    // SAFETY: callers pass aligned addresses in the shared page.
    unsafe { (address as *mut u64).write_volatile(value) }
}

fn write8(address: u64, value: u8) {
    // SAFETY: callers pass addresses in the shared page.
    unsafe { (address as *mut u8).write_volatile(value) }
}

fn call(number: u64, [a, b, c, d]: [u64; 4]) -> i64 {
    let result: i64;
    // SAFETY: the host touches only memory that the arguments name; callers pass addresses of live
    // objects.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, inlateout("rdi") a => _,
             inlateout("rsi") b => _, inlateout("rdx") c => _, inlateout("r10") d => _,
             lateout("rcx") _, lateout("r11") _, lateout("r8") _, lateout("r9") _);
    }
    result
}

fn breakpoint() {
    // SAFETY: the handler returns; the host may lose what a system call loses.
    unsafe { asm!("int3", out("rcx") _, out("r11") _) };
}

fn cpuid() {
    // SAFETY: the prefix makes the host serve the instruction (public/arch-x86/xen.h).
    unsafe {
        asm!("push rbx", "ud2", ".ascii \"xen\"", "cpuid", "pop rbx",
             inlateout("eax") 1 => _, inlateout("ecx") 0 => _, lateout("edx") _);
    }
}
