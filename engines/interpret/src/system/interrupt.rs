//! Delivery of exceptions and interrupts (SDM vol. 3A, chapter 6).

use crate::cpu::{Cpu, RIP, seg};
use crate::exit::{Exit, Fault, Step};
use crate::mmu::is_canonical;
use crate::op::Op;
use crate::system::segments::Descriptor;
use ambos_hostcode::mem::Cell;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::{Crash, Exception, Platform, Segment, Stop, Trap};
use ambos_x86::segment::{attr, system_type};
use ambos_x86::{Efer, RFlags, Vector, gpr};

/// What is being delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Vector.
    pub vector: u8,
    /// Error code, if one is pushed.
    pub error: Option<u32>,
    /// Raised by an instruction meant to raise it: INT n, INT3, INTO. Gates' privilege applies.
    pub software: bool,
    /// Value of RF in the pushed flags.
    pub resume: bool,
}

/// Bit of a selector error code: the event came from outside the program.
const EXT: u32 = 1;
/// Bit of a selector error code: the index refers to the IDT.
const IDT: u32 = 2;

/// A gate of the interrupt descriptor table.
struct Gate {
    kind: u32,
    selector: u16,
    offset: u64,
    dpl: u8,
    present: bool,
    stack_table: u8,
}

impl Cpu {
    /// Delivers a fault raised at the current instruction, and the faults of its delivery.
    pub fn deliver_fault(&mut self, platform: &mut dyn Platform, fault: Fault) -> Option<Stop> {
        if self.supervised.on {
            return self.trap_exception(platform, fault);
        }
        let resume = true;
        self.deliver_all(platform, fault.vector as u8, fault, false, resume)
    }

    /// Delivers a trap: the instruction is complete.
    pub fn deliver_trap(&mut self, platform: &mut dyn Platform, vector: Vector) -> Option<Stop> {
        if self.supervised.on {
            return self.trap_exception(platform, Fault { vector, error: 0 });
        }
        self.deliver_all(platform, vector as u8, Fault { vector, error: 0 }, false, false)
    }

    /// Delivers an external interrupt or NMI.
    pub fn deliver_interrupt(&mut self, platform: &mut dyn Platform, vector: u8) -> Option<Stop> {
        platform.ledger().count(Intercept::Interrupt);
        let stand_in = Fault { vector: Vector::Nmi, error: 0 };
        self.deliver_all(platform, vector, stand_in, true, false)
    }

    fn deliver_all(
        &mut self,
        platform: &mut dyn Platform,
        vector: u8,
        first: Fault,
        external: bool,
        resume: bool,
    ) -> Option<Stop> {
        let mut event = Event { vector, error: None, software: false, resume };
        let mut current = (!external).then_some(first);
        let mut history = vec![];
        loop {
            if let Some(fault) = current {
                platform.ledger().count(Intercept::Exception(fault.vector as u8));
                event.vector = fault.vector as u8;
                event.error = fault.vector.has_error_code().then_some(fault.error);
                if fault.vector == Vector::PageFault {
                    self.control.cr2 = self.fault_address;
                }
            }
            let second = match self.deliver(platform, event) {
                Ok(()) => return None,
                Err(Exit::Fault(second)) => second,
                Err(_) => return None,
            };
            history.push(event.vector);
            if second.vector == Vector::PageFault {
                // CR2 is that of the last page fault, even if it ends as a double fault.
                self.control.cr2 = self.fault_address;
            }
            let double = match current {
                Some(Fault { vector: Vector::DoubleFault, .. }) => {
                    history.push(second.vector as u8);
                    let rip = self.native.gpr[RIP];
                    return Some(Stop::Crashed(Crash::TripleFault { rip, vectors: history }));
                }
                Some(first) => {
                    first.vector.is_contributory() && second.vector.is_contributory()
                        || first.vector == Vector::PageFault
                            && (second.vector == Vector::PageFault
                                || second.vector.is_contributory())
                }
                None => false,
            };
            current =
                Some(if double { Fault { vector: Vector::DoubleFault, error: 0 } } else { second });
            event.resume = true;
        }
    }

    /// Delivers one event through the interrupt table; RIP is the address to return to.
    ///
    /// # Errors
    ///
    /// The fault of the delivery; the state is unchanged then.
    pub fn deliver(&mut self, platform: &mut dyn Platform, event: Event) -> Result<(), Exit> {
        if self.real_mode() {
            return self.deliver_real(platform, event);
        }
        let external = if event.software { 0 } else { EXT };
        let gate_error = u32::from(event.vector) << 3 | IDT | external;
        let fault = |vector| Fault { vector, error: gate_error };
        let gate =
            self.read_gate(platform, event.vector)?.ok_or(fault(Vector::GeneralProtection))?;
        let known = if self.long_mode() {
            matches!(gate.kind, system_type::INTERRUPT_GATE | system_type::TRAP_GATE)
        } else {
            matches!(
                gate.kind,
                system_type::INTERRUPT_GATE
                    | system_type::TRAP_GATE
                    | system_type::INTERRUPT_GATE16
                    | system_type::TRAP_GATE16
                    | system_type::TASK_GATE
            )
        };
        if !known || event.software && gate.dpl < self.mode.cpl {
            return Err(fault(Vector::GeneralProtection).into());
        }
        if !gate.present {
            return Err(fault(Vector::SegmentNotPresent).into());
        }
        if gate.kind == system_type::TASK_GATE {
            return self.deliver_to_task(platform, gate.selector, event);
        }
        let selector_fault =
            |vector| Fault { vector, error: u32::from(gate.selector & 0xfffc) | external };
        if gate.selector & 0xfffc == 0 {
            return Err(Fault { vector: Vector::GeneralProtection, error: external }.into());
        }
        let outside = selector_fault(Vector::GeneralProtection);
        let mut code = self.read_descriptor(platform, gate.selector, outside)?;
        let long_code = code.attributes() & (attr::L | attr::DB) == attr::L;
        if !code.is_code()
            || code.dpl() > self.mode.cpl
            || self.efer().contains(Efer::LMA) && !long_code
        {
            return Err(outside.into());
        }
        if !code.is_present() {
            return Err(selector_fault(Vector::SegmentNotPresent).into());
        }
        let new_cpl = if code.is_conforming() { self.mode.cpl } else { code.dpl() };
        if self.long_mode() {
            self.enter_long(platform, event, &gate, &mut code, new_cpl)
        } else {
            self.enter_protected(platform, event, &gate, &mut code, new_cpl)
        }
    }

    fn read_gate(&mut self, platform: &mut dyn Platform, vector: u8) -> Result<Option<Gate>, Exit> {
        let size = if self.long_mode() { 16 } else { 8 };
        let at = u64::from(vector) * size;
        if at + size - 1 > u64::from(self.idtr.limit) {
            return Ok(None);
        }
        let linear = self.idtr.base.wrapping_add(at);
        let low = self.load_system::<u64>(platform, linear)?;
        let high =
            if size == 16 { self.load_system::<u64>(platform, linear.wrapping_add(8))? } else { 0 };
        let attributes = (low >> 40) as u32;
        let kind = attributes & 0x1f;
        let wide = kind & 8 != 0;
        let offset = low & 0xffff | if wide { low >> 32 & 0xffff_0000 } else { 0 } | high << 32;
        Ok(Some(Gate {
            kind,
            selector: (low >> 16) as u16,
            offset,
            dpl: (attributes >> 5 & 3) as u8,
            present: attributes & 0x80 != 0,
            stack_table: (low >> 32 & 7) as u8,
        }))
    }

    /// Pushes for a handler at privilege level `cpl`, not on the current stack.
    pub(crate) fn push_for<W: Cell>(
        &mut self,
        platform: &mut dyn Platform,
        cpl: u8,
        linear: u64,
        value: W,
    ) -> Result<(), Exit> {
        if cpl == 3 {
            self.store(platform, linear, value)
        } else {
            self.store_system(platform, linear, value)
        }
    }

    fn enter_long(
        &mut self,
        platform: &mut dyn Platform,
        event: Event,
        gate: &Gate,
        code: &mut Descriptor,
        new_cpl: u8,
    ) -> Result<(), Exit> {
        let old_cpl = self.mode.cpl;
        let rsp = if gate.stack_table != 0 {
            self.read_task_stack(platform, 0x24 + (u64::from(gate.stack_table) - 1) * 8)?
        } else if new_cpl < old_cpl {
            self.read_task_stack(platform, 4 + u64::from(new_cpl) * 8)?
        } else {
            self.native.gpr[gpr::RSP]
        };
        if !is_canonical(rsp) {
            return Err(Fault::SS0.into());
        }
        if !is_canonical(gate.offset) {
            return Err(Fault::GP0.into());
        }
        let mut rsp = rsp & !0xf;
        let flags = self.native.rflags & !RFlags::RF.bits()
            | if event.resume { RFlags::RF.bits() } else { 0 };
        let words = [
            Some(u64::from(self.segments[seg::SS].selector)),
            Some(self.native.gpr[gpr::RSP]),
            Some(flags),
            Some(u64::from(self.segments[seg::CS].selector)),
            Some(self.native.gpr[RIP]),
            event.error.map(u64::from),
        ];
        for word in words.into_iter().flatten() {
            rsp = rsp.wrapping_sub(8);
            self.push_for(platform, new_cpl, rsp, word)?;
        }
        self.mark_accessed(platform, code)?;
        self.native.gpr[gpr::RSP] = rsp;
        let selector = gate.selector & 0xfffc | u16::from(new_cpl);
        self.segments[seg::CS] = code.segment(selector);
        if new_cpl < old_cpl {
            self.segments[seg::SS] = null_stack(new_cpl);
        }
        self.finish_entry(gate);
        Ok(())
    }

    fn enter_protected(
        &mut self,
        platform: &mut dyn Platform,
        event: Event,
        gate: &Gate,
        code: &mut Descriptor,
        new_cpl: u8,
    ) -> Result<(), Exit> {
        let wide = gate.kind & 8 != 0;
        let old = (self.segments[seg::SS].selector, self.native.gpr[gpr::RSP]);
        let inner = new_cpl < self.mode.cpl;
        let (stack, top) = if inner {
            self.inner_stack(platform, new_cpl)?
        } else {
            (self.segments[seg::SS], self.native.gpr[gpr::RSP])
        };
        let mut offset = top;
        let flags = self.native.rflags & !RFlags::RF.bits()
            | if event.resume { RFlags::RF.bits() } else { 0 };
        let words = [
            inner.then_some(u64::from(old.0)),
            inner.then_some(old.1),
            Some(flags),
            Some(u64::from(self.segments[seg::CS].selector)),
            Some(self.native.gpr[RIP]),
            event.error.map(u64::from),
        ];
        for word in words.into_iter().flatten() {
            offset = self.push_on(platform, &stack, new_cpl, offset, word, wide)?;
        }
        self.mark_accessed(platform, code)?;
        self.segments[seg::CS] = code.segment(gate.selector & 0xfffc | u16::from(new_cpl));
        self.segments[seg::SS] = stack;
        self.update_mode();
        self.set_stack_pointer(offset);
        self.finish_entry(gate);
        Ok(())
    }

    /// Pushes one word on a stack that need not be the current one and returns the new offset.
    ///
    /// # Errors
    ///
    /// #SS if the stack has no room; faults of the write.
    pub(crate) fn push_on(
        &mut self,
        platform: &mut dyn Platform,
        stack: &Segment,
        cpl: u8,
        offset: u64,
        value: u64,
        wide: bool,
    ) -> Result<u64, Exit> {
        let size = if wide { 4 } else { 2 };
        let mask = if stack.attributes & attr::DB != 0 { 0xffff_ffff } else { 0xffff };
        let offset = offset.wrapping_sub(size) & mask;
        let limit = u64::from(stack.limit);
        let down = stack.attributes & attr::DOWN_CONFORMING != 0;
        let inside = if down {
            offset > limit && offset + (size - 1) <= mask
        } else {
            offset + (size - 1) <= limit
        };
        if !inside {
            return Err(Fault::ss(if cpl < self.mode.cpl { stack.selector } else { 0 }).into());
        }
        let linear = stack.base.wrapping_add(offset) & 0xffff_ffff;
        if wide {
            self.push_for(platform, cpl, linear, value as u32)?;
        } else {
            self.push_for(platform, cpl, linear, value as u16)?;
        }
        Ok(offset)
    }

    /// The last part of entering a handler: instruction pointer and flags.
    fn finish_entry(&mut self, gate: &Gate) {
        self.native.gpr[RIP] = gate.offset;
        let mut cleared = RFlags::TF | RFlags::NT | RFlags::RF | RFlags::VM;
        if gate.kind & 1 == 0 {
            cleared |= RFlags::IF;
        }
        self.native.rflags &= !cleared.bits();
        self.update_mode();
    }

    fn deliver_real(&mut self, platform: &mut dyn Platform, event: Event) -> Result<(), Exit> {
        let at = u64::from(event.vector) * 4;
        if at + 3 > u64::from(self.idtr.limit) {
            return Err(Fault::GP0.into());
        }
        let entry = self.load_system::<u32>(platform, self.idtr.base.wrapping_add(at))?;
        let rsp = self.native.gpr[gpr::RSP];
        let frame = [
            self.native.rflags as u16,
            self.segments[seg::CS].selector,
            self.native.gpr[RIP] as u16,
        ];
        for word in frame {
            if let Err(exit) = self.push(platform, word) {
                self.native.gpr[gpr::RSP] = rsp;
                return Err(exit);
            }
        }
        self.native.rflags &= !(RFlags::IF | RFlags::TF | RFlags::AC | RFlags::RF).bits();
        let selector = (entry >> 16) as u16;
        self.segments[seg::CS].selector = selector;
        self.segments[seg::CS].base = u64::from(selector) << 4;
        self.native.gpr[RIP] = u64::from(entry & 0xffff);
        self.update_mode();
        Ok(())
    }
}

/// The null stack segment of 64-bit handlers.
pub(crate) fn null_stack(cpl: u8) -> Segment {
    Segment {
        selector: u16::from(cpl),
        base: 0,
        limit: 0,
        attributes: attr::UNUSABLE | u32::from(cpl) << attr::DPL_SHIFT,
    }
}

/// INT n, INT3, INTO (where OF is set), INT1: the vector is the immediate.
pub fn software_interrupt(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    platform.ledger().count(Intercept::Privileged(Privileged::SoftwareInterrupt));
    let vector = op.imm as u8;
    if vector == Vector::Overflow as u8 && op.rep == 1 && !cpu.rflags().contains(RFlags::OF) {
        return Ok(());
    }
    if cpu.supervised.on {
        let trap = if vector == Vector::Debug as u8 && op.rep == 1 {
            Trap::Exception(Exception { vector: Vector::Debug, error: 0, address: 0 })
        } else {
            Trap::SoftwareInterrupt { vector, length: (op.end - op.start) as u8 }
        };
        return cpu.trap_after(platform, op, trap);
    }
    let (this, task) = (cpu.native.gpr[RIP], cpu.tr.selector);
    cpu.native.gpr[RIP] = op.next_rip(cpu);
    // INT1 is not subject to the gate's privilege level.
    let software = vector != Vector::Debug as u8 || op.rep == 0;
    let event = Event { vector, error: None, software, resume: false };
    match cpu.deliver(platform, event) {
        Ok(()) => Err(Exit::Jump),
        Err(exit) if cpu.tr.selector == task => {
            cpu.native.gpr[RIP] = this;
            Err(exit)
        }
        Err(exit) => Err(cpu.fault_of_new_task(op, exit)),
    }
}
