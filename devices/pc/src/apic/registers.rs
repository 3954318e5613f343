//! The state of one local APIC and what its registers do.
//!
//! All of this runs under the APIC's lock. What concerns others (a message to be sent, an end of
//! interrupt to be told) is returned as an [`Effect`] and carried out without the lock.

use super::fabric::{Destination, Message};
use super::spec::{
    Base, DFR_FLAT, DFR_ONES, DeliveryMode, Errors, ICR_RESERVED, ICR_WRITABLE, LDR_WRITABLE,
    LVT_ENTRIES, LVT_MASKED, LVT_WRITABLE, Lvt, SVR_ENABLED, SVR_RESET, SVR_WRITABLE, TimerMode,
    VERSION, register,
};
use super::timer::ApicTimer;
use super::vectors::VectorSet;
use ambos_vcpu::{Attention, MsrFault, Request};
use std::sync::Arc;

/// A place where the guest can tell the end of the interrupt in service without writing the EOI
/// register. Only the vCPU's own thread uses it.
pub trait LazyEnd: Send {
    /// Invites the guest to do so; returns whether that was possible.
    fn invite(&self) -> bool;

    /// Takes the invitation back; returns whether the guest has not followed it.
    fn revoke(&self) -> bool;
}

/// What a register access has to do outside the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// Send a message.
    Send(Message),
    /// Tell the I/O APIC of the end of a level-triggered interrupt.
    EndOfInterrupt(u8),
}

/// There is no such register, or it cannot be accessed this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRegister;

/// Value of the base register after reset, without the bootstrap bit.
const BASE_RESET: u64 = ambos_pc_map::memory::LOCAL_APIC | Base::ENABLED.bits();

pub(super) struct Core {
    // Configuration.
    id: u32,

    // Dependencies.
    attention: Arc<Attention>,
    pub(super) timer: ApicTimer,

    // Volatile state.
    base: Base,
    task_priority: u8,
    spurious: u32,
    /// The xAPIC's logical destination register.
    logical: u32,
    format: u32,
    command: u64,
    /// Errors as the guest last latched them.
    errors_shown: Errors,
    errors: Errors,
    lvt: [u32; LVT_ENTRIES],
    requests: VectorSet,
    in_service: VectorSet,
    level_triggered: VectorSet,
    /// Levels of the pins LINT0 and LINT1.
    pins: [bool; 2],
    /// An ExtINT message arrived and was not served yet.
    ext_int: bool,
    lazy_end: Option<Box<dyn LazyEnd>>,
    /// The guest is invited to end the interrupt in service lazily, and may have done so.
    invited: bool,
}

impl Core {
    pub(super) fn new(id: u32, attention: Arc<Attention>, timer: ApicTimer) -> Self {
        let bootstrap = if id == 0 { Base::BOOTSTRAP } else { Base::empty() };
        Self {
            id,
            attention,
            timer,
            base: Base::from_bits_retain(BASE_RESET) | bootstrap,
            task_priority: 0,
            spurious: SVR_RESET,
            logical: 0,
            format: u32::MAX,
            command: 0,
            errors_shown: Errors::empty(),
            errors: Errors::empty(),
            lvt: [LVT_MASKED; LVT_ENTRIES],
            requests: VectorSet::default(),
            in_service: VectorSet::default(),
            level_triggered: VectorSet::default(),
            pins: [false; 2],
            ext_int: false,
            lazy_end: None,
            invited: false,
        }
    }

    /// INIT: everything but the identity and the base register.
    fn init(&mut self) {
        self.timer.reset();
        self.task_priority = 0;
        self.spurious = SVR_RESET;
        self.logical = 0;
        self.format = u32::MAX;
        self.command = 0;
        self.errors_shown = Errors::empty();
        self.errors = Errors::empty();
        self.lvt = [LVT_MASKED; LVT_ENTRIES];
        self.requests = VectorSet::default();
        self.in_service = VectorSet::default();
        self.level_triggered = VectorSet::default();
        self.ext_int = false;
        self.lazy_end = None;
        self.invited = false;
    }

    /// Uses `lazy_end` from now on, or none.
    pub(super) fn set_lazy_end(&mut self, lazy_end: Option<Box<dyn LazyEnd>>) {
        self.learn_of_end();
        self.lazy_end = lazy_end;
    }

    /// Finds out whether the guest has ended the interrupt in service lazily. From here on it cannot.
    pub(super) fn learn_of_end(&mut self) {
        let invited = std::mem::take(&mut self.invited);
        if invited && self.lazy_end.as_ref().is_some_and(|end| !end.revoke()) {
            // Such an interrupt is never level-triggered: nobody else is to be told.
            let _ = self.end_of_interrupt();
        }
    }

    /// Invites the guest to end `vector`, which it is about to serve, lazily, if nothing waits for
    /// that end.
    fn invite_lazy_end(&mut self, vector: u8) {
        if let Some(end) = &self.lazy_end
            && !self.level_triggered.contains(vector)
            && self.requests.highest().is_none()
        {
            self.invited = end.invite();
        }
    }

    /// Virtual wire mode, as firmware leaves it on the bootstrap processor: the 8259s reach the
    /// processor through LINT0, NMI through LINT1.
    pub(super) fn set_virtual_wire(&mut self) {
        self.spurious = SVR_RESET | SVR_ENABLED;
        self.lvt[Lvt::Lint0 as usize] = 0x700;
        self.lvt[Lvt::Lint1 as usize] = 0x400;
        self.update_attention();
    }

    fn enabled(&self) -> bool {
        self.base.contains(Base::ENABLED)
    }

    pub(super) fn x2apic(&self) -> bool {
        self.base.contains(Base::ENABLED | Base::X2APIC)
    }

    pub(super) fn software_enabled(&self) -> bool {
        self.enabled() && self.spurious & SVR_ENABLED != 0
    }

    fn entry(&self, entry: Lvt) -> u32 {
        self.lvt[entry as usize]
    }

    fn timer_mode(&self) -> TimerMode {
        TimerMode::of(self.entry(Lvt::Timer))
    }

    // Priorities and delivery.

    /// Processor priority (SDM vol. 3, "Task and processor priorities").
    pub(super) fn processor_priority(&self) -> u8 {
        let served = self.in_service.highest().unwrap_or(0) & 0xf0;
        if self.task_priority >> 4 >= served >> 4 { self.task_priority } else { served }
    }

    fn deliverable(&self) -> Option<u8> {
        let vector = self.requests.highest()?;
        let urgent = vector >> 4 > self.processor_priority() >> 4;
        (urgent && self.software_enabled()).then_some(vector)
    }

    /// Whether the 8259s ask for the processor and may have it.
    fn ext_int_pending(&self) -> bool {
        if !self.enabled() {
            // Without an APIC, LINT0 is the processor's INTR pin.
            return self.pins[0];
        }
        let entry = self.entry(Lvt::Lint0);
        let through = entry & LVT_MASKED == 0
            && DeliveryMode::from_field(entry >> 8 & 7) == Some(DeliveryMode::ExtInt);
        self.ext_int || (through && self.pins[0])
    }

    /// Asks the vCPU to look, or not to look any more.
    pub(super) fn update_attention(&self) {
        // Whether what waits can be delivered is known only after a look at the guest's memory.
        let unknown = self.invited && self.requests.highest().is_some();
        let wanted = unknown || self.deliverable().is_some() || self.ext_int_pending();
        let raised = self.attention.pending().contains(Request::INTERRUPT);
        if wanted && !raised {
            self.attention.raise(Request::INTERRUPT);
        } else if raised && !wanted {
            self.attention.lower(Request::INTERRUPT);
        }
    }

    /// Moves the most urgent vector into service. `Err` says that the 8259s are to be asked.
    pub(super) fn acknowledge(&mut self) -> Result<Option<u8>, AskPic> {
        self.learn_of_end();
        let vector = self.deliverable();
        if let Some(vector) = vector {
            self.requests.remove(vector);
            self.in_service.insert(vector);
            self.invite_lazy_end(vector);
        } else if self.ext_int_pending() {
            self.ext_int = false;
            return Err(AskPic);
        }
        self.update_attention();
        Ok(vector)
    }

    pub(super) fn task_priority(&self) -> u8 {
        self.task_priority
    }

    pub(super) fn set_task_priority(&mut self, value: u8) {
        self.task_priority = value;
        self.update_attention();
    }

    /// A message for this APIC.
    pub(super) fn accept(&mut self, mode: DeliveryMode, vector: u8, level_triggered: bool) {
        if !self.enabled() {
            return;
        }
        match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.request(vector, level_triggered);
            }
            DeliveryMode::Nmi => self.attention.raise(Request::NMI),
            DeliveryMode::Init => {
                self.init();
                // A start-up message that came before is void.
                self.attention.lower(Request::SIPI);
                self.attention.raise(Request::INIT);
            }
            DeliveryMode::StartUp => self.attention.start_up(vector),
            DeliveryMode::ExtInt => self.ext_int = true,
            // There is no system management mode.
            DeliveryMode::Smi => {}
        }
        self.update_attention();
    }

    fn request(&mut self, vector: u8, level_triggered: bool) {
        if !self.software_enabled() {
            return;
        }
        if vector < 16 {
            return self.error(Errors::RECEIVE_ILLEGAL_VECTOR);
        }
        self.requests.insert(vector);
        if level_triggered {
            self.level_triggered.insert(vector);
        } else {
            self.level_triggered.remove(vector);
        }
    }

    /// Records an error and interrupts for it. An illegal vector of the error interrupt itself is
    /// recorded without a further interrupt.
    fn error(&mut self, error: Errors) {
        self.errors |= error;
        let entry = self.entry(Lvt::Error);
        let vector = entry as u8;
        if entry & LVT_MASKED == 0 && vector >= 16 {
            self.request(vector, false);
        }
    }

    /// Something local happened that a table entry stands for.
    fn local_event(&mut self, entry: u32) {
        if entry & LVT_MASKED != 0 {
            return;
        }
        match DeliveryMode::from_field(entry >> 8 & 7) {
            Some(DeliveryMode::Fixed) => self.request(entry as u8, false),
            Some(DeliveryMode::Nmi) => self.attention.raise(Request::NMI),
            // ExtINT follows the pin's level; the others do not arise locally.
            _ => {}
        }
    }

    /// Pin LINT0 or LINT1 changed.
    pub(super) fn set_pin(&mut self, pin: usize, level: bool) {
        let Some(state) = self.pins.get_mut(pin) else { return };
        let rising = level && !*state;
        *state = level;
        if rising && self.enabled() {
            let entry = self.entry(if pin == 0 { Lvt::Lint0 } else { Lvt::Lint1 });
            self.local_event(entry);
        }
        self.update_attention();
    }

    fn timer_interrupt(&mut self) {
        // The delivery mode field of the timer's entry is reserved: always fixed.
        self.local_event(self.entry(Lvt::Timer) & !0x700);
        self.update_attention();
    }

    pub(super) fn timer_expired(&mut self, now: u64) {
        if self.timer.expire(now, self.timer_mode()) {
            self.timer_interrupt();
        }
    }

    /// The relation of the time-stamp counter to machine time changed.
    pub(super) fn tsc_changed(&mut self) {
        if self.timer.check_tsc_deadline() {
            self.timer_interrupt();
        }
    }

    // How messages find this APIC.

    /// What [`Routing`](super::fabric::Routing) needs to know.
    pub(super) fn routing(&self) -> super::fabric::Routing {
        use super::fabric::Routing;
        if self.x2apic() {
            Routing::X2Apic
        } else if self.format >> 28 == DFR_FLAT {
            Routing::Flat((self.logical >> 24) as u8)
        } else {
            Routing::Cluster((self.logical >> 24) as u8)
        }
    }

    // Model-specific registers.

    pub(super) fn base(&self) -> u64 {
        self.base.bits()
    }

    /// Address of the xAPIC's page, if it is visible.
    pub(super) fn page(&self) -> Option<u64> {
        (self.enabled() && !self.x2apic()).then_some((self.base & Base::ADDRESS).bits())
    }

    pub(super) fn set_base(&mut self, value: u64) -> Result<(), MsrFault> {
        let new = Base::from_bits(value).ok_or(MsrFault)?;
        let modes = Base::ENABLED | Base::X2APIC;
        let (before, after) = (self.base & modes, new & modes);
        let legal = after != Base::X2APIC
            && !(before == modes && after == Base::ENABLED)
            && !(before.is_empty() && after == modes);
        if !legal {
            return Err(MsrFault);
        }
        self.base = new;
        if before != after {
            if after.is_empty() {
                // Disabling loses the state.
                self.init();
            }
            self.command = 0;
        }
        self.update_attention();
        Ok(())
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline()
    }

    pub(super) fn set_tsc_deadline(&mut self, value: u64) {
        if self.timer_mode() == TimerMode::TscDeadline && self.timer.set_tsc_deadline(value) {
            self.timer_interrupt();
        }
    }

    // Registers, by number.

    /// Records an access to a register that does not exist.
    pub(super) fn illegal_register(&mut self) {
        self.error(Errors::ILLEGAL_REGISTER);
        self.update_attention();
    }

    /// Reads a register that both modes have in common.
    pub(super) fn read(&self, number: u32) -> Result<u32, NoRegister> {
        Ok(match number {
            register::ID if self.x2apic() => self.id,
            register::ID => self.id << 24,
            register::VERSION => VERSION,
            register::TPR => u32::from(self.task_priority),
            register::PPR => u32::from(self.processor_priority()),
            register::LDR if self.x2apic() => x2apic_logical_id(self.id),
            register::LDR => self.logical,
            register::SVR => self.spurious,
            register::ISR..register::TMR => self.in_service.word(number),
            register::TMR..register::IRR => self.level_triggered.word(number),
            register::IRR..register::ESR => self.requests.word(number),
            register::ESR => self.errors_shown.bits(),
            register::ICR => self.command as u32,
            register::LVT_FIRST..=register::LVT_LAST => {
                self.lvt[(number - register::LVT_FIRST) as usize]
            }
            register::INITIAL_COUNT => self.timer.initial(),
            register::CURRENT_COUNT => self.timer.count(),
            register::DIVIDE => self.timer.divide(),
            register::APR | register::RRD if !self.x2apic() => 0,
            register::DFR if !self.x2apic() => self.format,
            register::ICR_HIGH if !self.x2apic() => (self.command >> 32) as u32,
            _ => return Err(NoRegister),
        })
    }

    /// The whole interrupt command.
    pub(super) fn command(&self) -> u64 {
        self.command
    }

    /// Writes a register that both modes have in common, or the xAPIC alone.
    pub(super) fn write(&mut self, number: u32, value: u32) -> Result<Effect, NoRegister> {
        let effect = self.write_register(number, value);
        self.update_attention();
        effect
    }

    fn write_register(&mut self, number: u32, value: u32) -> Result<Effect, NoRegister> {
        match number {
            register::TPR => self.task_priority = value as u8,
            register::EOI => {
                self.learn_of_end();
                return Ok(self.end_of_interrupt());
            }
            register::SVR => {
                self.spurious = value & SVR_WRITABLE;
                if !self.software_enabled() {
                    self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            register::ESR => {
                self.errors_shown = self.errors;
                self.errors = Errors::empty();
            }
            register::LVT_FIRST..=register::LVT_LAST => {
                self.write_lvt((number - register::LVT_FIRST) as usize, value);
            }
            register::INITIAL_COUNT if self.timer_mode() == TimerMode::TscDeadline => {}
            register::INITIAL_COUNT => self.timer.set_initial(value),
            register::DIVIDE => self.timer.set_divide(value),
            register::LDR if !self.x2apic() => self.logical = value & LDR_WRITABLE,
            register::DFR if !self.x2apic() => self.format = value | DFR_ONES,
            register::ICR_HIGH if !self.x2apic() => {
                self.command = self.command & 0xffff_ffff | u64::from(value) << 32;
            }
            register::ICR if !self.x2apic() => {
                let high = self.command >> 32 << 32;
                self.command = high | u64::from(value & ICR_WRITABLE);
                return Ok(self.send(self.command >> 56, 0xff));
            }
            // Read-only in the page: writes are dropped.
            register::ID | register::APR if !self.x2apic() => {}
            _ => return Err(NoRegister),
        }
        Ok(Effect::None)
    }

    /// Writes a model-specific register of the x2APIC.
    pub(super) fn write_x2apic(&mut self, number: u32, value: u64) -> Result<Effect, MsrFault> {
        if number == register::ICR {
            if value & ICR_RESERVED != 0 {
                return Err(MsrFault);
            }
            self.command = value & (u64::from(ICR_WRITABLE) | 0xffff_ffff << 32);
            let effect = self.send(value >> 32, 0xffff_ffff);
            self.update_attention();
            return Ok(effect);
        }
        let value = u32::try_from(value).map_err(|_| MsrFault)?;
        match number {
            register::SELF_IPI if value <= 0xff => {
                let fixed = Message {
                    destination: Destination::Physical(self.id),
                    mode: DeliveryMode::Fixed,
                    vector: value as u8,
                    level_triggered: false,
                };
                Ok(self.checked(fixed))
            }
            register::EOI | register::ESR if value != 0 => Err(MsrFault),
            register::TPR if value > 0xff => Err(MsrFault),
            _ => self.write(number, value).map_err(|NoRegister| MsrFault),
        }
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.in_service.highest() else { return Effect::None };
        self.in_service.remove(vector);
        if self.level_triggered.contains(vector) {
            Effect::EndOfInterrupt(vector)
        } else {
            Effect::None
        }
    }

    fn write_lvt(&mut self, index: usize, value: u32) {
        let mut value = value & LVT_WRITABLE[index];
        if !self.software_enabled() {
            value |= LVT_MASKED;
        }
        let before = std::mem::replace(&mut self.lvt[index], value);
        if index == Lvt::Timer as usize {
            let deadline = |entry| TimerMode::of(entry) == TimerMode::TscDeadline;
            if deadline(before) != deadline(value) {
                self.timer.stop();
            }
        }
    }

    /// The message of the interrupt command. `broadcast` is the destination that means everybody.
    fn send(&mut self, destination: u64, broadcast: u64) -> Effect {
        let command = self.command as u32;
        let Some(mode) = DeliveryMode::from_field(command >> 8 & 7) else { return Effect::None };
        let level_triggered = command & 1 << 15 != 0;
        if mode == DeliveryMode::Init && level_triggered && command & 1 << 14 == 0 {
            // "INIT level de-assert" set arbitration IDs on processors of the past.
            return Effect::None;
        }
        let destination = match command >> 18 & 3 {
            0 if destination == broadcast => Destination::All,
            0 if command & 1 << 11 != 0 => Destination::Logical(destination as u32),
            0 => Destination::Physical(destination as u32),
            1 => Destination::Physical(self.id),
            2 => Destination::All,
            _ => Destination::AllBut(self.id),
        };
        self.checked(Message { destination, mode, vector: command as u8, level_triggered: false })
    }

    /// Refuses to send what no APIC would accept.
    fn checked(&mut self, message: Message) -> Effect {
        let fixed = matches!(message.mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if fixed && message.vector < 16 {
            self.error(Errors::SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        Effect::Send(message)
    }
}

/// The 8259s are to be asked for the vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AskPic;

/// The logical ID that x2APIC mode derives from the ID (SDM vol. 3, "Logical destination mode in
/// x2APIC mode").
pub(super) const fn x2apic_logical_id(id: u32) -> u32 {
    id >> 4 << 16 | 1 << (id & 0xf)
}
