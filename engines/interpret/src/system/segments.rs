//! Segment registers: limit checks and loading (SDM vol. 3A, chapters 3 and 5).

use crate::cpu::{Cpu, seg};
use crate::exec::operand::{Mem, Source};
use crate::exit::{Exit, Fault, Step};
use crate::op::Op;
use ambos_hostcode::Word;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::{Platform, Segment};
use ambos_x86::segment::{attr, decode};

/// A descriptor read from a descriptor table.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    /// The eight bytes.
    pub raw: u64,
    /// Where they are.
    pub linear: u64,
}

impl Descriptor {
    /// Attributes in the layout of [`attr`].
    pub fn attributes(self) -> u32 {
        (self.raw >> 40) as u32 & 0xf0ff
    }

    /// Descriptor privilege level.
    pub fn dpl(self) -> u8 {
        (self.attributes() >> attr::DPL_SHIFT & 3) as u8
    }

    /// Whether it describes a code or data segment.
    pub fn is_segment(self) -> bool {
        self.attributes() & attr::S != 0
    }

    /// Whether it describes a code segment.
    pub fn is_code(self) -> bool {
        self.attributes() & (attr::S | attr::CODE) == attr::S | attr::CODE
    }

    /// Whether it describes a conforming code segment.
    pub fn is_conforming(self) -> bool {
        self.is_code() && self.attributes() & attr::DOWN_CONFORMING != 0
    }

    /// Whether it is present.
    pub fn is_present(self) -> bool {
        self.attributes() & attr::P != 0
    }

    /// The segment that loading it with `selector` makes.
    pub fn segment(self, selector: u16) -> Segment {
        let (base, limit, attributes) = decode(self.raw);
        Segment { selector, base, limit, attributes }
    }
}

impl Cpu {
    /// The linear address of `size` bytes at `offset` of a segment, outside 64-bit mode.
    ///
    /// # Errors
    ///
    /// #GP(0), or #SS(0) for the stack segment, if the segment does not allow the access.
    pub fn segment_linear(
        &self,
        number: usize,
        offset: u64,
        size: u64,
        write: bool,
    ) -> Result<u64, Fault> {
        let segment = &self.segments[number % 6];
        let fault = if number == seg::SS { Fault::SS0 } else { Fault::GP0 };
        let attributes = segment.attributes;
        if attributes & attr::UNUSABLE != 0 {
            return Err(fault);
        }
        if !self.real_mode() {
            let code = attributes & attr::CODE != 0;
            let read_write = attributes & attr::READ_WRITE != 0;
            let allowed = if write { !code && read_write } else { !code || read_write };
            if !allowed {
                return Err(fault);
            }
        }
        let last = offset + (size - 1);
        let limit = u64::from(segment.limit);
        let expand_down =
            attributes & (attr::CODE | attr::DOWN_CONFORMING) == attr::DOWN_CONFORMING;
        let inside = if expand_down {
            let top = if attributes & attr::DB != 0 { 0xffff_ffff } else { 0xffff };
            offset > limit && last <= top
        } else {
            last <= limit
        };
        if !inside {
            return Err(fault);
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Reads a descriptor from the GDT or LDT.
    ///
    /// # Errors
    ///
    /// `outside` if the selector lies outside its table; faults of the read.
    pub fn read_descriptor(
        &mut self,
        platform: &mut dyn Platform,
        selector: u16,
        outside: Fault,
    ) -> Result<Descriptor, Exit> {
        let (base, limit) = if selector & 4 != 0 {
            if self.ldtr.attributes & attr::UNUSABLE != 0 || self.ldtr.selector & 0xfffc == 0 {
                return Err(outside.into());
            }
            (self.ldtr.base, self.ldtr.limit)
        } else {
            (self.gdtr.base, u32::from(self.gdtr.limit))
        };
        let index = u64::from(selector & 0xfff8);
        if index + 7 > u64::from(limit) {
            return Err(outside.into());
        }
        let linear = base.wrapping_add(index);
        let raw = self.load_system::<u64>(platform, linear)?;
        Ok(Descriptor { raw, linear })
    }

    /// Sets the accessed bit of a code or data segment's descriptor, in the table as well.
    ///
    /// # Errors
    ///
    /// Faults of the write.
    pub fn mark_accessed(
        &mut self,
        platform: &mut dyn Platform,
        descriptor: &mut Descriptor,
    ) -> Result<(), Exit> {
        if descriptor.attributes() & attr::ACCESSED == 0 {
            descriptor.raw |= u64::from(attr::ACCESSED) << 40;
            let byte = (descriptor.raw >> 40) as u8;
            self.store_system(platform, descriptor.linear.wrapping_add(5), byte)?;
        }
        Ok(())
    }

    /// Loads a data or stack segment register.
    ///
    /// # Errors
    ///
    /// #GP, #SS or #NP as the selector and descriptor deserve (SDM vol. 2, MOV).
    pub fn load_segment(
        &mut self,
        platform: &mut dyn Platform,
        number: usize,
        selector: u16,
    ) -> Result<(), Exit> {
        platform.ledger().count(Intercept::Privileged(Privileged::SegmentLoad));
        if self.real_mode() {
            let segment = &mut self.segments[number % 6];
            segment.selector = selector;
            segment.base = u64::from(selector) << 4;
            if number == seg::SS {
                segment.attributes &= !(3 << attr::DPL_SHIFT);
            }
            self.update_mode();
            return Ok(());
        }
        let (cpl, rpl) = (self.mode.cpl, (selector & 3) as u8);
        if selector & 0xfffc == 0 {
            if number == seg::SS && !(self.is_64bit() && cpl < 3 && rpl == cpl) {
                return Err(Fault::GP0.into());
            }
            self.segments[number % 6] = Segment {
                selector,
                base: 0,
                limit: 0,
                attributes: attr::UNUSABLE | u32::from(cpl) << attr::DPL_SHIFT,
            };
            self.update_mode();
            return Ok(());
        }
        let fault = Fault::gp(selector);
        let mut descriptor = self.read_descriptor(platform, selector, fault)?;
        let attributes = descriptor.attributes();
        if !descriptor.is_segment() {
            return Err(fault.into());
        }
        let allowed = if number == seg::SS {
            let writable = attributes & (attr::CODE | attr::READ_WRITE) == attr::READ_WRITE;
            writable && rpl == cpl && descriptor.dpl() == cpl
        } else {
            let readable = attributes & (attr::CODE | attr::READ_WRITE) != attr::CODE;
            readable
                && (descriptor.is_conforming()
                    || (rpl <= descriptor.dpl() && cpl <= descriptor.dpl()))
        };
        if !allowed {
            return Err(fault.into());
        }
        if !descriptor.is_present() {
            let fault = if number == seg::SS { Fault::ss(selector) } else { Fault::np(selector) };
            return Err(fault.into());
        }
        self.mark_accessed(platform, &mut descriptor)?;
        self.segments[number % 6] = descriptor.segment(selector);
        self.update_mode();
        Ok(())
    }

    /// Inhibits interrupts for one instruction.
    pub fn begin_shadow(&mut self) {
        self.interrupt_shadow = true;
        self.update_slow();
    }
}

/// Ends an instruction that loaded a segment register: SS inhibits interrupts.
fn after_load(cpu: &mut Cpu, number: usize) -> Step {
    if number == seg::SS {
        cpu.begin_shadow();
        return Err(Exit::Next);
    }
    // Code size may not have changed, but stack size and bases may have.
    Ok(())
}

/// MOV to a segment register, from a register.
pub fn mov_from_reg(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let selector = cpu.reg::<u16>(op.src);
    cpu.load_segment(platform, usize::from(op.dst), selector)?;
    after_load(cpu, usize::from(op.dst))
}

/// MOV to a segment register, from memory.
pub fn mov_from_mem(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let selector = Mem::read::<u16>(cpu, platform, op)?;
    cpu.load_segment(platform, usize::from(op.dst), selector)?;
    after_load(cpu, usize::from(op.dst))
}

/// MOV from a segment register to a register.
pub fn mov_to_reg(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let selector = cpu.segments[usize::from(op.src) % 6].selector;
    match op.size {
        2 => cpu.set_reg(op.dst, selector),
        4 => cpu.set_reg(op.dst, u32::from(selector)),
        _ => cpu.set_reg(op.dst, u64::from(selector)),
    }
    Ok(())
}

/// MOV from a segment register to memory.
pub fn mov_to_mem(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let linear = op.linear(cpu, 2, true)?;
    let selector = cpu.segments[usize::from(op.src) % 6].selector;
    cpu.store(platform, linear, selector)
}

/// PUSH of a segment register.
pub fn push(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let selector = cpu.segments[usize::from(op.src) % 6].selector;
    match op.size {
        2 => cpu.push(platform, selector),
        4 => cpu.push(platform, u32::from(selector)),
        _ => cpu.push(platform, u64::from(selector)),
    }
}

/// POP of a segment register.
pub fn pop(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let selector = cpu.peek::<u16>(platform, 0)?;
    let number = usize::from(op.dst);
    // The stack pointer moves by the old stack's size.
    let (before, size) = (cpu.native.gpr[ambos_x86::gpr::RSP], u64::from(op.size));
    cpu.release_stack(size);
    if let Err(exit) = cpu.load_segment(platform, number, selector) {
        cpu.native.gpr[ambos_x86::gpr::RSP] = before;
        return Err(exit);
    }
    after_load(cpu, number)
}

/// LDS, LES, LFS, LGS, LSS: the segment is [`Op::src`].
pub fn load_far_pointer(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let size = usize::from(op.size);
    let linear = op.linear(cpu, size + 2, false)?;
    let offset = match op.size {
        2 => u64::from(cpu.load::<u16>(platform, linear)?),
        4 => u64::from(cpu.load::<u32>(platform, linear)?),
        _ => cpu.load::<u64>(platform, linear)?,
    };
    let selector = cpu.load::<u16>(platform, linear.wrapping_add(size as u64))?;
    cpu.load_segment(platform, usize::from(op.src), selector)?;
    match op.size {
        2 => cpu.set_reg(op.dst, u16::from_u64(offset)),
        4 => cpu.set_reg(op.dst, u32::from_u64(offset)),
        _ => cpu.set_reg(op.dst, offset),
    }
    after_load(cpu, usize::from(op.src))
}
