//! Task-state segments: inner stacks, task gates and hardware task switches (SDM vol. 3A, ch. 7).

use crate::cpu::{Cpu, RIP, seg};
use crate::exit::{Exit, Fault, Step};
use crate::op::Op;
use crate::system::interrupt::Event;
use ambos_intercept::Intercept;
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

/// DR6.BT: the debug exception came from the trap bit of a task-state segment.
const TASK_SWITCHED: u64 = 1 << 15;
/// DR7.L0 to L3 and LE: what is enabled for one task only.
const LOCAL_BREAKPOINTS: u64 = 0x155;
/// What IRET with NT set returns to: the selector in the first word of every TSS.
const BACK_LINK: u64 = 0;

/// Where a task-state segment of a kind keeps what a task switch saves and loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format {
    /// Bytes of the instruction pointer, flags and each register.
    word: u64,
    /// CR3, in the kind that has it.
    cr3: Option<u64>,
    instruction_pointer: u64,
    flags: u64,
    /// EAX to EDI.
    registers: u64,
    /// ES, CS, SS, DS, and FS and GS in the kind that has them.
    selectors: u64,
    selector_count: u64,
    ldt: u64,
    /// The word whose lowest bit asks for #DB after a switch to the task.
    trap: Option<u64>,
    /// Bytes that must lie within the segment's limit.
    size: u32,
}

const TSS32: Format = Format {
    word: 4,
    cr3: Some(28),
    instruction_pointer: 32,
    flags: 36,
    registers: 40,
    selectors: 72,
    selector_count: 6,
    ldt: 96,
    trap: Some(100),
    size: 104,
};

const TSS16: Format = Format {
    word: 2,
    cr3: None,
    instruction_pointer: 14,
    flags: 16,
    registers: 18,
    selectors: 34,
    selector_count: 4,
    ldt: 42,
    trap: None,
    size: 44,
};

impl Format {
    /// The format of a task-state segment with these attributes.
    fn of(attributes: u32) -> &'static Self {
        if attributes & 8 != 0 { &TSS32 } else { &TSS16 }
    }
}

/// What a TSS says of its task.
#[derive(Debug)]
pub(crate) struct Task {
    segment: Segment,
    cr3: Option<u64>,
    rip: u64,
    flags: u64,
    registers: [u64; 8],
    /// ES, CS, SS, DS, FS, GS. A 16-bit TSS has no FS and GS: they become null.
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

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
        let back = self.native.gpr[RIP];
        let task = self.leave_task(platform, selector, SwitchBy::Call, back)?;
        let wide = Format::of(task.segment.attributes) == &TSS32;
        self.enter_task(platform, task)?;
        match event.error {
            Some(error) if wide => self.push(platform, error),
            Some(error) => self.push(platform, error as u16),
            None => Ok(()),
        }
    }

    /// Runs `op`, which goes on in another task.
    ///
    /// # Errors
    ///
    /// [`Exit::Jump`], or the fault of the switch, with the instruction pointer set so that it is the
    /// old or the new task's, to whichever it belongs.
    pub(crate) fn switch_task(
        &mut self,
        platform: &mut dyn Platform,
        op: &Op,
        selector: u16,
        by: SwitchBy,
    ) -> Step {
        let task = self.leave_task(platform, selector, by, op.next_rip(self))?;
        match self.enter_task(platform, task) {
            Ok(()) => Err(Exit::Jump),
            Err(exit) => Err(self.fault_of_new_task(op, exit)),
        }
    }

    /// Makes a fault of `op` one of the task that it has switched to: whoever delivers it looks for it
    /// at the instruction's place in its block.
    pub(crate) fn fault_of_new_task(&mut self, op: &Op, exit: Exit) -> Exit {
        let rip = &mut self.native.gpr[RIP];
        *rip = rip.wrapping_sub(u64::from(op.start));
        exit
    }

    /// The selector of the task that the current one returns to.
    ///
    /// # Errors
    ///
    /// Faults of the read.
    pub(crate) fn linked_task(&mut self, platform: &mut dyn Platform) -> Result<u16, Exit> {
        self.load_system(platform, self.tr.base.wrapping_add(BACK_LINK))
    }

    /// The first half of a task switch: checks the new task's TSS, reads it, and saves the old task,
    /// which is to go on at `back`. Faults here are the old task's.
    ///
    /// # Errors
    ///
    /// #GP, #NP or #TS as the new TSS deserves.
    fn leave_task(
        &mut self,
        platform: &mut dyn Platform,
        selector: u16,
        by: SwitchBy,
        back: u64,
    ) -> Result<Task, Exit> {
        let fault = if by == SwitchBy::Return { Fault::ts(selector) } else { Fault::gp(selector) };
        if selector & 4 != 0 || selector & 0xfffc == 0 {
            return Err(fault.into());
        }
        let mut new = self.read_descriptor(platform, selector, fault)?;
        let kind = new.attributes() & 0x1f;
        let wanted = if by == SwitchBy::Return {
            [system_type::TSS_BUSY, system_type::TSS16_BUSY]
        } else {
            [system_type::TSS_AVAILABLE, system_type::TSS16_AVAILABLE]
        };
        if !wanted.contains(&kind) {
            return Err(fault.into());
        }
        if !new.is_present() {
            return Err(Fault::np(selector).into());
        }
        let segment = new.segment(selector);
        if segment.limit < Format::of(segment.attributes).size - 1
            || self.tr.limit < Format::of(self.tr.attributes).size - 1
        {
            return Err(Fault::ts(selector).into());
        }
        let mut task = self.read_task(platform, segment)?;
        self.save_task(platform, by, back)?;
        if by != SwitchBy::Return {
            new.raw |= 2 << 40;
            self.store_system(platform, new.linear.wrapping_add(5), (new.raw >> 40) as u8)?;
        }
        if by == SwitchBy::Call {
            let at = segment.base.wrapping_add(BACK_LINK);
            self.store_system(platform, at, self.tr.selector)?;
            task.flags |= RFlags::NT.bits();
        }
        task.segment = new.segment(selector);
        Ok(task)
    }

    fn read_task(&mut self, platform: &mut dyn Platform, segment: Segment) -> Result<Task, Exit> {
        let format = Format::of(segment.attributes);
        let mut selector = |cpu: &mut Self, offset: u64| {
            cpu.load_system::<u16>(platform, segment.base.wrapping_add(offset))
        };
        let mut selectors = [0; 6];
        for (value, index) in selectors.iter_mut().zip(0..format.selector_count) {
            *value = selector(self, format.selectors + index * format.word)?;
        }
        let ldt = selector(self, format.ldt)?;
        let trap = match format.trap {
            Some(at) => selector(self, at)? & 1 != 0,
            None => false,
        };
        let mut word = |cpu: &mut Self, offset: u64| {
            let linear = segment.base.wrapping_add(offset);
            Ok::<_, Exit>(if format.word == 4 {
                u64::from(cpu.load_system::<u32>(platform, linear)?)
            } else {
                u64::from(cpu.load_system::<u16>(platform, linear)?)
            })
        };
        let mut registers = [0; 8];
        for (value, index) in registers.iter_mut().zip(0..) {
            *value = word(self, format.registers + index * format.word)?;
        }
        Ok(Task {
            segment,
            cr3: format.cr3.map(|at| word(self, at)).transpose()?,
            rip: word(self, format.instruction_pointer)?,
            flags: word(self, format.flags)?,
            registers,
            selectors,
            ldt,
            trap,
        })
    }

    /// Saves the current task's registers and marks it available unless it stays linked.
    fn save_task(
        &mut self,
        platform: &mut dyn Platform,
        by: SwitchBy,
        back: u64,
    ) -> Result<(), Exit> {
        let old = self.tr;
        let format = Format::of(old.attributes);
        let mut flags = self.native.rflags;
        if by == SwitchBy::Return {
            flags &= !RFlags::NT.bits();
        }
        let registers = self.native.gpr;
        let segments = self.segments;
        let mut write = |offset: u64, value: u64| {
            let linear = old.base.wrapping_add(offset);
            if format.word == 4 {
                self.store_system(platform, linear, value as u32)
            } else {
                self.store_system(platform, linear, value as u16)
            }
        };
        write(format.flags, flags)?;
        write(format.instruction_pointer, back)?;
        for (&value, index) in registers[..8].iter().zip(0..) {
            write(format.registers + index * format.word, value)?;
        }
        for (segment, index) in segments.iter().zip(0..format.selector_count) {
            write(format.selectors + index * format.word, u64::from(segment.selector))?;
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

    /// The second half of a task switch. Faults here are the new task's.
    fn enter_task(&mut self, platform: &mut dyn Platform, task: Task) -> Result<(), Exit> {
        self.tr = task.segment;
        self.control.cr0 |= Cr0::TS.bits();
        if let Some(cr3) = task.cr3
            && self.cr0().contains(Cr0::PG)
            && cr3 != self.control.cr3
        {
            self.control.cr3 = cr3;
            self.tlb.flush_all();
        }
        // Flags that a 16-bit TSS does not have become zero.
        self.native.rflags = task.flags & 0x3d_7fd5 | 2;
        if task.flags & RFlags::VM.bits() != 0 {
            self.note_unserved("a task in virtual-8086 mode");
        }
        self.native.gpr[..8].copy_from_slice(&task.registers);
        self.native.gpr[RIP] = task.rip;
        self.debug.dr7 &= !LOCAL_BREAKPOINTS;
        self.load_task_segments(platform, task.selectors, task.ldt)?;
        if task.trap {
            self.debug.dr6 |= TASK_SWITCHED;
            platform.ledger().count(Intercept::Exception(Vector::Debug as u8));
            let vector = Vector::Debug as u8;
            let event = Event { vector, error: None, software: false, resume: false };
            return self.deliver(platform, event);
        }
        Ok(())
    }

    /// Loads LDTR and the segment registers of a new task.
    fn load_task_segments(
        &mut self,
        platform: &mut dyn Platform,
        selectors: [u16; 6],
        ldt: u16,
    ) -> Result<(), Exit> {
        let ts = |selector| Exit::Fault(Fault::ts(selector));
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
        let (dpl, rpl) = (code.dpl(), (cs & 3) as u8);
        let privilege_ok = if code.is_conforming() { dpl <= rpl } else { dpl == rpl };
        if !code.is_code() || cs & 0xfffc == 0 || !privilege_ok {
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
