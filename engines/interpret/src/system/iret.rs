//! IRET (SDM vol. 2A, IRET/IRETD/IRETQ).

use crate::cpu::{Cpu, RIP, seg};
use crate::exit::{Exit, Fault, Step};
use crate::mmu::is_canonical;
use crate::op::Op;
use crate::system::interrupt::null_stack;
use crate::system::task::SwitchBy;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::{Platform, Segment};
use ambos_x86::segment::attr;
use ambos_x86::{RFlags, gpr};

/// IRET with operand size [`Op::size`].
pub fn iret(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    platform.ledger().count(Intercept::Privileged(Privileged::InterruptReturn));
    let result = if cpu.real_mode() {
        cpu.iret_real(platform, op.size)
    } else if cpu.rflags().contains(RFlags::NT) {
        if cpu.long_mode() {
            return Err(Fault::GP0.into());
        }
        let back = cpu.linked_task(platform)?;
        match cpu.switch_task(platform, op, back, SwitchBy::Return) {
            Err(Exit::Jump) => Ok(()),
            other => other,
        }
    } else {
        cpu.iret_protected(platform, op.size)
    };
    result?;
    cpu.nmi_blocked = false;
    Err(Exit::Jump)
}

impl Cpu {
    /// Reads word `index` of a frame of `size`-byte words on the stack.
    pub(crate) fn frame_word(
        &mut self,
        platform: &mut dyn Platform,
        size: u8,
        index: u64,
    ) -> Result<u64, Exit> {
        let depth = index * u64::from(size);
        Ok(match size {
            2 => u64::from(self.peek::<u16>(platform, depth)?),
            4 => u64::from(self.peek::<u32>(platform, depth)?),
            _ => self.peek::<u64>(platform, depth)?,
        })
    }

    fn iret_real(&mut self, platform: &mut dyn Platform, size: u8) -> Result<(), Exit> {
        let rip = self.frame_word(platform, size, 0)?;
        let selector = self.frame_word(platform, size, 1)? as u16;
        let flags = self.frame_word(platform, size, 2)?;
        if rip > u64::from(self.segments[seg::CS].limit) {
            return Err(Fault::GP0.into());
        }
        self.release_stack(3 * u64::from(size));
        self.segments[seg::CS].selector = selector;
        self.segments[seg::CS].base = u64::from(selector) << 4;
        self.native.gpr[RIP] = rip;
        let mask = if size == 2 { 0x7fd5 } else { 0x25_7fd5 };
        self.native.rflags = self.native.rflags & !mask | flags & mask;
        self.update_mode();
        Ok(())
    }

    fn iret_protected(&mut self, platform: &mut dyn Platform, size: u8) -> Result<(), Exit> {
        let rip = self.frame_word(platform, size, 0)?;
        let selector = self.frame_word(platform, size, 1)? as u16;
        let flags = self.frame_word(platform, size, 2)?;
        let was_64bit = self.is_64bit();
        if selector & 0xfffc == 0 {
            return Err(Fault::GP0.into());
        }
        let fault = Fault::gp(selector);
        let mut code = self.read_descriptor(platform, selector, fault)?;
        let (cpl, rpl) = (self.mode.cpl, (selector & 3) as u8);
        let privilege_ok = if code.is_conforming() { code.dpl() <= rpl } else { code.dpl() == rpl };
        let both = code.attributes() & (attr::L | attr::DB) == attr::L | attr::DB;
        if !code.is_code() || rpl < cpl || !privilege_ok || self.long_mode() && both {
            return Err(fault.into());
        }
        if !code.is_present() {
            return Err(Fault::np(selector).into());
        }
        let new_code = code.segment(selector);
        let to_64bit = self.long_mode() && new_code.attributes & attr::L != 0;
        let target_ok = if to_64bit { is_canonical(rip) } else { rip <= u64::from(new_code.limit) };
        // 64-bit mode always restores the stack.
        let outer = rpl > cpl || was_64bit;
        if outer {
            let rsp = self.frame_word(platform, size, 3)?;
            let stack_selector = self.frame_word(platform, size, 4)? as u16;
            let stack = self.returned_stack(platform, stack_selector, rpl, to_64bit)?;
            if !target_ok {
                return Err(Fault::GP0.into());
            }
            self.mark_accessed(platform, &mut code)?;
            self.return_flags(flags, size, cpl);
            self.segments[seg::CS] = code.segment(selector);
            self.segments[seg::SS] = stack;
            self.update_mode();
            match self.mode.stack_bits {
                64 => self.native.gpr[gpr::RSP] = rsp,
                _ => self.set_stack_pointer(rsp),
            }
            if rpl > cpl {
                self.drop_inner_segments(rpl);
            }
        } else {
            if !target_ok {
                return Err(Fault::GP0.into());
            }
            self.mark_accessed(platform, &mut code)?;
            self.release_stack(3 * u64::from(size));
            self.return_flags(flags, size, cpl);
            self.segments[seg::CS] = code.segment(selector);
        }
        self.native.gpr[RIP] = if to_64bit { rip } else { rip & 0xffff_ffff };
        self.update_mode();
        Ok(())
    }

    /// The stack segment that a return to privilege level `rpl` loads.
    ///
    /// # Errors
    ///
    /// #GP, #SS as the selector and descriptor deserve.
    pub(crate) fn returned_stack(
        &mut self,
        platform: &mut dyn Platform,
        selector: u16,
        rpl: u8,
        to_64bit: bool,
    ) -> Result<Segment, Exit> {
        if selector & 0xfffc == 0 {
            if to_64bit && rpl < 3 && (selector & 3) as u8 == rpl {
                return Ok(Segment { selector, ..null_stack(rpl) });
            }
            return Err(Fault::GP0.into());
        }
        let fault = Fault::gp(selector);
        let mut descriptor = self.read_descriptor(platform, selector, fault)?;
        let writable =
            descriptor.attributes() & (attr::CODE | attr::READ_WRITE) == attr::READ_WRITE;
        if !descriptor.is_segment()
            || !writable
            || (selector & 3) as u8 != rpl
            || descriptor.dpl() != rpl
        {
            return Err(fault.into());
        }
        if !descriptor.is_present() {
            return Err(Fault::ss(selector).into());
        }
        self.mark_accessed(platform, &mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// Data segments that the outer level may not use become unusable.
    pub(crate) fn drop_inner_segments(&mut self, cpl: u8) {
        for number in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let segment = &mut self.segments[number];
            let dpl = (segment.attributes >> attr::DPL_SHIFT & 3) as u8;
            let conforming = segment.attributes & (attr::CODE | attr::DOWN_CONFORMING)
                == attr::CODE | attr::DOWN_CONFORMING;
            if dpl < cpl && !conforming {
                segment.selector = 0;
                segment.attributes |= attr::UNUSABLE;
            }
        }
    }

    /// Restores flags as IRET from privilege level `cpl` may.
    fn return_flags(&mut self, flags: u64, size: u8, cpl: u8) {
        let mut mask = (RFlags::ARITHMETIC | RFlags::TF | RFlags::DF | RFlags::NT).bits();
        if size > 2 {
            mask |= (RFlags::RF | RFlags::AC | RFlags::ID).bits();
        }
        if cpl <= self.rflags().iopl() {
            mask |= RFlags::IF.bits();
        }
        if cpl == 0 {
            mask |= RFlags::IOPL.bits();
            if size > 2 {
                mask |= (RFlags::VIF | RFlags::VIP).bits();
            }
        }
        self.native.rflags = self.native.rflags & !mask | flags & mask;
    }
}
