//! One counter of the 8254, as a function of time.
//!
//! A counter is not stepped: its count and its output follow from the tick at which it was started.
//! Times are absolute ticks of the 1.193182 MHz input. A count takes effect at once, where the
//! silicon takes another tick.

use super::spec::{Access, Mode};

/// A counter.
#[derive(Debug)]
pub(super) struct Channel {
    // Configuration: the control word.
    mode: Mode,
    access: Access,
    decimal: bool,

    // Volatile state.
    /// Ticks to count, 1 to 65536.
    reload: u32,
    /// A count that takes effect at a tick (modes 2 and 3) or at the next trigger.
    next_reload: Option<(u64, u32)>,
    /// The tick at which the count began; `None` while it waits for a count or a trigger.
    started: Option<u64>,
    /// Ticks counted when the gate stopped the count.
    stopped: Option<u64>,
    gate: bool,
    /// Whether a count was written that is not in effect yet.
    null_count: bool,
    /// The low byte of a count whose high byte is still to come.
    write_low: Option<u8>,
    /// Whether the next read gives the high byte.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    /// A counter that was not programmed yet.
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: Mode::InterruptOnTerminalCount,
            access: Access::Both,
            decimal: false,
            reload: 0x10000,
            next_reload: None,
            started: None,
            stopped: None,
            gate,
            null_count: true,
            write_low: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// Programs mode and access; the counter then waits for a count.
    pub(super) fn control(&mut self, mode: Mode, access: Access, decimal: bool) {
        *self = Self { mode, access, decimal, reload: self.reload, ..Self::new(self.gate) };
    }

    fn modulus(&self) -> u32 {
        if self.decimal { 10_000 } else { 0x10000 }
    }

    /// Puts a count into effect whose tick has come.
    pub(super) fn settle(&mut self, now: u64) {
        if let Some((at, reload)) = self.next_reload
            && self.mode.is_periodic()
            && self.stopped.is_none()
            && now >= at
        {
            self.next_reload = None;
            self.null_count = false;
            self.reload = reload;
            self.started = Some(at);
        }
    }

    fn elapsed(&self, now: u64) -> Option<u64> {
        let started = self.started?;
        Some(self.stopped.unwrap_or(now.saturating_sub(started)))
    }

    /// The output pin.
    pub(super) fn output(&self, now: u64) -> bool {
        let reload = u64::from(self.reload);
        let Some(elapsed) = self.elapsed(now) else {
            return self.mode != Mode::InterruptOnTerminalCount;
        };
        match self.mode {
            Mode::InterruptOnTerminalCount | Mode::OneShot => elapsed >= reload,
            Mode::RateGenerator => self.stopped.is_some() || elapsed % reload != reload - 1,
            Mode::SquareWave => self.stopped.is_some() || elapsed % reload < reload.div_ceil(2),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != reload,
        }
    }

    /// The tick of the first rising edge of the output after `now`.
    pub(super) fn next_rising_edge(&self, now: u64) -> Option<u64> {
        let started = self.started.filter(|_| self.stopped.is_none())?;
        let reload = u64::from(self.reload);
        let first = started.saturating_add(reload);
        if self.mode.is_periodic() {
            let periods = now.saturating_sub(started) / reload + 1;
            return Some(started.saturating_add(periods.saturating_mul(reload)));
        }
        // The strobes are low for one tick: what counts is that they come back.
        (first > now).then_some(first)
    }

    /// Whether the output is a short pulse that ends in a rising edge, rather than a level.
    pub(super) fn is_strobe(&self) -> bool {
        !matches!(self.mode, Mode::InterruptOnTerminalCount | Mode::OneShot)
    }

    /// What the counting element shows.
    fn count(&self, now: u64) -> u16 {
        let reload = u64::from(self.reload);
        let modulus = u64::from(self.modulus());
        let value = match self.elapsed(now) {
            None => reload,
            Some(elapsed) => match self.mode {
                Mode::RateGenerator => reload - elapsed % reload,
                Mode::SquareWave => {
                    // Counts by two, once for each half of the wave.
                    let (at, high) = (elapsed % reload, reload.div_ceil(2));
                    let steps = if at < high { at } else { at - high };
                    (reload & !1).saturating_sub(steps * 2)
                }
                _ => (reload + modulus - elapsed % modulus) % modulus,
            },
        };
        let value = (value % modulus) as u16;
        if self.decimal { to_decimal(value) } else { value }
    }

    fn status(&self, now: u64) -> u8 {
        u8::from(self.output(now)) << 7
            | u8::from(self.null_count) << 6
            | (self.access as u8) << 4
            | (self.mode as u8) << 1
            | u8::from(self.decimal)
    }

    /// Latches the count until it is read.
    pub(super) fn latch_count(&mut self, now: u64) {
        self.latched_count.get_or_insert(self.count(now));
    }

    /// Latches the status until it is read.
    pub(super) fn latch_status(&mut self, now: u64) {
        let status = self.status(now);
        self.latched_status.get_or_insert(status);
    }

    /// Reads the data port.
    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.count(now)).to_le_bytes();
        let (byte, done) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::Both if self.read_high => (high, true),
            Access::Both => (low, false),
        };
        self.read_high = !done;
        if done {
            self.latched_count = None;
        }
        byte
    }

    /// Writes the data port.
    pub(super) fn write(&mut self, value: u8, now: u64) {
        let count = match (self.access, self.write_low.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::Both, None) => {
                self.write_low = Some(value);
                if self.mode == Mode::InterruptOnTerminalCount {
                    self.started = None;
                    self.stopped = None;
                }
                return;
            }
        };
        let count = if self.decimal { from_decimal(count) } else { u32::from(count) };
        self.load(if count == 0 { self.modulus() } else { count }, now);
    }

    fn load(&mut self, reload: u32, now: u64) {
        match self.mode {
            Mode::InterruptOnTerminalCount | Mode::SoftwareStrobe => self.start(reload, now),
            Mode::OneShot | Mode::HardwareStrobe => {
                self.next_reload = Some((u64::MAX, reload));
                self.null_count = true;
            }
            Mode::RateGenerator | Mode::SquareWave => match self.next_rising_edge(now) {
                Some(end) => {
                    self.next_reload = Some((end, reload));
                    self.null_count = true;
                }
                None => self.start(reload, now),
            },
        }
    }

    fn start(&mut self, reload: u32, now: u64) {
        self.reload = reload;
        self.next_reload = None;
        self.null_count = false;
        self.started = Some(now);
        self.stopped = (!self.gate).then_some(0);
    }

    /// Drives the gate pin.
    pub(super) fn set_gate(&mut self, gate: bool, now: u64) {
        if gate == std::mem::replace(&mut self.gate, gate) {
            return;
        }
        let reload = self.next_reload.map_or(self.reload, |(_, reload)| reload);
        match (self.mode, gate) {
            (Mode::OneShot | Mode::HardwareStrobe, false) => {}
            (Mode::OneShot | Mode::HardwareStrobe, true) => self.start(reload, now),
            (_, false) => self.stopped = self.elapsed(now),
            (Mode::RateGenerator | Mode::SquareWave, true) => {
                if self.started.is_some() {
                    self.start(reload, now);
                }
            }
            (Mode::InterruptOnTerminalCount | Mode::SoftwareStrobe, true) => {
                if let Some(counted) = self.stopped.take() {
                    self.started = Some(now.saturating_sub(counted));
                }
            }
        }
    }
}

fn to_decimal(value: u16) -> u16 {
    let digit = |divisor: u16| value / divisor % 10;
    digit(1) | digit(10) << 4 | digit(100) << 8 | digit(1000) << 12
}

fn from_decimal(value: u16) -> u32 {
    let digit = |shift: u32| u32::from(value >> shift & 0xf);
    (digit(0) + digit(4) * 10 + digit(8) * 100 + digit(12) * 1000).min(10_000)
}
