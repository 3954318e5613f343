//! The 8254 programmable interval timer and the port that controls its third channel.
//!
//! Channel 0 drives ISA interrupt 0, channel 1 once refreshed memory and shows only as a toggling
//! bit, channel 2 drives the speaker and is what kernels measure their clocks against. Counts and
//! outputs are computed from the machine's time when somebody looks.
//!
//! Channel 0's rising edges come from a timer. Edges that were missed, because the host was late or
//! because the guest asked for more than [`SHORTEST_PERIOD`] allows, are coalesced into one; the
//! next comes in phase.

mod channel;

use ambos_clock::{Expire, NANOSECONDS, Timer, TimerTarget, VmClock};
use ambos_device::{AccessError, PortDevice, read_bytes, write_bytes};
use ambos_wire::Wire;
use channel::Channel;
use std::sync::{Arc, Mutex, Weak};

/// Registers (Intel 8254 data sheet, 231164-005; port 61h: 82371FB/SB data sheet, 290550-002).
mod spec {
    /// Input frequency.
    pub(super) const HZ: u64 = 1_193_182;
    /// Half the period in which the refresh bit of port 61h toggles, in nanoseconds.
    pub(super) const REFRESH_NS: u64 = 15_085;
    /// Control word that is a read-back command.
    pub(super) const READ_BACK: u8 = 3 << 6;
    /// Read-back: do not latch counts.
    pub(super) const READ_BACK_NO_COUNT: u8 = 1 << 5;
    /// Read-back: do not latch status.
    pub(super) const READ_BACK_NO_STATUS: u8 = 1 << 4;
    /// Port 61h: gate of channel 2.
    pub(super) const GATE_2: u8 = 1 << 0;
    /// Port 61h: the bits that can be written.
    pub(super) const PORT_61_WRITABLE: u8 = 0x0f;
    /// Port 61h: toggles with memory refresh.
    pub(super) const REFRESH: u8 = 1 << 4;
    /// Port 61h: output of channel 2.
    pub(super) const OUT_2: u8 = 1 << 5;

    /// How a count is read and written.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[repr(u8)]
    pub(super) enum Access {
        /// Low byte only.
        Low = 1,
        /// High byte only.
        High = 2,
        /// Low byte, then high byte.
        Both = 3,
    }

    /// What a counter does.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[repr(u8)]
    pub(super) enum Mode {
        InterruptOnTerminalCount = 0,
        OneShot = 1,
        RateGenerator = 2,
        SquareWave = 3,
        SoftwareStrobe = 4,
        HardwareStrobe = 5,
    }

    impl Mode {
        /// The mode field of a control word; modes 6 and 7 are 2 and 3.
        pub(super) const fn from_control(value: u8) -> Self {
            match value >> 1 & 7 {
                0 => Self::InterruptOnTerminalCount,
                1 => Self::OneShot,
                2 | 6 => Self::RateGenerator,
                4 => Self::SoftwareStrobe,
                5 => Self::HardwareStrobe,
                _ => Self::SquareWave,
            }
        }

        /// Whether it counts again and again by itself.
        pub(super) const fn is_periodic(self) -> bool {
            matches!(self, Self::RateGenerator | Self::SquareWave)
        }
    }
}

/// The shortest time between two interrupts, in nanoseconds: a guest cannot make the monitor serve
/// more than 20,000 a second.
pub const SHORTEST_PERIOD: u64 = 50_000;

/// The timer chip.
#[derive(Debug)]
pub struct Pit {
    // Dependencies.
    timer: Timer,
    output: Wire,

    // Volatile state.
    channels: [Channel; 3],
    port_61: u8,
    /// The tick of channel 0's next rising edge.
    edge: Option<u64>,
}

impl Pit {
    /// Offset of the data ports of the three channels; the control port follows them.
    pub const CHANNELS: u16 = 0;
    /// Offset of the control port.
    pub const CONTROL: u16 = 3;
    /// Offset of the port that gates channel 2 (port 61h of a PC).
    pub const PORT_61: u16 = 4;

    /// A timer chip whose channel 0 drives `output`. No channel counts, and the output is high as
    /// in the mode that firmware leaves it in, so that programming it makes no edge.
    pub fn new(clock: &Arc<VmClock>, output: Wire) -> Arc<Mutex<Self>> {
        output.set_level(true);
        Arc::new_cyclic(|pit: &Weak<Mutex<Self>>| {
            let timer = clock.timer("8254 channel 0", pit.clone() as Weak<dyn TimerTarget>);
            let channels = [Channel::new(true), Channel::new(true), Channel::new(false)];
            Mutex::new(Self { timer, output, channels, port_61: 0, edge: None })
        })
    }

    fn tick(&self) -> u64 {
        tick_at(self.timer.clock().now())
    }

    fn read_port(&mut self, offset: u16) -> Result<u8, AccessError> {
        let now = self.tick();
        match offset {
            Self::CONTROL => Err(AccessError::NoRegister),
            Self::PORT_61 => {
                let refresh = (self.timer.clock().now() / spec::REFRESH_NS) & 1;
                let refresh = if refresh == 0 { 0 } else { spec::REFRESH };
                let out = if self.channels[2].output(now) { spec::OUT_2 } else { 0 };
                Ok(self.port_61 | refresh | out)
            }
            _ => {
                let channel = self.channels.get_mut(usize::from(offset));
                let channel = channel.ok_or(AccessError::NoRegister)?;
                channel.settle(now);
                Ok(channel.read(now))
            }
        }
    }

    fn write_port(&mut self, offset: u16, value: u8) -> Result<(), AccessError> {
        let now = self.tick();
        match offset {
            Self::CONTROL => self.write_control(value, now),
            Self::PORT_61 => {
                self.port_61 = value & spec::PORT_61_WRITABLE;
                self.channels[2].settle(now);
                self.channels[2].set_gate(value & spec::GATE_2 != 0, now);
            }
            _ => {
                let channel = self.channels.get_mut(usize::from(offset));
                let channel = channel.ok_or(AccessError::NoRegister)?;
                channel.settle(now);
                channel.write(value, now);
                if offset == 0 {
                    self.channel_0_changed(now);
                }
            }
        }
        Ok(())
    }

    fn write_control(&mut self, value: u8, now: u64) {
        if value & spec::READ_BACK == spec::READ_BACK {
            for (index, channel) in self.channels.iter_mut().enumerate() {
                if value & 2 << index != 0 {
                    channel.settle(now);
                    if value & spec::READ_BACK_NO_COUNT == 0 {
                        channel.latch_count(now);
                    }
                    if value & spec::READ_BACK_NO_STATUS == 0 {
                        channel.latch_status(now);
                    }
                }
            }
            return;
        }
        let index = usize::from(value >> 6);
        let Some(channel) = self.channels.get_mut(index) else { return };
        let access = match value >> 4 & 3 {
            0 => {
                channel.settle(now);
                return channel.latch_count(now);
            }
            1 => spec::Access::Low,
            2 => spec::Access::High,
            _ => spec::Access::Both,
        };
        channel.control(spec::Mode::from_control(value), access, value & 1 != 0);
        if index == 0 {
            self.channel_0_changed(now);
        }
    }

    /// Drives the output and plans the next edge after channel 0 was programmed.
    fn channel_0_changed(&mut self, now: u64) {
        let channel = &self.channels[0];
        self.output.set_level(channel.is_strobe() || channel.output(now));
        self.edge = channel.next_rising_edge(now);
        match self.edge {
            Some(edge) => self.timer.arm(time_of(edge)),
            None => self.timer.cancel(),
        }
    }
}

impl Expire for Pit {
    fn expire(&mut self, now_ns: u64) {
        let now = tick_at(now_ns);
        if self.edge.is_none_or(|edge| edge > now) {
            return;
        }
        self.channels[0].settle(now);
        self.output.set_level(false);
        self.output.set_level(true);
        self.edge = self.channels[0].next_rising_edge(now);
        if let Some(edge) = self.edge {
            self.timer.arm(time_of(edge).max(now_ns.saturating_add(SHORTEST_PERIOD)));
        }
    }
}

impl PortDevice for Pit {
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        read_bytes(offset, data, |offset| self.read_port(offset))
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        write_bytes(offset, data, |offset, value| self.write_port(offset, value))
    }
}

/// The tick that is current at a machine time.
fn tick_at(ns: u64) -> u64 {
    (u128::from(ns) * u128::from(spec::HZ) / u128::from(NANOSECONDS)) as u64
}

/// The machine time at which a tick begins.
fn time_of(tick: u64) -> u64 {
    let ns = (u128::from(tick) * u128::from(NANOSECONDS)).div_ceil(u128::from(spec::HZ));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
