//! The high precision event timers: a free-running counter and three comparators, as in the
//! 82801 (without interrupts by message).
//!
//! The counter is a function of machine time. A timer is armed for each comparator whose interrupt
//! is enabled while the counter runs; periods that were missed are coalesced and the next is in
//! phase.

mod legacy;

pub use legacy::LegacySwitch;

use crate::lock;
use ambos_clock::{Expire, Timer, TimerTarget, VmClock};
use ambos_device::{AccessError, MmioDevice};
use ambos_wire::{InputPin, Wire};
use std::sync::{Arc, Mutex, Weak};

/// Registers (IA-PC HPET Specification 1.0a, section 2.3).
mod spec {
    use bitflags::bitflags;

    /// Number of comparators.
    pub(super) const TIMERS: usize = 3;
    /// Period of the counter in nanoseconds; the register gives femtoseconds.
    pub(super) const TICK_NS: u64 = 10;
    /// Capabilities and ID: revision 1, three timers, 64-bit counter, legacy replacement, vendor.
    pub(super) const CAPABILITIES: u64 = 0x8086_a201 | (TICK_NS * 1_000_000) << 32;

    pub(super) const ID: u64 = 0x00;
    pub(super) const CONFIGURATION: u64 = 0x10;
    pub(super) const STATUS: u64 = 0x20;
    pub(super) const COUNTER: u64 = 0xf0;
    /// First of the comparators' register blocks.
    pub(super) const BLOCKS: u64 = 0x100;
    /// Length of a block.
    pub(super) const BLOCK: u64 = 0x20;
    /// In a block: configuration.
    pub(super) const TIMER_CONFIGURATION: u64 = 0x00;
    /// In a block: comparator.
    pub(super) const COMPARATOR: u64 = 0x08;
    /// In a block: message address and data; not offered.
    pub(super) const MESSAGE: u64 = 0x10;

    /// I/O APIC pins that interrupts can be routed to.
    pub(super) const ROUTES: std::ops::Range<usize> = 20..24;

    bitflags! {
        /// General configuration.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) struct Configuration: u64 {
            const ENABLED = 1 << 0;
            const LEGACY_REPLACEMENT = 1 << 1;
        }
    }

    bitflags! {
        /// Configuration of a timer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) struct Control: u64 {
            const LEVEL_TRIGGERED = 1 << 1;
            const INTERRUPT = 1 << 2;
            const PERIODIC = 1 << 3;
            const CAN_BE_PERIODIC = 1 << 4;
            const IS_64_BIT = 1 << 5;
            const SET_VALUE = 1 << 6;
            const FORCE_32_BIT = 1 << 8;
            const WRITABLE = 0x3f4e;
            const ROUTES = 0x00f0_0000 << 32;
            const _ = !0;
        }
    }

    impl Control {
        /// The I/O APIC pin that the interrupt is routed to.
        pub(super) const fn route(self) -> usize {
            (self.bits() >> 9 & 0x1f) as usize
        }
    }
}

use spec::{Configuration, Control};

/// The shortest period of a comparator in ticks of the counter.
const SHORTEST_PERIOD: u64 = 50_000 / spec::TICK_NS;

/// What the HPET interrupts through.
pub struct HpetOutputs {
    /// Who drives ISA interrupts 0 and 8.
    pub legacy: Arc<Mutex<LegacySwitch>>,
    /// Pins 20–23 of the I/O APIC.
    pub io_apic: [InputPin; 4],
}

#[derive(Debug)]
struct Comparator {
    // Dependencies.
    /// To the switch; the third comparator has no place there.
    legacy: Option<Wire>,
    routed: Vec<Wire>,

    // Volatile state.
    control: Control,
    value: u64,
    period: u64,
    /// The count at which it fires next.
    fires: Option<u64>,
}

impl Comparator {
    /// What the comparator compares with.
    fn mask(&self) -> u64 {
        let narrow = self.control.contains(Control::FORCE_32_BIT);
        if narrow { u64::from(u32::MAX) } else { u64::MAX }
    }

    fn periodic(&self) -> bool {
        self.control.contains(Control::PERIODIC) && self.period & self.mask() != 0
    }

    /// Finds the count at which it fires, looking from `count` on.
    fn plan(&mut self, count: u64) {
        let ahead = match self.value.wrapping_sub(count) & self.mask() {
            0 => self.mask().wrapping_add(1),
            ahead => ahead,
        };
        let enabled = self.control.contains(Control::INTERRUPT);
        // A comparator of 64 bits does not come round again: its turn is 2^64, which is zero here.
        self.fires = (enabled && ahead != 0).then(|| count.wrapping_add(ahead));
    }

    /// The comparator was reached: in periodic mode it moves on past `count`.
    fn advance(&mut self, reached: u64, count: u64) {
        if self.periodic() {
            let period = self.period & self.mask();
            let missed = count.wrapping_sub(reached) / period;
            let step = missed.saturating_add(1).saturating_mul(period);
            self.value = self.value.wrapping_add(step) & self.mask();
        }
        self.plan(count);
    }

    fn wire(&self, replaced: bool) -> Option<&Wire> {
        match &self.legacy {
            Some(wire) if replaced => Some(wire),
            _ => self.routed.get(self.control.route().checked_sub(spec::ROUTES.start)?),
        }
    }

    fn lower(&self) {
        self.legacy.iter().chain(&self.routed).for_each(|wire| wire.set_level(false));
    }
}

/// The event timers.
pub struct Hpet {
    // Dependencies.
    timer: Timer,
    legacy: Arc<Mutex<LegacySwitch>>,

    // Volatile state.
    configuration: Configuration,
    status: u64,
    /// The count when the counter was stopped or started.
    base: u64,
    /// Machine time at which it was started.
    started: u64,
    comparators: [Comparator; spec::TIMERS],
}

impl Hpet {
    /// Event timers that stand still.
    pub fn new(clock: &Arc<VmClock>, outputs: HpetOutputs) -> Arc<Mutex<Self>> {
        let HpetOutputs { legacy, io_apic } = outputs;
        let comparators = std::array::from_fn(|index| {
            let label = format!("HPET timer {index}");
            let pin = |line: u32| InputPin::new(legacy.clone(), line);
            let line = LegacySwitch::HPET + index as u32;
            Comparator {
                legacy: (index < 2).then(|| pin(line).wire(&*label)),
                routed: io_apic.iter().map(|pin| pin.wire(&*label)).collect(),
                control: Control::CAN_BE_PERIODIC | Control::IS_64_BIT | Control::ROUTES,
                value: u64::MAX,
                period: 0,
                fires: None,
            }
        });
        Arc::new_cyclic(|hpet: &Weak<Mutex<Self>>| {
            let timer = clock.timer("HPET", hpet.clone() as Weak<dyn TimerTarget>);
            Mutex::new(Self {
                timer,
                legacy,
                configuration: Configuration::empty(),
                status: 0,
                base: 0,
                started: 0,
                comparators,
            })
        })
    }

    fn running(&self) -> bool {
        self.configuration.contains(Configuration::ENABLED)
    }

    fn replaced(&self) -> bool {
        self.configuration.contains(Configuration::LEGACY_REPLACEMENT)
    }

    fn count(&self, now: u64) -> u64 {
        let ticks =
            if self.running() { now.saturating_sub(self.started) / spec::TICK_NS } else { 0 };
        self.base.wrapping_add(ticks)
    }

    /// Arms the timer for the comparator that fires next, not before `earliest`.
    fn arm(&self, earliest: u64) {
        let fires = self.comparators.iter().filter_map(|comparator| comparator.fires);
        let next = fires.map(|count| count.wrapping_sub(self.base)).min();
        match next.filter(|_| self.running()) {
            Some(ticks) => {
                let time = self.started.saturating_add(ticks.saturating_mul(spec::TICK_NS));
                self.timer.arm(time.max(earliest));
            }
            None => self.timer.cancel(),
        }
    }

    fn fire(&mut self, index: usize) {
        let replaced = self.replaced();
        let comparator = &self.comparators[index];
        let Some(wire) = comparator.wire(replaced) else { return };
        if comparator.control.contains(Control::LEVEL_TRIGGERED) {
            self.status |= 1 << index;
            wire.set_level(true);
        } else {
            wire.pulse();
        }
    }

    fn read_register(&self, register: u64, now: u64) -> Result<u64, AccessError> {
        match register {
            spec::ID => Ok(spec::CAPABILITIES),
            spec::CONFIGURATION => Ok(self.configuration.bits()),
            spec::STATUS => Ok(self.status),
            spec::COUNTER => Ok(self.count(now)),
            _ => {
                let (index, register) = block(register).ok_or(AccessError::NoRegister)?;
                let comparator = &self.comparators[index];
                match register {
                    spec::TIMER_CONFIGURATION => Ok(comparator.control.bits()),
                    spec::COMPARATOR => Ok(comparator.value),
                    spec::MESSAGE => Ok(0),
                    _ => Err(AccessError::NoRegister),
                }
            }
        }
    }

    /// Writes those bits of a register that are in `mask`.
    fn write_register(
        &mut self,
        register: u64,
        value: u64,
        mask: u64,
        now: u64,
    ) -> Result<(), AccessError> {
        let count = self.count(now);
        match register {
            spec::ID => {}
            spec::CONFIGURATION => {
                let bits = self.configuration.bits() & !mask | value & mask;
                let configuration = Configuration::from_bits_truncate(bits);
                self.base = count;
                self.started = now;
                self.configuration = configuration;
                lock(&self.legacy).select(self.replaced());
                self.comparators.iter_mut().for_each(|comparator| comparator.plan(count));
            }
            spec::STATUS => {
                let cleared = self.status & value & mask;
                self.status &= !cleared;
                for (index, comparator) in self.comparators.iter().enumerate() {
                    if cleared & 1 << index != 0 {
                        comparator.lower();
                    }
                }
            }
            spec::COUNTER if self.running() => {}
            spec::COUNTER => {
                self.base = self.base & !mask | value & mask;
                let base = self.base;
                self.comparators.iter_mut().for_each(|comparator| comparator.plan(base));
            }
            _ => {
                let (index, register) = block(register).ok_or(AccessError::NoRegister)?;
                self.write_comparator(index, register, value, mask, count)?;
            }
        }
        self.arm(0);
        Ok(())
    }

    fn write_comparator(
        &mut self,
        index: usize,
        register: u64,
        value: u64,
        mask: u64,
        count: u64,
    ) -> Result<(), AccessError> {
        let comparator = &mut self.comparators[index];
        match register {
            spec::TIMER_CONFIGURATION => {
                let mask = mask & Control::WRITABLE.bits();
                let bits = comparator.control.bits() & !mask | value & mask;
                let before = comparator.control;
                comparator.control = Control::from_bits_retain(bits);
                let interrupts = Control::INTERRUPT | Control::LEVEL_TRIGGERED;
                if comparator.control.route() != before.route()
                    || !comparator.control.contains(interrupts)
                {
                    comparator.lower();
                    self.status &= !(1 << index);
                }
                if comparator.control.contains(Control::FORCE_32_BIT) {
                    comparator.value &= u64::from(u32::MAX);
                }
            }
            spec::COMPARATOR => {
                let set = comparator.control.contains(Control::SET_VALUE);
                if comparator.control.contains(Control::PERIODIC) {
                    comparator.period = comparator.period & !mask | value & mask;
                    comparator.period &= comparator.mask();
                }
                if set || !comparator.control.contains(Control::PERIODIC) {
                    comparator.value = comparator.value & !mask | value & mask;
                    comparator.value &= comparator.mask();
                }
                comparator.control.remove(Control::SET_VALUE);
            }
            spec::MESSAGE => return Ok(()),
            _ => return Err(AccessError::NoRegister),
        }
        comparator.plan(count);
        Ok(())
    }
}

impl Expire for Hpet {
    fn expire(&mut self, now: u64) {
        if !self.running() {
            return;
        }
        let count = self.count(now);
        for index in 0..spec::TIMERS {
            let comparator = &self.comparators[index];
            // The counter wraps around: what counts is the distance from where it was started.
            let from_base = |count: u64| count.wrapping_sub(self.base);
            let due = |fires: &u64| from_base(*fires) <= from_base(count);
            if let Some(reached) = comparator.fires.filter(due) {
                self.comparators[index].advance(reached, count);
                self.fire(index);
            }
        }
        self.arm(now.saturating_add(SHORTEST_PERIOD * spec::TICK_NS));
    }
}

impl MmioDevice for Hpet {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let (register, shift, _) = place(offset, data.len())?;
        let value = self.read_register(register, self.timer.clock().now())? >> shift;
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let (register, shift, mask) = place(offset, data.len())?;
        let mut bytes = [0; 8];
        bytes[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(bytes) << shift;
        self.write_register(register, value, mask, self.timer.clock().now())
    }
}

/// Register, shift and mask of an access of 4 or 8 bytes.
fn place(offset: u64, length: usize) -> Result<(u64, u32, u64), AccessError> {
    match (offset & 7, length) {
        (0, 8) => Ok((offset, 0, u64::MAX)),
        (0, 4) => Ok((offset, 0, 0xffff_ffff)),
        (4, 4) => Ok((offset & !7, 32, 0xffff_ffff << 32)),
        _ => Err(AccessError::Size),
    }
}

/// The comparator and its register at an offset.
fn block(register: u64) -> Option<(usize, u64)> {
    let offset = register.checked_sub(spec::BLOCKS)?;
    let index = usize::try_from(offset / spec::BLOCK).ok()?;
    (index < spec::TIMERS).then_some((index, offset % spec::BLOCK))
}

#[cfg(test)]
mod tests;
