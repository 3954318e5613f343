//! Time as the guest reads it, and its timers.
//!
//! System time is computed from the time-stamp counter by both sides, so they never disagree: the machine's
//! clock only says how long to sleep.

use crate::domain::Domain;
use ambos_clock::{Timer, TimerTarget, VmClock};
use ambos_memory::GuestRam;
use ambos_vcpu::Request;
use ambos_xen_abi::event::virq;
use ambos_xen_abi::shared_info::{self, time};
use ambos_xen_abi::vcpu::runstate;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// From the time-stamp counter to nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeBase {
    /// 32.32 fixed-point factor.
    multiplier: u32,
    /// Shift before multiplying.
    shift: i8,
    pub(crate) tsc_khz: u32,
    unix_time_ns: u64,
}

const NANOSECONDS: u64 = 1_000_000_000;

impl TimeBase {
    /// For a counter of `hz` that was zero at `unix_time_ns`.
    pub(crate) fn new(hz: u64, unix_time_ns: u64) -> Self {
        let mut hz = hz.clamp(1_000_000, 1 << 40);
        let tsc_khz = (hz / 1000).min(u32::MAX.into()) as u32;
        let mut shift = 0i8;
        // The factor must lie between a half and one.
        while hz > 2 * NANOSECONDS {
            hz >>= 1;
            shift -= 1;
        }
        while hz <= NANOSECONDS {
            hz <<= 1;
            shift += 1;
        }
        let multiplier = ((u128::from(NANOSECONDS) << 32) / u128::from(hz)) as u32;
        Self { multiplier, shift, tsc_khz, unix_time_ns }
    }

    /// System time, in nanoseconds, when the guest's counter is `tsc`.
    pub(crate) fn system_time(&self, tsc: u64) -> u64 {
        let shifted =
            if self.shift < 0 { tsc >> -self.shift } else { tsc.wrapping_shl(self.shift as u32) };
        ((u128::from(shifted) * u128::from(self.multiplier)) >> 32) as u64
    }

    /// The structure `vcpu_time_info`.
    pub(crate) fn info(&self) -> [u8; time::SIZE as usize] {
        let mut bytes = [0; time::SIZE as usize];
        let mut put = |at: u64, value: &[u8]| {
            bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
        };
        put(time::VERSION, &2u32.to_le_bytes());
        put(time::TSC_TO_SYSTEM_MUL, &self.multiplier.to_le_bytes());
        put(time::TSC_SHIFT, &self.shift.to_le_bytes());
        put(time::FLAGS, &[time::TSC_STABLE]);
        bytes
    }

    /// Writes it to guest-physical address `at`.
    pub(crate) fn write_info(&self, ram: &GuestRam, at: u64) {
        for (word, index) in self.info().chunks_exact(8).zip(0..) {
            let value = word.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
            ram.store_word(at + index * 8, value);
        }
    }

    /// Writes the time of day into the shared page at `page`.
    pub(crate) fn write_wall_clock(&self, ram: &GuestRam, page: u64) {
        let seconds = self.unix_time_ns / NANOSECONDS;
        let put = |at: u64, value: u64| {
            if let Some(word) = ram.word32(page + at) {
                word.store(value as u32, Ordering::SeqCst);
            }
        };
        put(shared_info::WC_SEC, seconds);
        put(shared_info::WC_SEC_HIGH, seconds >> 32);
        put(shared_info::WC_NSEC, self.unix_time_ns % NANOSECONDS);
        put(shared_info::WC_VERSION, 2);
    }
}

/// What a timer of a vCPU is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimerKind {
    /// `VIRQ_TIMER` once.
    SingleShot,
    /// `VIRQ_TIMER` again and again.
    Periodic,
    /// The end of waiting for a port.
    Poll,
}

/// One timer of a vCPU.
pub(crate) struct VcpuTimer {
    domain: Weak<Domain>,
    vcpu: u32,
    kind: TimerKind,
    /// Nanoseconds, of a periodic one.
    period: AtomicU64,
    timer: OnceLock<Timer>,
}

/// The timers of one vCPU.
pub(crate) struct VcpuTimers {
    pub(crate) single_shot: Arc<VcpuTimer>,
    pub(crate) periodic: Arc<VcpuTimer>,
    pub(crate) poll: Arc<VcpuTimer>,
}

impl VcpuTimers {
    pub(crate) fn new(clock: &Arc<VmClock>, domain: &Weak<Domain>, vcpu: u32) -> Self {
        let make = |kind, label| {
            let timer = Arc::new(VcpuTimer {
                domain: Weak::clone(domain),
                vcpu,
                kind,
                period: AtomicU64::new(0),
                timer: OnceLock::new(),
            });
            let target = Arc::downgrade(&timer);
            let _ = timer.timer.set(clock.timer(format!("vCPU {vcpu} {label}"), target));
            timer
        };
        Self {
            single_shot: make(TimerKind::SingleShot, "single-shot timer"),
            periodic: make(TimerKind::Periodic, "periodic timer"),
            poll: make(TimerKind::Poll, "poll timeout"),
        }
    }
}

impl VcpuTimer {
    /// Fires in so many nanoseconds.
    pub(crate) fn arm_in(&self, nanoseconds: u64) {
        if let Some(timer) = self.timer.get() {
            timer.arm(timer.clock().now().saturating_add(nanoseconds));
        }
    }

    /// Fires again and again.
    pub(crate) fn repeat(&self, period: u64) {
        self.period.store(period, Ordering::SeqCst);
        self.arm_in(period);
    }

    /// Fires no more.
    pub(crate) fn cancel(&self) {
        self.period.store(0, Ordering::SeqCst);
        if let Some(timer) = self.timer.get() {
            timer.cancel();
        }
    }
}

impl TimerTarget for VcpuTimer {
    fn expired(&self, _: u64) {
        let Some(domain) = self.domain.upgrade() else { return };
        match self.kind {
            TimerKind::SingleShot => domain.raise_virq(self.vcpu, virq::TIMER),
            TimerKind::Periodic => {
                domain.raise_virq(self.vcpu, virq::TIMER);
                let period = self.period.load(Ordering::SeqCst);
                if period != 0 {
                    self.arm_in(period);
                }
            }
            TimerKind::Poll => {
                if let Some(vcpu) = domain.vcpu(self.vcpu) {
                    vcpu.attention.raise(Request::INTERRUPT);
                }
            }
        }
    }
}

/// How long a vCPU was in each state.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RunStates {
    pub(crate) state: u32,
    pub(crate) since: u64,
    pub(crate) times: [u64; 4],
}

impl RunStates {
    /// Enters `state` at system time `now`.
    pub(crate) fn enter(&mut self, state: u32, now: u64) {
        let spent = now.saturating_sub(self.since);
        if let Some(time) = self.times.get_mut(self.state as usize) {
            *time = time.saturating_add(spent);
        }
        (self.state, self.since) = (state, now);
    }

    /// The structure `vcpu_runstate_info` at `now`.
    pub(crate) fn info(&self, now: u64) -> [u8; runstate::SIZE as usize] {
        let mut current = *self;
        current.enter(self.state, now);
        let mut bytes = [0; runstate::SIZE as usize];
        bytes[..4].copy_from_slice(&current.state.to_le_bytes());
        bytes[8..16].copy_from_slice(&current.since.to_le_bytes());
        for (chunk, time) in bytes[16..].chunks_exact_mut(8).zip(current.times) {
            chunk.copy_from_slice(&time.to_le_bytes());
        }
        bytes
    }
}
