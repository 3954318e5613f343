//! Task-state segments: inner stacks, task gates and hardware task switches (SDM vol. 3A, ch. 7).

use crate::cpu::{Cpu, RIP, seg};
use crate::exit::{Exit, Fault};
use crate::system::interrupt::Event;
use ambos_vcpu::{Platform, Segment};
use ambos_x86::segment::{attr, system_type};
use ambos_x86::{Cr0, RFlags, Vector};

/// Why a task switch happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchBy {
    /// JMP to a TSS or task gate.
    Jump,
    /// CALL, exception or interrupt: the new task links back.
    Call,
    /// IRET with NT set.
    Return,
}

/// Offsets of the registers that a 32-bit TSS holds, EAX to EDI.
const TSS32_GPR: u64 = 40;
/// Bytes of a 32-bit TSS that a task switch uses.
const TSS32_SIZE: u32 = 104;

impl Cpu {
    /// Reads a stack pointer from the 64-bit TSS.
    ///
    /// # Errors
    ///
    /// #TS if it lies outside the TSS; faults of the read.
    pub(crate) fn read_task_stack(
        &mut self,
        platform: &mut dyn Platform,
        offset: u64,
    ) -> Result<u64, Exit> {
        if offset + 7 > u64::from(self.tr.limit) {
            return Err(Fault::ts(self.tr.selector).into());
        }
        self.load_system(platform, self.tr.base.wrapping_add(offset))
    }

    /// The stack of privilege level `cpl` from a 16- or 32-bit TSS, checked.
    ///
    /// # Errors
    ///
    /// #TS, #SS or #NP as the TSS and the stack's descriptor deserve.
    pub(crate) fn inner_stack(
        &mut self,
        platform: &mut dyn Platform,
        cpl: u8,
    ) -> Result<(Segment, u64), Exit> {
        let wide = self.tr.attributes & 8 != 0;
        let at = if wide { 4 + u64::from(cpl) * 8 } else { 2 + u64::from(cpl) * 4 };
        let size = if wide { 8 } else { 4 };
        if at + size - 1 > u64::from(self.tr.limit) {
            return Err(Fault::ts(self.tr.selector).into());
        }
        let linear = self.tr.base.wrapping_add(at);
        let (pointer, selector) = if wide {
            let pointer = u64::from(self.load_system::<u32>(platform, linear)?);
            (pointer, self.load_system::<u16>(platform, linear.wrapping_add(4))?)
        } else {
            let pointer = u64::from(self.load_system::<u16>(platform, linear)?);
            (pointer, self.load_system::<u16>(platform, linear.wrapping_add(2))?)
        };
        if selector & 0xfffc == 0 {
            return Err(Fault::ts(0).into());
        }
        let fault = Fault::ts(selector);
        let mut descriptor = self.read_descriptor(platform, selector, fault)?;
        let writable =
            descriptor.attributes() & (attr::CODE | attr::READ_WRITE) == attr::READ_WRITE;
        if !descriptor.is_segment()
            || !writable
            || (selector & 3) as u8 != cpl
            || descriptor.dpl() != cpl
        {
            return Err(fault.into());
        }
        if !descriptor.is_present() {
            return Err(Fault::ss(selector).into());
        }
        self.mark_accessed(platform, &mut descriptor)?;
        Ok((descriptor.segment(selector), pointer))
    }

    /// Delivers an event through a task gate.
    ///
    /// # Errors
    ///
    /// Faults of the task switch.
    pub(crate) fn deliver_to_task(
        &mut self,
        platform: &mut dyn Platform,
        selector: u16,
        event: Event,
    ) -> Result<(), Exit> {
        self.switch_task(platform, selector, SwitchBy::Call)?;
        if let Some(error) = event.error {
            self.push(platform, error)?;
        }
        Ok(())
    }

    /// Switches to the task of a 32-bit TSS; RIP is the address at which the old task goes on.
    ///
    /// # Errors
    ///
    /// #GP, #NP or #TS as the new TSS deserves. 16-bit task-state segments are refused with #TS.
    pub(crate) fn switch_task(
        &mut self,
        platform: &mut dyn Platform,
        selector: u16,
        by: SwitchBy,
    ) -> Result<(), Exit> {
        let fault = if by == SwitchBy::Return { Fault::ts(selector) } else { Fault::gp(selector) };
        if selector & 4 != 0 || selector & 0xfffc == 0 {
            return Err(fault.into());
        }
        let mut new = self.read_descriptor(platform, selector, fault)?;
        let kind = new.attributes() & 0x1f;
        let wanted =
            if by == SwitchBy::Return { system_type::TSS_BUSY } else { system_type::TSS_AVAILABLE };
        if kind != wanted {
            if matches!(kind, system_type::TSS16_AVAILABLE | system_type::TSS16_BUSY) {
                self.note_unserved("task switch to a 16-bit TSS");
            }
            return Err(fault.into());
        }
        if !new.is_present() {
            return Err(Fault::np(selector).into());
        }
        let segment = new.segment(selector);
        if segment.limit < TSS32_SIZE - 1 || self.tr.limit < TSS32_SIZE - 1 {
            return Err(Fault::ts(selector).into());
        }
        let old = self.tr;
        let read = |cpu: &mut Self, platform: &mut dyn Platform, offset: u64| {
            cpu.load_system::<u32>(platform, segment.base.wrapping_add(offset))
        };
        let cr3 = read(self, platform, 28)?;
        let rip = read(self, platform, 32)?;
        let mut flags = u64::from(read(self, platform, 36)?);
        let mut registers = [0; 8];
        for (index, value) in registers.iter_mut().enumerate() {
            *value = u64::from(read(self, platform, TSS32_GPR + index as u64 * 4)?);
        }
        let mut selectors = [0u16; 7];
        for (index, value) in selectors.iter_mut().enumerate() {
            *value = read(self, platform, 72 + index as u64 * 4)? as u16;
        }
        self.save_task(platform, &old, by)?;
        if by != SwitchBy::Return {
            new.raw |= 2 << 40;
            self.store_system(platform, new.linear.wrapping_add(5), (new.raw >> 40) as u8)?;
        }
        if by == SwitchBy::Call {
            self.store_system(platform, segment.base, old.selector)?;
            flags |= RFlags::NT.bits();
        }
        // From here on faults belong to the new task.
        self.tr = new.segment(selector);
        self.control.cr0 |= Cr0::TS.bits();
        if self.cr0().contains(Cr0::PG) && u64::from(cr3) != self.control.cr3 {
            self.control.cr3 = u64::from(cr3);
            self.tlb.flush_all();
        }
        self.native.gpr[RIP] = u64::from(rip);
        self.native.rflags = flags & 0x3f_7fd5 | 2;
        self.native.gpr[..8].copy_from_slice(&registers);
        self.load_task_segments(platform, selectors)
    }

    /// Saves the current task's registers and marks it available unless it stays linked.
    fn save_task(
        &mut self,
        platform: &mut dyn Platform,
        old: &Segment,
        by: SwitchBy,
    ) -> Result<(), Exit> {
        let mut flags = self.native.rflags as u32;
        if by == SwitchBy::Return {
            flags &= !(RFlags::NT.bits() as u32);
        }
        let mut write = |offset: u64, value: u32| {
            self.store_system(platform, old.base.wrapping_add(offset), value)
        };
        let gpr = |index: usize| TSS32_GPR + index as u64 * 4;
        write(36, flags)?;
        let registers = self.native.gpr;
        let mut write = |offset: u64, value: u32| {
            self.store_system(platform, old.base.wrapping_add(offset), value)
        };
        write(32, registers[RIP] as u32)?;
        for (index, &value) in registers[..8].iter().enumerate() {
            write(gpr(index), value as u32)?;
        }
        for (index, segment) in self.segments.into_iter().enumerate() {
            let at = old.base.wrapping_add(72 + index as u64 * 4);
            self.store_system(platform, at, u32::from(segment.selector))?;
        }
        if by != SwitchBy::Call {
            let mut descriptor =
                self.read_descriptor(platform, old.selector, Fault::ts(old.selector))?;
            descriptor.raw &= !(2 << 40);
            let byte = (descriptor.raw >> 40) as u8;
            self.store_system(platform, descriptor.linear.wrapping_add(5), byte)?;
        }
        Ok(())
    }

    /// Loads LDTR and the segment registers of a new task: ES, CS, SS, DS, FS, GS, LDT.
    fn load_task_segments(
        &mut self,
        platform: &mut dyn Platform,
        selectors: [u16; 7],
    ) -> Result<(), Exit> {
        let ts = |selector| Exit::Fault(Fault::ts(selector));
        let ldt = selectors[6];
        self.ldtr = Segment { selector: ldt, base: 0, limit: 0, attributes: attr::UNUSABLE };
        if ldt & 0xfffc != 0 {
            let descriptor = self.read_descriptor(platform, ldt, Fault::ts(ldt))?;
            if descriptor.attributes() & 0x1f != system_type::LDT || !descriptor.is_present() {
                return Err(ts(ldt));
            }
            self.ldtr = descriptor.segment(ldt);
        }
        let cs = selectors[seg::CS];
        let mut code = self.read_descriptor(platform, cs, Fault::ts(cs))?;
        if !code.is_code() || cs & 0xfffc == 0 {
            return Err(ts(cs));
        }
        if !code.is_present() {
            return Err(Fault::np(cs).into());
        }
        self.mark_accessed(platform, &mut code)?;
        let cpl = (cs & 3) as u8;
        self.segments[seg::CS] = code.segment(cs);
        // The stack segment is loaded at the new privilege level.
        self.segments[seg::SS].attributes = self.segments[seg::SS].attributes
            & !(3 << attr::DPL_SHIFT)
            | u32::from(cpl) << attr::DPL_SHIFT;
        self.update_mode();
        for number in [seg::SS, seg::ES, seg::DS, seg::FS, seg::GS] {
            self.load_segment(platform, number, selectors[number]).map_err(|exit| match exit {
                Exit::Fault(Fault { vector: Vector::GeneralProtection, error }) => {
                    Exit::Fault(Fault { vector: Vector::InvalidTss, error })
                }
                other => other,
            })?;
        }
        self.check_jump(self.native.gpr[RIP])?;
        Ok(())
    }
}
