//! Far jumps, calls and returns (SDM vol. 2, JMP, CALL, RET).

use crate::cpu::{Cpu, RIP, seg};
use crate::exit::{Exit, Fault, Step};
use crate::mmu::is_canonical;
use crate::op::Op;
use crate::system::segments::Descriptor;
use crate::system::task::SwitchBy;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::Platform;
use ambos_x86::gpr;
use ambos_x86::segment::{attr, system_type};

/// The destination of a far transfer: memory pointer, or immediate in [`Op::imm`] (offset) and
/// [`Op::disp`] (selector).
fn destination(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
    memory: bool,
) -> Result<(u16, u64), Exit> {
    if !memory {
        return Ok((op.disp as u16, op.imm));
    }
    // An offset of eight bytes is Intel's (AMD's APM vol. 3, CALL (Far)).
    let size = if op.size == 8 && is_amd(platform) { 4 } else { usize::from(op.size) };
    let linear = op.linear(cpu, size + 2, false)?;
    let offset = match size {
        2 => u64::from(cpu.load::<u16>(platform, linear)?),
        4 => u64::from(cpu.load::<u32>(platform, linear)?),
        _ => cpu.load::<u64>(platform, linear)?,
    };
    let selector = cpu.load::<u16>(platform, linear.wrapping_add(size as u64))?;
    Ok((selector, offset))
}

fn is_amd(platform: &mut dyn Platform) -> bool {
    let [_, b, c, d] = platform.cpuid(0, 0);
    [b, d, c].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

/// JMP far through memory.
pub fn jump_mem(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let (selector, offset) = destination(cpu, platform, op, true)?;
    cpu.far_jump(platform, op, selector, offset)
}

/// JMP far to an immediate.
pub fn jump_imm(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let (selector, offset) = destination(cpu, platform, op, false)?;
    cpu.far_jump(platform, op, selector, offset)
}

/// CALL far through memory.
pub fn call_mem(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let (selector, offset) = destination(cpu, platform, op, true)?;
    cpu.far_call(platform, op, selector, offset)
}

/// CALL far to an immediate.
pub fn call_imm(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let (selector, offset) = destination(cpu, platform, op, false)?;
    cpu.far_call(platform, op, selector, offset)
}

/// RETF; [`Op::imm`] bytes are released after the return address.
pub fn ret(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    cpu.far_return(platform, op.size, op.imm)
}

/// A checked call gate.
struct CallGate {
    selector: u16,
    offset: u64,
    parameters: u64,
    size: u8,
}

impl Cpu {
    fn far_jump(
        &mut self,
        platform: &mut dyn Platform,
        op: &Op,
        selector: u16,
        offset: u64,
    ) -> Step {
        platform.ledger().count(Intercept::Privileged(Privileged::FarTransfer));
        if self.real_mode() {
            return self.real_transfer(selector, offset);
        }
        let descriptor = self.far_descriptor(platform, selector)?;
        if descriptor.is_segment() {
            return self.enter_code(platform, descriptor, selector, offset);
        }
        match descriptor.attributes() & 0xf {
            system_type::CALL_GATE | system_type::CALL_GATE16 => {
                let gate = self.call_gate(platform, selector, descriptor)?;
                let code = self.far_descriptor(platform, gate.selector)?;
                let privilege_ok = if code.is_conforming() {
                    code.dpl() <= self.mode.cpl
                } else {
                    code.dpl() == self.mode.cpl
                };
                if !code.is_code() || !privilege_ok {
                    return Err(Fault::gp(gate.selector).into());
                }
                self.enter_code(
                    platform,
                    code,
                    gate.selector & 0xfffc | u16::from(self.mode.cpl),
                    gate.offset,
                )
            }
            system_type::TSS_AVAILABLE | system_type::TSS16_AVAILABLE | system_type::TASK_GATE
                if !self.long_mode() =>
            {
                self.far_task(platform, op, descriptor, selector, SwitchBy::Jump)
            }
            _ => Err(Fault::gp(selector).into()),
        }
    }

    fn far_task(
        &mut self,
        platform: &mut dyn Platform,
        op: &Op,
        descriptor: Descriptor,
        selector: u16,
        by: SwitchBy,
    ) -> Step {
        if descriptor.dpl() < self.mode.cpl.max((selector & 3) as u8) {
            return Err(Fault::gp(selector).into());
        }
        let task = if descriptor.attributes() & 0xf == system_type::TASK_GATE {
            if !descriptor.is_present() {
                return Err(Fault::np(selector).into());
            }
            (descriptor.raw >> 16) as u16
        } else {
            selector
        };
        self.switch_task(platform, op, task, by)
    }

    fn real_transfer(&mut self, selector: u16, offset: u64) -> Step {
        if offset > u64::from(self.segments[seg::CS].limit) {
            return Err(Fault::GP0.into());
        }
        self.segments[seg::CS].selector = selector;
        self.segments[seg::CS].base = u64::from(selector) << 4;
        self.native.gpr[RIP] = offset;
        self.update_mode();
        Err(Exit::Jump)
    }

    fn far_descriptor(
        &mut self,
        platform: &mut dyn Platform,
        selector: u16,
    ) -> Result<Descriptor, Exit> {
        if selector & 0xfffc == 0 {
            return Err(Fault::GP0.into());
        }
        self.read_descriptor(platform, selector, Fault::gp(selector))
    }

    /// Checks a code segment as the target of a direct far transfer and enters it.
    fn enter_code(
        &mut self,
        platform: &mut dyn Platform,
        mut code: Descriptor,
        selector: u16,
        offset: u64,
    ) -> Step {
        let offset = self.check_code(&code, selector, offset)?;
        self.mark_accessed(platform, &mut code)?;
        self.segments[seg::CS] = code.segment(selector & 0xfffc | u16::from(self.mode.cpl));
        self.native.gpr[RIP] = offset;
        self.update_mode();
        Err(Exit::Jump)
    }

    fn check_code(&self, code: &Descriptor, selector: u16, offset: u64) -> Result<u64, Fault> {
        let (cpl, rpl) = (self.mode.cpl, (selector & 3) as u8);
        let privilege_ok =
            if code.is_conforming() { code.dpl() <= cpl } else { rpl <= cpl && code.dpl() == cpl };
        let both = code.attributes() & (attr::L | attr::DB) == attr::L | attr::DB;
        if !code.is_code() || !privilege_ok || self.long_mode() && both {
            return Err(Fault::gp(selector));
        }
        if !code.is_present() {
            return Err(Fault::np(selector));
        }
        let long = self.long_mode() && code.attributes() & attr::L != 0;
        let inside = if long {
            is_canonical(offset)
        } else {
            offset & 0xffff_ffff <= u64::from(code.segment(selector).limit)
        };
        if !inside {
            return Err(Fault::GP0);
        }
        Ok(if long { offset } else { offset & 0xffff_ffff })
    }

    fn far_call(
        &mut self,
        platform: &mut dyn Platform,
        op: &Op,
        selector: u16,
        offset: u64,
    ) -> Step {
        platform.ledger().count(Intercept::Privileged(Privileged::FarTransfer));
        let rsp = self.native.gpr[gpr::RSP];
        let result = self.far_call_inner(platform, op, selector, offset);
        if matches!(result, Err(Exit::Fault(_))) {
            self.native.gpr[gpr::RSP] = rsp;
        }
        result
    }

    fn far_call_inner(
        &mut self,
        platform: &mut dyn Platform,
        op: &Op,
        selector: u16,
        offset: u64,
    ) -> Step {
        let back = op.next_rip(self);
        let old_cs = self.segments[seg::CS].selector;
        if self.real_mode() {
            self.push_sized(platform, op.size, u64::from(old_cs))?;
            self.push_sized(platform, op.size, back)?;
            return self.real_transfer(selector, offset);
        }
        let descriptor = self.far_descriptor(platform, selector)?;
        if descriptor.is_segment() {
            self.check_code(&descriptor, selector, offset)?;
            self.push_sized(platform, op.size, u64::from(old_cs))?;
            self.push_sized(platform, op.size, back)?;
            return self.enter_code(platform, descriptor, selector, offset);
        }
        match descriptor.attributes() & 0xf {
            system_type::CALL_GATE | system_type::CALL_GATE16 => {
                let gate = self.call_gate(platform, selector, descriptor)?;
                self.call_through(platform, &gate, old_cs, back)
            }
            system_type::TSS_AVAILABLE | system_type::TSS16_AVAILABLE | system_type::TASK_GATE
                if !self.long_mode() =>
            {
                self.far_task(platform, op, descriptor, selector, SwitchBy::Call)
            }
            _ => Err(Fault::gp(selector).into()),
        }
    }

    fn call_gate(
        &mut self,
        platform: &mut dyn Platform,
        selector: u16,
        descriptor: Descriptor,
    ) -> Result<CallGate, Exit> {
        let rpl = (selector & 3) as u8;
        if descriptor.dpl() < self.mode.cpl || descriptor.dpl() < rpl {
            return Err(Fault::gp(selector).into());
        }
        if !descriptor.is_present() {
            return Err(Fault::np(selector).into());
        }
        let raw = descriptor.raw;
        let target = (raw >> 16) as u16;
        if self.long_mode() {
            let high = self.load_system::<u64>(platform, descriptor.linear.wrapping_add(8))?;
            if descriptor.attributes() & 0xf != system_type::CALL_GATE || high >> 40 & 0x1f != 0 {
                return Err(Fault::gp(selector).into());
            }
            let offset = raw & 0xffff | raw >> 32 & 0xffff_0000 | high << 32;
            return Ok(CallGate { selector: target, offset, parameters: 0, size: 8 });
        }
        let wide = descriptor.attributes() & 8 != 0;
        let offset = raw & 0xffff | if wide { raw >> 32 & 0xffff_0000 } else { 0 };
        let size = if wide { 4 } else { 2 };
        Ok(CallGate { selector: target, offset, parameters: raw >> 32 & 0x1f, size })
    }

    fn call_through(
        &mut self,
        platform: &mut dyn Platform,
        gate: &CallGate,
        old_cs: u16,
        back: u64,
    ) -> Step {
        let mut code = self.far_descriptor(platform, gate.selector)?;
        let long_ok = code.attributes() & (attr::L | attr::DB) == attr::L;
        if !code.is_code() || code.dpl() > self.mode.cpl || self.long_mode() && !long_ok {
            return Err(Fault::gp(gate.selector).into());
        }
        if !code.is_present() {
            return Err(Fault::np(gate.selector).into());
        }
        if code.is_conforming() || code.dpl() == self.mode.cpl {
            self.push_sized(platform, gate.size, u64::from(old_cs))?;
            self.push_sized(platform, gate.size, back)?;
            let selector = gate.selector & 0xfffc | u16::from(self.mode.cpl);
            return self.enter_code(platform, code, selector, gate.offset);
        }
        let cpl = code.dpl();
        let old_ss = self.segments[seg::SS].selector;
        let old_rsp = self.native.gpr[gpr::RSP];
        if self.long_mode() {
            let mut rsp = self.read_task_stack(platform, 4 + u64::from(cpl) * 8)?;
            if !is_canonical(gate.offset) {
                return Err(Fault::GP0.into());
            }
            for word in [u64::from(old_ss), old_rsp, u64::from(old_cs), back] {
                rsp = rsp.wrapping_sub(8);
                self.push_for(platform, cpl, rsp, word)?;
            }
            self.mark_accessed(platform, &mut code)?;
            self.native.gpr[gpr::RSP] = rsp;
            self.segments[seg::SS] = crate::system::interrupt::null_stack(cpl);
        } else {
            let (stack, mut top) = self.inner_stack(platform, cpl)?;
            let wide = gate.size == 4;
            top = self.push_on(platform, &stack, cpl, top, u64::from(old_ss), wide)?;
            top = self.push_on(platform, &stack, cpl, top, old_rsp, wide)?;
            for index in (0..gate.parameters).rev() {
                let word = self.frame_word(platform, gate.size, index)?;
                top = self.push_on(platform, &stack, cpl, top, word, wide)?;
            }
            top = self.push_on(platform, &stack, cpl, top, u64::from(old_cs), wide)?;
            top = self.push_on(platform, &stack, cpl, top, back, wide)?;
            self.mark_accessed(platform, &mut code)?;
            self.segments[seg::SS] = stack;
            self.update_mode();
            self.set_stack_pointer(top);
        }
        self.segments[seg::CS] = code.segment(gate.selector & 0xfffc | u16::from(cpl));
        self.native.gpr[RIP] = gate.offset;
        self.update_mode();
        Err(Exit::Jump)
    }

    fn push_sized(
        &mut self,
        platform: &mut dyn Platform,
        size: u8,
        value: u64,
    ) -> Result<(), Exit> {
        match size {
            2 => self.push(platform, value as u16),
            4 => self.push(platform, value as u32),
            _ => self.push(platform, value),
        }
    }

    fn far_return(&mut self, platform: &mut dyn Platform, size: u8, release: u64) -> Step {
        platform.ledger().count(Intercept::Privileged(Privileged::FarTransfer));
        let rip = self.frame_word(platform, size, 0)?;
        let selector = self.frame_word(platform, size, 1)? as u16;
        let frame = 2 * u64::from(size);
        if self.real_mode() {
            if rip > u64::from(self.segments[seg::CS].limit) {
                return Err(Fault::GP0.into());
            }
            self.release_stack(frame + release);
            return self.real_transfer(selector, rip);
        }
        let mut code = self.far_descriptor(platform, selector)?;
        let (cpl, rpl) = (self.mode.cpl, (selector & 3) as u8);
        let privilege_ok = if code.is_conforming() { code.dpl() <= rpl } else { code.dpl() == rpl };
        if !code.is_code() || rpl < cpl || !privilege_ok {
            return Err(Fault::gp(selector).into());
        }
        if !code.is_present() {
            return Err(Fault::np(selector).into());
        }
        let to_64bit = self.long_mode() && code.attributes() & attr::L != 0;
        let limit = u64::from(code.segment(selector).limit);
        let target_ok = if to_64bit { is_canonical(rip) } else { rip <= limit };
        if rpl == cpl {
            if !target_ok {
                return Err(Fault::GP0.into());
            }
            self.mark_accessed(platform, &mut code)?;
            self.release_stack(frame + release);
            self.segments[seg::CS] = code.segment(selector);
        } else {
            // The outer stack lies above the parameters.
            let at = frame + release;
            let (rsp, stack_selector) = match size {
                2 => (
                    u64::from(self.peek::<u16>(platform, at)?),
                    self.peek::<u16>(platform, at + 2)?,
                ),
                4 => (
                    u64::from(self.peek::<u32>(platform, at)?),
                    self.peek::<u16>(platform, at + 4)?,
                ),
                _ => (self.peek::<u64>(platform, at)?, self.peek::<u16>(platform, at + 8)?),
            };
            let stack = self.returned_stack(platform, stack_selector, rpl, to_64bit)?;
            if !target_ok {
                return Err(Fault::GP0.into());
            }
            self.mark_accessed(platform, &mut code)?;
            self.segments[seg::CS] = code.segment(selector);
            self.segments[seg::SS] = stack;
            self.update_mode();
            self.set_stack_pointer(rsp.wrapping_add(release));
            self.drop_inner_segments(rpl);
        }
        self.native.gpr[RIP] = rip;
        self.update_mode();
        Err(Exit::Jump)
    }
}
