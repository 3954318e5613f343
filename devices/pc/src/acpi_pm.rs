//! The ACPI power-management block: PM1a events and control, and the power-management timer.
//!
//! The machine is always in ACPI mode: there is no SMI command port, and SCI_EN reads as one.

use crate::power::{PowerRequest, PowerSink};
use ambos_clock::{Expire, NANOSECONDS, Timer, TimerTarget, VmClock};
use ambos_device::{AccessError, PortDevice, read_bytes, write_bytes};
use ambos_pc_map::port::{PM_TIMER_HZ, SLEEP_TYPE_S5};
use ambos_wire::Wire;
use bitflags::bitflags;
use std::sync::{Arc, Mutex, Weak};

/// Registers (ACPI 6.5, section 4.8.3).
mod spec {
    /// Offset of the status register (2 bytes).
    pub(super) const STATUS: u16 = 0;
    /// Offset of the enable register (2 bytes).
    pub(super) const ENABLE: u16 = 2;
    /// Offset of the control register (2 bytes).
    pub(super) const CONTROL: u16 = 4;
    /// Offset of the timer (4 bytes).
    pub(super) const TIMER: u16 = 8;
    /// Control: interrupts are SCIs. Always set.
    pub(super) const SCI_EN: u16 = 1 << 0;
    /// Control: bits that can be written and read back.
    pub(super) const CONTROL_WRITABLE: u16 = 0x1c02;
    /// Control, high byte: enter the sleep state of SLP_TYP.
    pub(super) const SLP_EN_HIGH: u8 = 1 << 5;
}

bitflags! {
    /// Fixed events: bits of the status and enable registers.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    struct Events: u16 {
        /// The timer's highest bit changed.
        const TIMER = 1 << 0;
        const GLOBAL = 1 << 5;
        const POWER_BUTTON = 1 << 8;
        const SLEEP_BUTTON = 1 << 9;
        const RTC = 1 << 10;
    }
}

/// How wide the timer is; the FADT's flag TMR_VAL_EXT tells the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerWidth {
    /// 24 bits.
    Bits24,
    /// 32 bits.
    Bits32,
}

/// The power-management block.
pub struct AcpiPm {
    // Configuration.
    width: TimerWidth,

    // Dependencies.
    timer: Timer,
    sci: Wire,
    power: Arc<dyn PowerSink>,

    // Volatile state.
    status: Events,
    enable: Events,
    control: u16,
    /// Changes of the timer's highest bit that were seen.
    carries: u64,
}

impl AcpiPm {
    /// A block that interrupts through `sci` (level-triggered).
    pub fn new(
        clock: &Arc<VmClock>,
        sci: Wire,
        power: Arc<dyn PowerSink>,
        width: TimerWidth,
    ) -> Arc<Mutex<Self>> {
        Arc::new_cyclic(|pm: &Weak<Mutex<Self>>| {
            let timer = clock.timer("ACPI PM timer carry", pm.clone() as Weak<dyn TimerTarget>);
            Mutex::new(Self {
                width,
                timer,
                sci,
                power,
                status: Events::empty(),
                enable: Events::empty(),
                control: 0,
                carries: 0,
            })
        })
    }

    /// Somebody pressed the power button.
    pub fn press_power_button(&mut self) {
        self.status |= Events::POWER_BUTTON;
        self.update();
    }

    fn ticks(&self) -> u64 {
        let now = u128::from(self.timer.clock().now());
        (now * u128::from(PM_TIMER_HZ) / u128::from(NANOSECONDS)) as u64
    }

    /// Shift that leaves the number of changes of the timer's highest bit.
    fn carry_shift(&self) -> u32 {
        match self.width {
            TimerWidth::Bits24 => 23,
            TimerWidth::Bits32 => 31,
        }
    }

    /// Notes carries, drives the SCI, plans the next carry.
    fn update(&mut self) {
        let shift = self.carry_shift();
        let carries = self.ticks() >> shift;
        if carries != std::mem::replace(&mut self.carries, carries) {
            self.status |= Events::TIMER;
        }
        self.sci.set_level(self.status.intersects(self.enable));
        if self.enable.contains(Events::TIMER) && !self.status.contains(Events::TIMER) {
            let tick = u128::from(carries + 1) << shift;
            let ns = (tick * u128::from(NANOSECONDS)).div_ceil(u128::from(PM_TIMER_HZ));
            self.timer.arm(u64::try_from(ns).unwrap_or(u64::MAX));
        } else {
            self.timer.cancel();
        }
    }

    fn timer_value(&self) -> u32 {
        match self.width {
            TimerWidth::Bits24 => self.ticks() as u32 & 0xff_ffff,
            TimerWidth::Bits32 => self.ticks() as u32,
        }
    }

    fn write_byte(&mut self, offset: u16, value: u8) -> Result<(), AccessError> {
        let shift = u32::from(offset & 1) * 8;
        let bits = u16::from(value) << shift;
        let keep = !(0xff << shift);
        match offset & !1 {
            spec::STATUS => self.status.remove(Events::from_bits_truncate(bits)),
            spec::ENABLE => {
                let bits = self.enable.bits() & keep | bits;
                self.enable = Events::from_bits_truncate(bits);
            }
            spec::CONTROL => {
                self.control = (self.control & keep | bits) & spec::CONTROL_WRITABLE;
                if offset & 1 != 0 && value & spec::SLP_EN_HIGH != 0 {
                    return self.sleep(value >> 2 & 7);
                }
            }
            offset if offset & !3 == spec::TIMER => {}
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }

    fn sleep(&mut self, sleep_type: u8) -> Result<(), AccessError> {
        if sleep_type != SLEEP_TYPE_S5 {
            return Err(AccessError::Unimplemented);
        }
        self.power.request(PowerRequest::PowerOff);
        Ok(())
    }
}

impl Expire for AcpiPm {
    fn expire(&mut self, _now: u64) {
        self.update();
    }
}

impl PortDevice for AcpiPm {
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        if offset & !3 == spec::TIMER {
            // The hot path: kernels without a better clock read it all the time.
            let value = self.timer_value().to_le_bytes();
            return read_bytes(offset, data, |offset| {
                let byte = usize::from(offset - spec::TIMER);
                value.get(byte).copied().ok_or(AccessError::NoRegister)
            });
        }
        self.update();
        let registers = [
            (spec::STATUS, self.status.bits()),
            (spec::ENABLE, self.enable.bits()),
            (spec::CONTROL, self.control | spec::SCI_EN),
        ];
        read_bytes(offset, data, |offset| {
            let register = registers.iter().find(|(at, _)| *at == offset & !1);
            let (_, value) = register.ok_or(AccessError::NoRegister)?;
            Ok(value.to_le_bytes()[usize::from(offset & 1)])
        })
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        self.update();
        let result = write_bytes(offset, data, |offset, value| self.write_byte(offset, value));
        self.update();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, Requests};
    use ambos_clock::ManualTime;

    struct Bench {
        pm: Arc<Mutex<AcpiPm>>,
        clock: Arc<VmClock>,
        time: ManualTime,
        requests: Arc<Requests>,
    }

    fn bench(width: TimerWidth) -> Bench {
        let (clock, time) = VmClock::manual();
        let requests = Arc::new(Requests::default());
        let pm = AcpiPm::new(&clock, Wire::unconnected("SCI"), requests.clone(), width);
        Bench { pm, clock, time, requests }
    }

    impl Bench {
        fn word(&self, offset: u16) -> u16 {
            let mut data = [0; 2];
            self.pm.lock().unwrap().read(offset, &mut data).unwrap();
            u16::from_le_bytes(data)
        }

        fn timer(&self) -> u32 {
            let mut data = [0; 4];
            self.pm.lock().unwrap().read(8, &mut data).unwrap();
            u32::from_le_bytes(data)
        }

        fn write(&self, offset: u16, value: u16) -> Result<(), AccessError> {
            self.pm.lock().unwrap().write(offset, &value.to_le_bytes())
        }

        fn sci(&self) -> bool {
            self.pm.lock().unwrap().sci.level()
        }
    }

    #[test]
    fn s5_powers_off() {
        let bench = bench(TimerWidth::Bits32);
        assert_eq!(bench.word(4), 1);
        bench.write(4, 5 << 10).unwrap();
        assert!(bench.requests.take().is_empty());
        bench.write(4, 5 << 10 | 1 << 13).unwrap();
        assert_eq!(bench.requests.take(), [PowerRequest::PowerOff]);
        assert_eq!(bench.write(4, 3 << 10 | 1 << 13), Err(AccessError::Unimplemented));
        assert!(bench.requests.take().is_empty());
    }

    #[test]
    fn the_timer_counts() {
        for (width, after_20_s) in
            [(TimerWidth::Bits24, 71_590_900 & 0xff_ffff), (TimerWidth::Bits32, 71_590_900)]
        {
            let bench = bench(width);
            bench.time.advance(NANOSECONDS);
            assert_eq!(bench.timer(), 3_579_545);
            bench.time.advance(19 * NANOSECONDS);
            assert_eq!(bench.timer(), after_20_s);
        }
    }

    #[test]
    fn the_power_button_interrupts_until_cleared() {
        let bench = bench(TimerWidth::Bits32);
        bench.pm.lock().unwrap().press_power_button();
        assert!(!bench.sci());
        bench.write(2, 0x100).unwrap();
        assert!(bench.sci());
        bench.write(0, 0x0ff).unwrap();
        assert!(bench.sci());
        bench.write(0, 0x100).unwrap();
        assert!(!bench.sci());
        assert_eq!(bench.word(0), 0);
    }

    #[test]
    fn a_carry_of_the_timer_is_an_event() {
        let bench = bench(TimerWidth::Bits24);
        bench.write(2, 1).unwrap();
        bench.time.run(2_300_000_000, 10);
        assert!(!bench.sci());
        bench.time.run(100_000_000, 10);
        assert!(bench.sci());
        bench.write(0, 1).unwrap();
        assert!(!bench.sci());
        bench.write(2, 0).unwrap();
        bench.time.run(3 * NANOSECONDS, 10);
        assert!(!bench.sci());
        assert_eq!(bench.word(0), 1);
    }

    #[test]
    fn any_sequence_of_accesses_is_survived() {
        let bench = bench(TimerWidth::Bits32);
        let mut random = Random::new(5);
        for _ in 0..100_000 {
            let offset = random.below(0x40) as u16;
            random.access(&mut *bench.pm.lock().unwrap(), offset);
            bench.time.advance(random.next() >> random.below(64) >> 24);
            bench.clock.fire_due();
        }
    }
}
