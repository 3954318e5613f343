//! MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS, with and without REP.
//!
//! Repeated instructions work on as many elements as lie in one page of each operand by executing
//! the host's own string instruction there, then offer interrupts a chance and run again: what an
//! interrupted REP leaves in the registers is architectural.

use super::operand::by_size;
use crate::cpu::{Cpu, seg};
use crate::exit::{Exit, Step};
use crate::mmu::Tlb;
use crate::op::{Handler, Op};
use ambos_hostcode::mem::{self, Cell};
use ambos_vcpu::{Platform, PortWidth};
use ambos_x86::RFlags;
use ambos_x86::gpr::{RAX, RCX, RDI, RDX, RSI};

/// [`Op::rep`]: no prefix.
pub const REP_NONE: u8 = 0;
/// [`Op::rep`]: REP or REPE.
pub const REP_E: u8 = 1;
/// [`Op::rep`]: REPNE.
pub const REP_NE: u8 = 2;

/// Elements moved one by one (devices, page crossings) before interrupts get a chance.
const SLOW_ELEMENTS: u64 = 64;

/// The address and count registers of a string instruction, by address size.
struct Cursor {
    mask: u64,
    backward: bool,
    size: u64,
}

impl Cursor {
    fn new(cpu: &Cpu, op: &Op, size: usize) -> Self {
        let backward = cpu.rflags().contains(RFlags::DF);
        Self { mask: op.address_mask, backward, size: size as u64 }
    }

    fn get(&self, cpu: &Cpu, register: usize) -> u64 {
        cpu.native.gpr[register] & self.mask
    }

    fn set(&self, cpu: &mut Cpu, register: usize, value: u64) {
        let slot = &mut cpu.native.gpr[register];
        // A 32-bit register write clears the upper half, a 16-bit one keeps the rest.
        *slot =
            if self.mask == 0xffff { *slot & !0xffff | value & 0xffff } else { value & self.mask };
    }

    /// Moves a pointer register over `count` elements.
    fn step(&self, cpu: &mut Cpu, register: usize, count: u64) {
        let distance = count.wrapping_mul(self.size);
        let value = cpu.native.gpr[register];
        let value =
            if self.backward { value.wrapping_sub(distance) } else { value.wrapping_add(distance) };
        self.set(cpu, register, value);
    }

    /// How many elements starting at `linear` lie in its page entirely; zero if the first one
    /// crosses.
    fn in_page(&self, linear: u64) -> u64 {
        let offset = linear & 0xfff;
        if offset + self.size > 0x1000 {
            0
        } else if self.backward {
            offset / self.size + 1
        } else {
            (0x1000 - offset) / self.size
        }
    }

    /// How many elements fit before the offset register wraps at the address size.
    fn before_wrap(&self, offset: u64) -> u64 {
        if self.mask == u64::MAX {
            u64::MAX
        } else if self.backward {
            offset / self.size + 1
        } else {
            ((self.mask - offset) / self.size).max(1)
        }
    }
}

fn source_linear<W: Cell>(cpu: &Cpu, op: &Op, offset: u64) -> Result<u64, Exit> {
    op.linear_at(cpu, offset, W::SIZE, false)
}

/// The destination is always in ES.
fn destination_linear<W: Cell>(cpu: &Cpu, op: &Op, offset: u64, write: bool) -> Result<u64, Exit> {
    if op.checked {
        return Ok(cpu.segment_linear(seg::ES, offset, W::SIZE as u64, write)?);
    }
    Ok(offset)
}

/// Whether elements may be worked on many at a time: no segment limits, no alignment checks, nobody
/// who watches each of them.
fn in_bulk(cpu: &Cpu, op: &Op) -> bool {
    !op.checked && cpu.mmu_index != Tlb::USER_ALIGNED && !cpu.watches_each_step()
}

/// How many elements to move one by one before interrupts and traps get a chance.
fn slow_elements(cpu: &Cpu) -> u64 {
    if cpu.watches_each_step() { 1 } else { SLOW_ELEMENTS }
}

/// Ends one round of a repeated instruction.
fn again(cpu: &mut Cpu, cursor: &Cursor, left: u64) -> Step {
    cursor.set(cpu, RCX, left);
    if left == 0 { Ok(()) } else { Err(Exit::Again) }
}

/// Picks the handler of MOVS.
pub fn movs(size: u8) -> Handler {
    by_size!(size, move_string)
}

fn move_string<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let cursor = Cursor::new(cpu, op, W::SIZE);
    if op.rep == REP_NONE {
        return move_element::<W>(cpu, platform, op, &cursor);
    }
    let count = cursor.get(cpu, RCX);
    if count == 0 {
        return Ok(());
    }
    let (from_offset, to_offset) = (cursor.get(cpu, RSI), cursor.get(cpu, RDI));
    let from = source_linear::<W>(cpu, op, from_offset)?;
    let to = destination_linear::<W>(cpu, op, to_offset, true)?;
    let wrap = cursor.before_wrap(from_offset).min(cursor.before_wrap(to_offset));
    let chunk = count.min(cursor.in_page(from)).min(cursor.in_page(to)).min(wrap);
    if chunk > 1 && in_bulk(cpu, op) {
        let source = cpu.readable_in_place(platform, from, W::SIZE)?;
        let target = writable_page(cpu, platform, to, &cursor, chunk)?;
        if let (Some(source), Some(target)) = (source, target) {
            #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
            // SAFETY: both elements are in mapped RAM pages (the target's writable) and `chunk`
            // elements stay within them.
            unsafe {
                mem::string_copy(source, target, chunk as usize, W::SIZE, cursor.backward);
            }
            cursor.step(cpu, RSI, chunk);
            cursor.step(cpu, RDI, chunk);
            return again(cpu, &cursor, count - chunk);
        }
    }
    let mut left = count;
    for _ in 0..count.min(slow_elements(cpu)) {
        if left != count {
            cursor.set(cpu, RCX, left);
        }
        move_element::<W>(cpu, platform, op, &cursor)?;
        left -= 1;
    }
    again(cpu, &cursor, left)
}

/// The host address of the first of `chunk` elements to write, having told the code cache about
/// all of them.
fn writable_page(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    linear: u64,
    cursor: &Cursor,
    chunk: u64,
) -> Result<Option<usize>, Exit> {
    // The whole range is in one page: looking at its lowest address with its length covers it.
    let length = chunk * cursor.size;
    let back = if cursor.backward { length - cursor.size } else { 0 };
    // A fault is the first element's.
    if cpu.writable_in_place(platform, linear, cursor.size as usize)?.is_none() {
        return Ok(None);
    }
    let host = cpu.writable_in_place(platform, linear - back, length as usize)?;
    Ok(host.map(|host| host + back as usize))
}

fn move_element<W: Cell>(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
    cursor: &Cursor,
) -> Step {
    let from = source_linear::<W>(cpu, op, cursor.get(cpu, RSI))?;
    let to = destination_linear::<W>(cpu, op, cursor.get(cpu, RDI), true)?;
    let value = cpu.load::<W>(platform, from)?;
    cpu.store(platform, to, value)?;
    cursor.step(cpu, RSI, 1);
    cursor.step(cpu, RDI, 1);
    Ok(())
}

/// Picks the handler of STOS.
pub fn stos(size: u8) -> Handler {
    by_size!(size, store_string)
}

fn store_string<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let cursor = Cursor::new(cpu, op, W::SIZE);
    let count = if op.rep == REP_NONE { 1 } else { cursor.get(cpu, RCX) };
    if count == 0 {
        return Ok(());
    }
    let value = cpu.native.gpr[RAX];
    let to_offset = cursor.get(cpu, RDI);
    let to = destination_linear::<W>(cpu, op, to_offset, true)?;
    let chunk = count.min(cursor.in_page(to)).min(cursor.before_wrap(to_offset));
    if chunk > 1
        && in_bulk(cpu, op)
        && let Some(target) = writable_page(cpu, platform, to, &cursor, chunk)?
    {
        #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
        // SAFETY: the elements lie in one mapped, writable page.
        unsafe {
            mem::string_fill(target, value, chunk as usize, W::SIZE, cursor.backward);
        }
        cursor.step(cpu, RDI, chunk);
        return again(cpu, &cursor, count - chunk);
    }
    let mut left = count;
    for _ in 0..count.min(slow_elements(cpu)) {
        if left != count {
            cursor.set(cpu, RCX, left);
        }
        let to = destination_linear::<W>(cpu, op, cursor.get(cpu, RDI), true)?;
        cpu.store(platform, to, W::from_u64(value))?;
        cursor.step(cpu, RDI, 1);
        left -= 1;
    }
    if op.rep == REP_NONE { Ok(()) } else { again(cpu, &cursor, left) }
}

/// Picks the handler of LODS.
pub fn lods(size: u8) -> Handler {
    by_size!(size, load_string)
}

fn load_string<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let cursor = Cursor::new(cpu, op, W::SIZE);
    let count = if op.rep == REP_NONE { 1 } else { cursor.get(cpu, RCX) };
    if count == 0 {
        return Ok(());
    }
    let from = source_linear::<W>(cpu, op, cursor.get(cpu, RSI))?;
    let value = cpu.load::<W>(platform, from)?;
    cpu.set_reg(RAX as u8, value);
    cursor.step(cpu, RSI, 1);
    if op.rep == REP_NONE { Ok(()) } else { again(cpu, &cursor, count - 1) }
}

/// Picks the handler of CMPS.
pub fn cmps(size: u8) -> Handler {
    by_size!(size, compare_strings)
}

fn compare_strings<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let cursor = Cursor::new(cpu, op, W::SIZE);
    let count = if op.rep == REP_NONE { 1 } else { cursor.get(cpu, RCX) };
    if count == 0 {
        return Ok(());
    }
    let (from_offset, to_offset) = (cursor.get(cpu, RSI), cursor.get(cpu, RDI));
    let from = source_linear::<W>(cpu, op, from_offset)?;
    let to = destination_linear::<W>(cpu, op, to_offset, false)?;
    let wrap = cursor.before_wrap(from_offset).min(cursor.before_wrap(to_offset));
    let chunk = count.min(cursor.in_page(from)).min(cursor.in_page(to)).min(wrap);
    if chunk > 1 && in_bulk(cpu, op) {
        let right = cpu.readable_in_place(platform, to, W::SIZE)?;
        let left = cpu.readable_in_place(platform, from, W::SIZE)?;
        if let (Some(left), Some(right)) = (left, right) {
            #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
            // SAFETY: `chunk` elements from both addresses lie in one mapped page each.
            let (rest, flags) = unsafe {
                mem::string_compare(
                    left,
                    right,
                    chunk as usize,
                    W::SIZE,
                    cursor.backward,
                    op.rep == REP_E,
                )
            };
            let done = chunk - rest as u64;
            cursor.step(cpu, RSI, done);
            cursor.step(cpu, RDI, done);
            return finish_compare(cpu, op, &cursor, count - done, flags);
        }
    }
    let b = cpu.load::<W>(platform, to)?;
    let a = cpu.load::<W>(platform, from)?;
    cursor.step(cpu, RSI, 1);
    cursor.step(cpu, RDI, 1);
    finish_compare(cpu, op, &cursor, count - 1, a.sub(b, 0).1)
}

/// Sets flags and count after a comparison and decides whether to go on.
fn finish_compare(cpu: &mut Cpu, op: &Op, cursor: &Cursor, left: u64, flags: u64) -> Step {
    cpu.set_flags(flags);
    if op.rep == REP_NONE {
        return Ok(());
    }
    cursor.set(cpu, RCX, left);
    let equal = flags & RFlags::ZF.bits() != 0;
    if left == 0 || equal != (op.rep == REP_E) { Ok(()) } else { Err(Exit::Again) }
}

/// Picks the handler of SCAS.
pub fn scas(size: u8) -> Handler {
    by_size!(size, scan_string)
}

fn scan_string<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let cursor = Cursor::new(cpu, op, W::SIZE);
    let count = if op.rep == REP_NONE { 1 } else { cursor.get(cpu, RCX) };
    if count == 0 {
        return Ok(());
    }
    let value = cpu.native.gpr[RAX];
    let offset = cursor.get(cpu, RDI);
    let at = destination_linear::<W>(cpu, op, offset, false)?;
    let chunk = count.min(cursor.in_page(at)).min(cursor.before_wrap(offset));
    if chunk > 1
        && in_bulk(cpu, op)
        && let Some(host) = cpu.readable_in_place(platform, at, W::SIZE)?
    {
        let equal = op.rep == REP_E;
        #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
        // SAFETY: `chunk` elements lie in one mapped page.
        let (rest, flags) = unsafe {
            mem::string_scan(host, value, chunk as usize, W::SIZE, cursor.backward, equal)
        };
        let done = chunk - rest as u64;
        cursor.step(cpu, RDI, done);
        return finish_compare(cpu, op, &cursor, count - done, flags);
    }
    let element = cpu.load::<W>(platform, at)?;
    cursor.step(cpu, RDI, 1);
    finish_compare(cpu, op, &cursor, count - 1, W::from_u64(value).sub(element, 0).1)
}

/// The port width of an element.
fn width<W: Cell>() -> PortWidth {
    match W::SIZE {
        1 => PortWidth::Byte,
        2 => PortWidth::Word,
        _ => PortWidth::Dword,
    }
}

/// Picks the handler of INS.
pub fn ins(size: u8) -> Handler {
    match size {
        1 => input_string::<u8>,
        2 => input_string::<u16>,
        _ => input_string::<u32>,
    }
}

fn input_string<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let cursor = Cursor::new(cpu, op, W::SIZE);
    let port = cpu.native.gpr[RDX] as u16;
    cpu.check_port(platform, port, W::SIZE)?;
    let count = if op.rep == REP_NONE { 1 } else { cursor.get(cpu, RCX) };
    if count == 0 {
        return Ok(());
    }
    let to = destination_linear::<W>(cpu, op, cursor.get(cpu, RDI), true)?;
    // The store must not fault after the port has been read.
    cpu.probe_write(platform, to, W::SIZE)?;
    let value = platform.port_read(port, width::<W>());
    cpu.note_access(platform);
    cpu.store(platform, to, W::from_u64(u64::from(value)))?;
    cursor.step(cpu, RDI, 1);
    if op.rep == REP_NONE { Ok(()) } else { again(cpu, &cursor, count - 1) }
}

/// Picks the handler of OUTS.
pub fn outs(size: u8) -> Handler {
    match size {
        1 => output_string::<u8>,
        2 => output_string::<u16>,
        _ => output_string::<u32>,
    }
}

fn output_string<W: Cell>(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let cursor = Cursor::new(cpu, op, W::SIZE);
    let port = cpu.native.gpr[RDX] as u16;
    cpu.check_port(platform, port, W::SIZE)?;
    let count = if op.rep == REP_NONE { 1 } else { cursor.get(cpu, RCX) };
    if count == 0 {
        return Ok(());
    }
    let from = source_linear::<W>(cpu, op, cursor.get(cpu, RSI))?;
    let value = cpu.load::<W>(platform, from)?;
    platform.port_write(port, width::<W>(), value.to_u64() as u32);
    cpu.note_access(platform);
    cursor.step(cpu, RSI, 1);
    if op.rep == REP_NONE { Ok(()) } else { again(cpu, &cursor, count - 1) }
}
