//! CPU states that protocols start in, with the tables in memory that they rest on.

use super::{Boot, BootError};
use ambos_vcpu::{CpuState, Segment, TableRegister};
use ambos_x86::segment::{attr, system_type};
use ambos_x86::{Cr0, Cr4, Efer, PAGE_SIZE, gpr, paging};

/// Descriptors of 4 GiB from 0: code (64-bit), code (32-bit), data. The accessed bit is set, so
/// that loading them does not write to the table.
const CODE64: u64 = 0x00af_9b00_0000_ffff;
const CODE32: u64 = 0x00cf_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// A busy 32-bit TSS of 104 bytes at 0; nothing uses it.
const TSS: u64 = 0x0000_8b00_0000_0067;

/// Selectors of Linux's boot protocol; the other protocols leave the choice to us.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;

/// Bytes of stack that a kernel finds; it is meant to set up its own first thing.
const STACK_SIZE: u64 = PAGE_SIZE;

fn segment(selector: u16, descriptor: u64) -> Segment {
    let (base, limit, attributes) = ambos_x86::segment::decode(descriptor);
    Segment { selector, base, limit, attributes }
}

/// What both states have in common: flat segments, interrupts off, a small stack.
fn flat(boot: &mut Boot<'_>, code: u64, entry: u64) -> Result<CpuState, BootError> {
    let gdt = [0, 0, code, DATA, TSS].map(u64::to_le_bytes).concat();
    let gdt_address = boot.put_low("the segment descriptors", &gdt, 16)?;
    let stack = boot.put_low("the first stack", &[0; STACK_SIZE as usize], PAGE_SIZE)?;
    let mut state = CpuState::reset();
    state.rip = entry;
    state.gpr = [0; 16];
    state.gpr[gpr::RSP] = stack + STACK_SIZE - 16;
    let data = segment(DATA_SELECTOR, DATA);
    let segments = &mut state.segments;
    segments.cs = segment(CODE_SELECTOR, code);
    (segments.ds, segments.es, segments.ss) = (data, data, data);
    (segments.fs, segments.gs) = (data, data);
    segments.tr = segment(TSS_SELECTOR, TSS);
    segments.ldtr = Segment { attributes: attr::UNUSABLE | system_type::LDT, ..Segment::default() };
    state.gdtr = TableRegister { base: gdt_address, limit: (gdt.len() - 1) as u16 };
    state.idtr = TableRegister { base: 0, limit: 0 };
    Ok(state)
}

/// 32-bit protected mode without paging.
pub(super) fn protected(boot: &mut Boot<'_>, entry: u32) -> Result<CpuState, BootError> {
    let mut state = flat(boot, CODE32, entry.into())?;
    state.control.cr0 = (Cr0::PE | Cr0::ET).bits();
    Ok(state)
}

/// Long mode with the first 4 GiB mapped to themselves by 2 MiB pages.
pub(super) fn long(boot: &mut Boot<'_>, entry: u64) -> Result<CpuState, BootError> {
    const TABLE_ENTRIES: u64 = 512;
    const LARGE_PAGE: u64 = 2 << 20;
    const DIRECTORIES: u64 = 4;
    let mut state = flat(boot, CODE64, entry)?;
    let size = (2 + DIRECTORIES) * PAGE_SIZE;
    let tables = boot.layout.take_low(size, PAGE_SIZE).ok_or(BootError::NoRoom {
        what: "the first page tables",
        size,
        ram_mib: boot.ram.size() >> 20,
        advice: "give the guest more memory or link the kernel to above 1 MiB",
    })?;
    let link = paging::PRESENT | paging::WRITE;
    let mut bytes = vec![0; size as usize];
    let mut set = |index: u64, value: u64| {
        let at = (index * 8) as usize;
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    set(0, (tables + PAGE_SIZE) | link);
    for directory in 0..DIRECTORIES {
        set(TABLE_ENTRIES + directory, (tables + (2 + directory) * PAGE_SIZE) | link);
    }
    for page in 0..DIRECTORIES * TABLE_ENTRIES {
        set(2 * TABLE_ENTRIES + page, (page * LARGE_PAGE) | link | paging::PAGE_SIZE);
    }
    boot.write(tables, &bytes)?;
    state.control.cr0 = (Cr0::PE | Cr0::ET | Cr0::PG).bits();
    state.control.cr3 = tables;
    state.control.cr4 = Cr4::PAE.bits();
    state.control.efer = (Efer::LME | Efer::LMA).bits();
    Ok(state)
}
