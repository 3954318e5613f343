//! The MC146818 real-time clock and its battery-backed memory (CMOS).
//!
//! The time of day is machine time plus what the machine's owner and the guest set. Nothing ticks
//! while nobody listens: the registers are computed when they are read, flags are brought up to
//! date when they are looked at, and a timer is armed only for interrupts that are enabled.

mod calendar;

use ambos_clock::{Expire, NANOSECONDS, Timer, TimerTarget, VmClock};
use ambos_device::{AccessError, PortDevice, read_bytes, write_bytes};
use ambos_wire::Wire;
use calendar::{DAY, Date};
use std::sync::{Arc, Mutex, Weak};

/// Registers (Motorola MC146818 data sheet; memory map of the IBM AT and its successors).
mod spec {
    use bitflags::bitflags;

    pub(super) const SECOND: u8 = 0x00;
    pub(super) const SECOND_ALARM: u8 = 0x01;
    pub(super) const MINUTE: u8 = 0x02;
    pub(super) const MINUTE_ALARM: u8 = 0x03;
    pub(super) const HOUR: u8 = 0x04;
    pub(super) const HOUR_ALARM: u8 = 0x05;
    pub(super) const WEEKDAY: u8 = 0x06;
    pub(super) const DAY: u8 = 0x07;
    pub(super) const MONTH: u8 = 0x08;
    pub(super) const YEAR: u8 = 0x09;
    pub(super) const A: u8 = 0x0a;
    pub(super) const B: u8 = 0x0b;
    pub(super) const C: u8 = 0x0c;
    pub(super) const D: u8 = 0x0d;
    /// Installed devices.
    pub(super) const EQUIPMENT: u8 = 0x14;
    /// Conventional memory in KiB, two bytes.
    pub(super) const BASE_MEMORY: u8 = 0x15;
    /// Memory above 1 MiB in KiB, two bytes, at most 63 MiB; twice.
    pub(super) const EXTENDED_MEMORY: [u8; 2] = [0x17, 0x30];
    /// The century (the FADT says where it is).
    pub(super) const CENTURY: u8 = 0x32;
    /// Memory above 16 MiB in units of 64 KiB, two bytes.
    pub(super) const HIGH_MEMORY: u8 = 0x34;
    /// Memory above 4 GiB in units of 64 KiB, three bytes.
    pub(super) const HIGHEST_MEMORY: u8 = 0x5b;
    /// Number of processors less one.
    pub(super) const CPUS: u8 = 0x5f;

    /// Register A: an update is in progress.
    pub(super) const UPDATE_IN_PROGRESS: u8 = 1 << 7;
    /// Register A after reset: 32.768 kHz time base, 1024 Hz periodic rate.
    pub(super) const A_RESET: u8 = 0x26;
    /// Register A: the divider's bits that hold it in reset.
    pub(super) const DIVIDER_RESET: u8 = 0x60;
    /// Register D: battery and memory are good.
    pub(super) const VALID: u8 = 1 << 7;
    /// How long before an update the flag announces it, in nanoseconds.
    pub(super) const UPDATE_ANNOUNCED: u64 = 244_000;
    /// Alarm values from here on match everything.
    pub(super) const ALARM_ANY: u8 = 0xc0;
    /// Hour register in 12-hour mode: afternoon.
    pub(super) const AFTERNOON: u8 = 0x80;
    /// Time base of the periodic interrupt.
    pub(super) const BASE_HZ: u64 = 32_768;

    bitflags! {
        /// Register B.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) struct Control: u8 {
            /// 24-hour mode.
            const HOURS_24 = 1 << 1;
            /// Binary, not decimal.
            const BINARY = 1 << 2;
            /// The time stands and can be set.
            const SET = 1 << 7;
            const _ = !0;
        }
    }

    bitflags! {
        /// Register C; the same bits of register B enable the interrupts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) struct Flags: u8 {
            const UPDATE = 1 << 4;
            const ALARM = 1 << 5;
            const PERIODIC = 1 << 6;
        }
    }
    /// Register C: an enabled interrupt is pending.
    pub(super) const INTERRUPT: u8 = 1 << 7;
}

use spec::{Control, Flags};

/// What firmware writes into the battery-backed memory.
#[derive(Debug, Clone, Copy)]
pub struct RtcConfig {
    /// Time of day at machine time zero, in nanoseconds since 1970 began (UTC).
    pub unix_time_ns: u64,
    /// RAM below 4 GiB in bytes.
    pub low_ram: u64,
    /// RAM above 4 GiB in bytes.
    pub high_ram: u64,
    /// Number of vCPUs.
    pub cpus: u32,
}

/// Registers of the time of day, in the order of [`Rtc::encode`].
const TIME: [u8; 8] = [
    spec::SECOND,
    spec::MINUTE,
    spec::HOUR,
    spec::WEEKDAY,
    spec::DAY,
    spec::MONTH,
    spec::YEAR,
    spec::CENTURY,
];

/// The clock and its memory.
#[derive(Debug)]
pub struct Rtc {
    // Dependencies.
    timer: Timer,
    interrupt: Wire,

    // Volatile state.
    /// Seconds since 1970 at machine time zero, less [`Rtc::phase`].
    base: i64,
    /// Nanoseconds of a second that had passed at machine time zero.
    phase: u64,
    index: u8,
    memory: [u8; 128],
    control: Control,
    flags: Flags,
    /// Machine time up to which [`Rtc::flags`] are right.
    checked: u64,
    /// The time registers while the guest sets them.
    setting: Option<[u8; TIME.len()]>,
}

impl Rtc {
    /// Offset of the index port.
    pub const INDEX: u16 = 0;
    /// Offset of the data port.
    pub const DATA: u16 = 1;

    /// A clock that interrupts through `interrupt`.
    pub fn new(clock: &Arc<VmClock>, interrupt: Wire, config: &RtcConfig) -> Arc<Mutex<Self>> {
        let zero = config.unix_time_ns.saturating_sub(clock.now());
        Arc::new_cyclic(|rtc: &Weak<Mutex<Self>>| {
            let timer = clock.timer("MC146818", rtc.clone() as Weak<dyn TimerTarget>);
            Mutex::new(Self {
                timer,
                interrupt,
                base: (zero / NANOSECONDS) as i64,
                phase: zero % NANOSECONDS,
                index: 0,
                memory: initial_memory(config),
                control: Control::HOURS_24,
                flags: Flags::empty(),
                checked: clock.now(),
                setting: None,
            })
        })
    }

    fn now(&self) -> u64 {
        self.timer.clock().now()
    }

    /// Seconds that began since machine time zero, at machine time `now`.
    fn elapsed(&self, now: u64) -> i64 {
        (now.saturating_add(self.phase) / NANOSECONDS) as i64
    }

    /// Machine time at which second `elapsed` begins.
    fn time_of(&self, elapsed: i64) -> u64 {
        let elapsed = u64::try_from(elapsed).unwrap_or(0);
        elapsed.saturating_mul(NANOSECONDS).saturating_sub(self.phase)
    }

    // The format of the time registers.

    fn to_register(&self, value: i64) -> u8 {
        let value = value.rem_euclid(100) as u8;
        if self.control.contains(Control::BINARY) { value } else { value / 10 * 16 + value % 10 }
    }

    fn of_register(&self, value: u8) -> i64 {
        if self.control.contains(Control::BINARY) {
            i64::from(value)
        } else {
            i64::from(value >> 4) * 10 + i64::from(value & 0xf)
        }
    }

    fn hour_to_register(&self, hour: i64) -> u8 {
        if self.control.contains(Control::HOURS_24) {
            return self.to_register(hour);
        }
        let afternoon = if hour >= 12 { spec::AFTERNOON } else { 0 };
        self.to_register((hour + 11) % 12 + 1) | afternoon
    }

    fn hour_of_register(&self, value: u8) -> i64 {
        if self.control.contains(Control::HOURS_24) {
            return self.of_register(value);
        }
        let afternoon = if value & spec::AFTERNOON != 0 { 12 } else { 0 };
        self.of_register(value & !spec::AFTERNOON) % 12 + afternoon
    }

    /// The time registers at machine time `now`.
    fn encode(&self, now: u64) -> [u8; TIME.len()] {
        let date = Date::of(self.base.saturating_add(self.elapsed(now)));
        [
            self.to_register(date.second),
            self.to_register(date.minute),
            self.hour_to_register(date.hour),
            self.to_register(date.weekday()),
            self.to_register(date.day),
            self.to_register(date.month),
            self.to_register(date.year),
            self.to_register(date.year.div_euclid(100)),
        ]
    }

    /// Sets the time of day from registers; the second goes on where it is.
    fn set_time(&mut self, registers: [u8; TIME.len()], now: u64) {
        let [second, minute, hour, _, day, month, year, century] = registers;
        let date = Date {
            year: self.of_register(year) + self.of_register(century) * 100,
            month: self.of_register(month),
            day: self.of_register(day),
            hour: self.hour_of_register(hour),
            minute: self.of_register(minute),
            second: self.of_register(second),
        };
        self.base = date.seconds() - self.elapsed(now);
    }

    // Interrupts.

    fn enabled(&self) -> Flags {
        Flags::from_bits_truncate(self.control.bits())
    }

    /// Ticks of the 32.768 kHz time base per periodic interrupt.
    fn period(&self) -> Option<u64> {
        match self.memory[usize::from(spec::A)] & 0xf {
            0 => None,
            rate @ (1 | 2) => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// The first second after `elapsed` at which the alarm matches.
    fn next_alarm(&self, elapsed: i64) -> Option<i64> {
        let alarm = |register: u8| self.memory[usize::from(register)];
        let field = |register, any: fn(&Self, u8) -> i64| {
            let value = alarm(register);
            (value < spec::ALARM_ANY).then(|| any(self, value))
        };
        let second = field(spec::SECOND_ALARM, Self::of_register);
        let minute = field(spec::MINUTE_ALARM, Self::of_register);
        // In 12-hour mode the hours of the afternoon have the high bit set, too.
        let hour = field(spec::HOUR_ALARM, Self::hour_of_register);
        let invalid = |field: Option<i64>, limit| field.is_some_and(|field| field >= limit);
        if invalid(second, 60) || invalid(minute, 60) || invalid(hour, 24) {
            return None;
        }
        let mut at = self.base.saturating_add(elapsed).saturating_add(1);
        let end = at.saturating_add(DAY);
        while at < end {
            let time = at.rem_euclid(DAY);
            let (hours, minutes, seconds) = (time / 3600, time / 60 % 60, time % 60);
            if let Some(hour) = hour.filter(|hour| *hour != hours) {
                at += (hour - hours).rem_euclid(24) * 3600 - time % 3600;
            } else if let Some(minute) = minute.filter(|minute| *minute != minutes) {
                at += (minute - minutes).rem_euclid(60) * 60 - seconds;
            } else if let Some(second) = second.filter(|second| *second != seconds) {
                at += (second - seconds).rem_euclid(60);
            } else {
                return Some(at - self.base);
            }
        }
        None
    }

    /// Brings the flags up to date.
    fn check(&mut self, now: u64) {
        let before = std::mem::replace(&mut self.checked, now);
        if let Some(period) = self.period()
            && base_tick(now) / period != base_tick(before) / period
        {
            self.flags |= Flags::PERIODIC;
        }
        let (from, to) = (self.elapsed(before), self.elapsed(now));
        if from != to && !self.control.contains(Control::SET) {
            self.flags |= Flags::UPDATE;
            if self.next_alarm(from).is_some_and(|alarm| alarm <= to) {
                self.flags |= Flags::ALARM;
            }
        }
    }

    /// Drives the interrupt and plans the next one.
    fn update(&mut self, now: u64) {
        self.check(now);
        let enabled = self.enabled();
        let pending = self.flags.intersects(enabled);
        self.interrupt.set_level(pending);
        let mut next: Option<u64> = None;
        let mut plan = |time: u64| next = Some(next.map_or(time, |next| next.min(time)));
        if !pending {
            if enabled.contains(Flags::PERIODIC)
                && let Some(period) = self.period()
            {
                plan(time_of_base_tick((base_tick(now) / period + 1).saturating_mul(period)));
            }
            let elapsed = self.elapsed(now);
            if enabled.contains(Flags::UPDATE) {
                plan(self.time_of(elapsed + 1));
            }
            if enabled.contains(Flags::ALARM)
                && let Some(alarm) = self.next_alarm(elapsed)
            {
                plan(self.time_of(alarm));
            }
        }
        match next {
            Some(next) => self.timer.arm(next),
            None => self.timer.cancel(),
        }
    }

    // Registers.

    fn read_memory(&mut self, now: u64) -> u8 {
        let index = self.index;
        if let Some(place) = TIME.iter().position(|register| *register == index) {
            return self.setting.unwrap_or_else(|| self.encode(now))[place];
        }
        match index {
            spec::A => {
                let value = self.memory[usize::from(spec::A)];
                let running = !self.control.contains(Control::SET)
                    && value & spec::DIVIDER_RESET != spec::DIVIDER_RESET;
                let left = NANOSECONDS - now.saturating_add(self.phase) % NANOSECONDS;
                let busy = running && left <= spec::UPDATE_ANNOUNCED;
                value | if busy { spec::UPDATE_IN_PROGRESS } else { 0 }
            }
            spec::B => self.control.bits(),
            spec::C => {
                self.check(now);
                let pending = self.flags.intersects(self.enabled());
                let value = self.flags.bits() | if pending { spec::INTERRUPT } else { 0 };
                self.flags = Flags::empty();
                self.update(now);
                value
            }
            spec::D => spec::VALID,
            _ => self.memory[usize::from(index)],
        }
    }

    fn write_memory(&mut self, value: u8, now: u64) {
        self.check(now);
        let index = self.index;
        if let Some(place) = TIME.iter().position(|register| *register == index) {
            match &mut self.setting {
                Some(registers) => registers[place] = value,
                None => {
                    let mut registers = self.encode(now);
                    registers[place] = value;
                    self.set_time(registers, now);
                }
            }
        } else {
            match index {
                spec::A => {
                    self.memory[usize::from(spec::A)] = value & !spec::UPDATE_IN_PROGRESS;
                }
                spec::B => self.write_control(Control::from_bits_retain(value), now),
                spec::C | spec::D => {}
                _ => self.memory[usize::from(index)] = value,
            }
        }
        self.update(now);
    }

    fn write_control(&mut self, value: Control, now: u64) {
        let set = value.contains(Control::SET);
        if set && self.setting.is_none() {
            self.setting = Some(self.encode(now));
        }
        self.control = value;
        if !set && let Some(registers) = self.setting.take() {
            self.set_time(registers, now);
        }
    }
}

impl Expire for Rtc {
    fn expire(&mut self, now: u64) {
        self.update(now);
    }
}

impl PortDevice for Rtc {
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        let now = self.now();
        read_bytes(offset, data, |offset| match offset {
            // The index port cannot be read; nobody answers.
            Self::INDEX => Ok(0xff),
            Self::DATA => Ok(self.read_memory(now)),
            _ => Err(AccessError::NoRegister),
        })
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        let now = self.now();
        write_bytes(offset, data, |offset, value| {
            match offset {
                // The high bit masks NMI on real machines; none comes from there.
                Self::INDEX => self.index = value & 0x7f,
                Self::DATA => self.write_memory(value, now),
                _ => return Err(AccessError::NoRegister),
            }
            Ok(())
        })
    }
}

fn base_tick(ns: u64) -> u64 {
    (u128::from(ns) * u128::from(spec::BASE_HZ) / u128::from(NANOSECONDS)) as u64
}

fn time_of_base_tick(tick: u64) -> u64 {
    let ns = (u128::from(tick) * u128::from(NANOSECONDS)).div_ceil(u128::from(spec::BASE_HZ));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// The battery-backed memory as firmware leaves it.
fn initial_memory(config: &RtcConfig) -> [u8; 128] {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let mut memory = [0; 128];
    let mut put = |register: u8, bytes: &[u8]| {
        let at = usize::from(register);
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let capped = |value: u64| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
    put(spec::A, &[spec::A_RESET]);
    // A math coprocessor and a PS/2 mouse.
    put(spec::EQUIPMENT, &[0x06]);
    put(spec::BASE_MEMORY, &640u16.to_le_bytes());
    for register in spec::EXTENDED_MEMORY {
        put(register, &capped(config.low_ram.saturating_sub(MIB) / KIB));
    }
    put(spec::HIGH_MEMORY, &capped(config.low_ram.saturating_sub(16 * MIB) / (64 * KIB)));
    let highest = (config.high_ram / (64 * KIB)).min(0xff_ffff) as u32;
    put(spec::HIGHEST_MEMORY, &highest.to_le_bytes()[..3]);
    put(spec::CPUS, &[config.cpus.saturating_sub(1).min(255) as u8]);
    memory
}

#[cfg(test)]
mod tests;
