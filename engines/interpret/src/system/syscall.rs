//! SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM vol. 2B and 4.8.7 of vol. 3A; APM vol. 2, 6.1).

use crate::cpu::{Cpu, RIP, seg};
use crate::exit::{Exit, Fault, Step};
use crate::mmu::is_canonical;
use crate::op::Op;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::{Platform, Segment, Trap};
use ambos_x86::gpr::{R11, RCX, RDX, RSP};
use ambos_x86::segment::attr;
use ambos_x86::{Efer, RFlags};

/// Attributes of the flat segments that these instructions load.
const FLAT: u32 = attr::P | attr::S | attr::READ_WRITE | attr::ACCESSED | attr::G;

/// Attributes of the flat 64-bit code segment at level 0.
pub const FLAT_CODE64: u32 = FLAT | attr::CODE | attr::L;
/// Attributes of the flat stack segment at level 0.
pub const FLAT_STACK: u32 = FLAT | attr::DB;
/// Flags that SYSRET takes from R11.
pub const SYSRET_FLAGS: u64 = 0x3c_7fd7;

fn flat_code(selector: u16, dpl: u32, long: bool) -> Segment {
    let size = if long { attr::L } else { attr::DB };
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes: FLAT | attr::CODE | dpl << attr::DPL_SHIFT | size,
    }
}

fn flat_stack(selector: u16, dpl: u32) -> Segment {
    let attributes = FLAT_STACK | dpl << attr::DPL_SHIFT;
    Segment { selector, base: 0, limit: u32::MAX, attributes }
}

/// SYSCALL.
pub fn syscall(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    if !cpu.efer().contains(Efer::SCE) || cpu.real_mode() {
        return Err(Fault::UD.into());
    }
    if cpu.supervised.on {
        return cpu.trap_after(platform, op, Trap::SystemCall);
    }
    platform.ledger().count(Intercept::Privileged(Privileged::SystemCall));
    let next = op.next_rip(cpu);
    let selector = (cpu.msrs.star >> 32) as u16 & 0xfffc;
    if cpu.long_mode() {
        let target = if cpu.is_64bit() { cpu.msrs.lstar } else { cpu.msrs.cstar };
        cpu.native.gpr[RCX] = next;
        cpu.native.gpr[R11] = cpu.native.rflags & !RFlags::RF.bits();
        cpu.native.rflags = cpu.native.rflags & !cpu.msrs.fmask & !RFlags::RF.bits() | 2;
        cpu.native.gpr[RIP] = target;
        cpu.segments[seg::CS] = flat_code(selector, 0, true);
    } else {
        cpu.native.gpr[RCX] = next;
        cpu.native.rflags &= !(RFlags::IF | RFlags::RF | RFlags::VM).bits();
        cpu.native.gpr[RIP] = cpu.msrs.star & 0xffff_ffff;
        cpu.segments[seg::CS] = flat_code(selector, 0, false);
    }
    cpu.segments[seg::SS] = flat_stack(selector.wrapping_add(8), 0);
    cpu.update_mode();
    Err(Exit::Jump)
}

/// SYSRET; to 64-bit code where [`Op::size`] is 8.
pub fn sysret(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    if !cpu.efer().contains(Efer::SCE) {
        return Err(Fault::UD.into());
    }
    if cpu.mode.cpl != 0 || cpu.real_mode() {
        return Err(Fault::GP0.into());
    }
    platform.ledger().count(Intercept::Privileged(Privileged::SystemReturn));
    let base = (cpu.msrs.star >> 48) as u16;
    let target = cpu.native.gpr[RCX];
    let to_64bit = op.size == 8;
    if to_64bit && !is_canonical(target) {
        return Err(Fault::GP0.into());
    }
    if cpu.long_mode() {
        cpu.native.rflags = cpu.native.gpr[R11] & SYSRET_FLAGS | 2;
    } else {
        cpu.native.rflags |= RFlags::IF.bits();
    }
    cpu.segments[seg::CS] = if to_64bit {
        flat_code(base.wrapping_add(16) | 3, 3, true)
    } else {
        flat_code(base | 3, 3, false)
    };
    cpu.segments[seg::SS] = flat_stack(base.wrapping_add(8) | 3, 3);
    cpu.native.gpr[RIP] = if to_64bit { target } else { target & 0xffff_ffff };
    cpu.update_mode();
    Err(Exit::Jump)
}

/// SYSENTER.
pub fn sysenter(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    if cpu.supervised.on {
        return cpu.trap_after(platform, op, Trap::SystemEnter);
    }
    if cpu.real_mode() || cpu.msrs.sysenter_cs & 0xfffc == 0 {
        return Err(Fault::GP0.into());
    }
    platform.ledger().count(Intercept::Privileged(Privileged::SystemCall));
    let selector = cpu.msrs.sysenter_cs as u16 & 0xfffc;
    let long = cpu.long_mode();
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.native.rflags &= !(RFlags::IF | RFlags::VM | RFlags::RF).bits();
    cpu.segments[seg::CS] = flat_code(selector, 0, long);
    cpu.segments[seg::SS] = flat_stack(selector.wrapping_add(8), 0);
    cpu.native.gpr[RSP] = cpu.msrs.sysenter_esp & mask;
    cpu.native.gpr[RIP] = cpu.msrs.sysenter_eip & mask;
    cpu.update_mode();
    Err(Exit::Jump)
}

/// SYSEXIT; to 64-bit code where [`Op::size`] is 8.
pub fn sysexit(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    if cpu.real_mode() || cpu.mode.cpl != 0 || cpu.msrs.sysenter_cs & 0xfffc == 0 {
        return Err(Fault::GP0.into());
    }
    platform.ledger().count(Intercept::Privileged(Privileged::SystemReturn));
    let base = cpu.msrs.sysenter_cs as u16;
    let (rip, rsp) = (cpu.native.gpr[RDX], cpu.native.gpr[RCX]);
    let to_64bit = op.size == 8;
    if to_64bit && !(is_canonical(rip) && is_canonical(rsp)) {
        return Err(Fault::GP0.into());
    }
    let (offset, mask) = if to_64bit { (32, u64::MAX) } else { (16, 0xffff_ffff) };
    cpu.segments[seg::CS] = flat_code(base.wrapping_add(offset) | 3, 3, to_64bit);
    cpu.segments[seg::SS] = flat_stack(base.wrapping_add(offset + 8) | 3, 3);
    cpu.native.gpr[RIP] = rip & mask;
    cpu.native.gpr[RSP] = rsp & mask;
    cpu.update_mode();
    Err(Exit::Jump)
}
