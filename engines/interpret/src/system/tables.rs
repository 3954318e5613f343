//! Descriptor-table registers and the instructions that inspect descriptors.

use crate::cpu::Cpu;
use crate::exec::operand::{Mem, Source};
use crate::exit::{Exit, Fault, Step};
use crate::op::Op;
use crate::system::segments::Descriptor;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::{Platform, Segment, TableRegister};
use ambos_x86::segment::{attr, decode, system_type};
use ambos_x86::{Cr4, RFlags};

impl Cpu {
    /// Fails in user mode while UMIP is on.
    ///
    /// # Errors
    ///
    /// #GP(0).
    pub(crate) fn check_umip(&self) -> Result<(), Fault> {
        if self.cr4().contains(Cr4::UMIP) && self.mode.cpl > 0 {
            return Err(Fault::GP0);
        }
        Ok(())
    }

    /// Reads the upper half of a 16-byte system descriptor and makes a segment of both.
    fn system_segment(
        &mut self,
        platform: &mut dyn Platform,
        descriptor: Descriptor,
        selector: u16,
    ) -> Result<Segment, Exit> {
        let (mut base, limit, attributes) = decode(descriptor.raw);
        if self.long_mode() {
            let upper = self.load_system::<u64>(platform, descriptor.linear.wrapping_add(8))?;
            base |= upper << 32;
            if upper >> 40 & 0x1f != 0 {
                return Err(Fault::gp(selector).into());
            }
            Cpu::check_canonical(base)?;
        }
        Ok(Segment { selector, base, limit, attributes })
    }
}

/// LGDT, or LIDT where the immediate is one.
pub fn load_table(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    cpu.require_supervisor()?;
    platform.ledger().count(Intercept::Privileged(Privileged::DescriptorTable));
    let size = if cpu.is_64bit() { 10 } else { 6 };
    let linear = op.linear(cpu, size, false)?;
    let limit = cpu.load::<u16>(platform, linear)?;
    let base = if cpu.is_64bit() {
        cpu.load::<u64>(platform, linear.wrapping_add(2))?
    } else {
        let base = u64::from(cpu.load::<u32>(platform, linear.wrapping_add(2))?);
        if op.size == 2 { base & 0xff_ffff } else { base }
    };
    if cpu.is_64bit() {
        Cpu::check_canonical(base)?;
    }
    let register = TableRegister { base, limit };
    if op.imm == 1 {
        cpu.idtr = register;
    } else {
        cpu.gdtr = register;
    }
    Ok(())
}

/// SGDT, or SIDT where the immediate is one.
pub fn store_table(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    cpu.check_umip()?;
    platform.ledger().count(Intercept::Privileged(Privileged::DescriptorTable));
    let register = if op.imm == 1 { cpu.idtr } else { cpu.gdtr };
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&register.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&register.base.to_le_bytes());
    let size = if cpu.is_64bit() { 10 } else { 6 };
    let linear = op.linear(cpu, size, true)?;
    cpu.store_bytes(platform, linear, &bytes[..size])
}

/// The 16-bit operand of an instruction whose operand is memory where [`Op::rep`] is one.
fn selector_operand(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Result<u16, Exit> {
    if op.rep == 1 { Mem::read::<u16>(cpu, platform, op) } else { Ok(cpu.reg::<u16>(op.src)) }
}

/// LLDT.
pub fn lldt(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    if cpu.real_mode() {
        return Err(Fault::UD.into());
    }
    cpu.require_supervisor()?;
    platform.ledger().count(Intercept::Privileged(Privileged::DescriptorTable));
    let selector = selector_operand(cpu, platform, op)?;
    if selector & 0xfffc == 0 {
        cpu.ldtr = Segment { selector, base: 0, limit: 0, attributes: attr::UNUSABLE };
        return Ok(());
    }
    let fault = Fault::gp(selector);
    if selector & 4 != 0 {
        return Err(fault.into());
    }
    let descriptor = cpu.read_descriptor(platform, selector, fault)?;
    if descriptor.attributes() & 0x1f != system_type::LDT {
        return Err(fault.into());
    }
    if !descriptor.is_present() {
        return Err(Fault::np(selector).into());
    }
    cpu.ldtr = cpu.system_segment(platform, descriptor, selector)?;
    Ok(())
}

/// LTR.
pub fn ltr(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    if cpu.real_mode() {
        return Err(Fault::UD.into());
    }
    cpu.require_supervisor()?;
    platform.ledger().count(Intercept::Privileged(Privileged::DescriptorTable));
    let selector = selector_operand(cpu, platform, op)?;
    let fault = Fault::gp(selector);
    if selector & 0xfffc == 0 {
        return Err(Fault::GP0.into());
    }
    if selector & 4 != 0 {
        return Err(fault.into());
    }
    let mut descriptor = cpu.read_descriptor(platform, selector, fault)?;
    let kind = descriptor.attributes() & 0x1f;
    let known = kind == system_type::TSS_AVAILABLE
        || kind == system_type::TSS16_AVAILABLE && !cpu.long_mode();
    if !known {
        return Err(fault.into());
    }
    if !descriptor.is_present() {
        return Err(Fault::np(selector).into());
    }
    descriptor.raw |= 2 << 40;
    let segment = cpu.system_segment(platform, descriptor, selector)?;
    cpu.store_system(platform, descriptor.linear.wrapping_add(5), (descriptor.raw >> 40) as u8)?;
    cpu.tr = segment;
    Ok(())
}

/// STR, or SLDT where the immediate is one.
pub fn store_selector(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    if cpu.real_mode() {
        return Err(Fault::UD.into());
    }
    cpu.check_umip()?;
    let selector = if op.imm == 1 { cpu.ldtr.selector } else { cpu.tr.selector };
    if op.rep == 1 {
        let linear = op.linear(cpu, 2, true)?;
        return cpu.store(platform, linear, selector);
    }
    match op.size {
        2 => cpu.set_reg(op.dst, selector),
        4 => cpu.set_reg(op.dst, u32::from(selector)),
        _ => cpu.set_reg(op.dst, u64::from(selector)),
    }
    Ok(())
}

/// What LAR, LSL, VERR and VERW ask of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Query {
    Access,
    Limit,
    Read,
    Write,
}

/// The descriptor of `selector` if the current privilege level may see it for `query`.
fn visible(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    selector: u16,
    query: Query,
) -> Result<Option<Descriptor>, Exit> {
    if selector & 0xfffc == 0 {
        return Ok(None);
    }
    let descriptor = match cpu.read_descriptor(platform, selector, Fault::gp(selector)) {
        Ok(descriptor) => descriptor,
        Err(Exit::Fault(fault)) if fault == Fault::gp(selector) => return Ok(None),
        Err(exit) => return Err(exit),
    };
    let attributes = descriptor.attributes();
    let privileged = descriptor.dpl() >= cpu.mode.cpl && descriptor.dpl() >= (selector & 3) as u8;
    if !descriptor.is_segment() {
        let long = cpu.long_mode();
        let kind_ok = match (query, attributes & 0xf) {
            (Query::Read | Query::Write, _) => false,
            (_, system_type::LDT | system_type::TSS_AVAILABLE | system_type::TSS_BUSY) => true,
            (_, system_type::TSS16_AVAILABLE | system_type::TSS16_BUSY) => !long,
            (Query::Access, system_type::CALL_GATE) => true,
            (Query::Access, system_type::CALL_GATE16 | system_type::TASK_GATE) => !long,
            _ => false,
        };
        return Ok((kind_ok && privileged).then_some(descriptor));
    }
    let permitted = match query {
        Query::Access | Query::Limit => true,
        Query::Read => attributes & (attr::CODE | attr::READ_WRITE) != attr::CODE,
        Query::Write => attributes & (attr::CODE | attr::READ_WRITE) == attr::READ_WRITE,
    };
    Ok((permitted && (descriptor.is_conforming() || privileged)).then_some(descriptor))
}

/// LAR (immediate 0), LSL (1), VERR (2), VERW (3).
pub fn inspect(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    if cpu.real_mode() {
        return Err(Fault::UD.into());
    }
    let query = match op.imm {
        0 => Query::Access,
        1 => Query::Limit,
        2 => Query::Read,
        _ => Query::Write,
    };
    let selector = selector_operand(cpu, platform, op)?;
    let found = visible(cpu, platform, selector, query)?;
    let zf = RFlags::ZF.bits();
    cpu.native.rflags = cpu.native.rflags & !zf | if found.is_some() { zf } else { 0 };
    let Some(descriptor) = found else { return Ok(()) };
    let value = match query {
        Query::Access => (descriptor.raw >> 32) as u32 & 0x00ff_ff00,
        Query::Limit => decode(descriptor.raw).1,
        Query::Read | Query::Write => return Ok(()),
    };
    match op.size {
        2 => cpu.set_reg(op.dst, value as u16),
        4 => cpu.set_reg(op.dst, value),
        _ => cpu.set_reg(op.dst, u64::from(value)),
    }
    Ok(())
}
