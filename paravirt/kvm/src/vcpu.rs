//! The model-specific registers of one vCPU, and what it keeps in guest memory after them.

use crate::clock::{self, Origin};
use crate::end_flag::EndFlag;
use crate::spec::register;
use crate::steal::{self, StealTime};
use ambos_memory::GuestRam;
use ambos_vcpu::MsrFault;
use std::sync::Arc;

/// What a write asks of the rest of the machine.
#[derive(Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// Use this flag for ends of interrupts from now on, or none.
    EndFlag(Option<EndFlag>),
}

/// One vCPU's side of the interface.
#[derive(Debug)]
pub struct KvmVcpu {
    // Configuration.
    origin: Origin,

    // Dependencies.
    ram: Arc<GuestRam>,

    // Volatile state.
    wall_clock: u64,
    system_time: u64,
    steal_time: u64,
    end_of_interrupt: u64,
    poll_control: u64,
    /// Nanoseconds stolen, in all.
    stolen: u64,
}

impl KvmVcpu {
    /// A vCPU of the machine with memory `ram` whose time began at `origin`.
    pub fn new(ram: Arc<GuestRam>, origin: Origin) -> Self {
        Self {
            origin,
            ram,
            wall_clock: 0,
            system_time: 0,
            steal_time: 0,
            end_of_interrupt: 0,
            poll_control: 1,
            stolen: 0,
        }
    }

    /// Whether a register belongs to the interface.
    pub const fn owns_msr(index: u32) -> bool {
        matches!(
            index,
            register::WALL_CLOCK | register::SYSTEM_TIME | register::STEAL_TIME
                ..=register::POLL_CONTROL
        )
    }

    /// Reads a register.
    ///
    /// # Errors
    ///
    /// [`MsrFault`] if it does not belong here.
    pub fn msr_read(&self, index: u32) -> Result<u64, MsrFault> {
        match index {
            register::WALL_CLOCK => Ok(self.wall_clock),
            register::SYSTEM_TIME => Ok(self.system_time),
            register::STEAL_TIME => Ok(self.steal_time),
            register::END_OF_INTERRUPT => Ok(self.end_of_interrupt),
            register::POLL_CONTROL => Ok(self.poll_control),
            _ => Err(MsrFault),
        }
    }

    /// Writes a register, on a vCPU whose time-stamp counter is the host's plus `tsc_offset`.
    ///
    /// # Errors
    ///
    /// [`MsrFault`] if it does not belong here or reserved bits are set.
    pub fn msr_write(
        &mut self,
        index: u32,
        value: u64,
        tsc_offset: u64,
    ) -> Result<Effect, MsrFault> {
        let reserved = match index {
            register::WALL_CLOCK => 3,
            register::SYSTEM_TIME | register::END_OF_INTERRUPT => 2,
            register::STEAL_TIME => steal::SIZE - 1 - register::ENABLED,
            register::POLL_CONTROL => !register::ENABLED,
            _ => return Err(MsrFault),
        };
        if value & reserved != 0 {
            return Err(MsrFault);
        }
        match index {
            register::WALL_CLOCK => {
                self.wall_clock = value;
                clock::write_wall_clock(&self.ram, value, &self.origin);
            }
            register::SYSTEM_TIME => {
                self.system_time = value;
                self.tsc_moved(tsc_offset);
            }
            register::STEAL_TIME => {
                self.steal_time = value;
                self.set_running(true);
            }
            register::END_OF_INTERRUPT => {
                self.end_of_interrupt = value;
                let flag = enabled(value).map(|at| EndFlag::new(Arc::clone(&self.ram), at));
                return Ok(Effect::EndFlag(flag));
            }
            _ => self.poll_control = value,
        }
        Ok(Effect::None)
    }

    /// The vCPU's time-stamp counter is now the host's plus `tsc_offset`.
    pub fn tsc_moved(&self, tsc_offset: u64) {
        if let Some(address) = enabled(self.system_time) {
            clock::write_clock(&self.ram, address, &self.origin, tsc_offset);
        }
    }

    fn steal(&self) -> Option<StealTime> {
        enabled(self.steal_time).map(StealTime)
    }

    /// Whether the guest wants to know of stolen time.
    pub fn wants_stolen_time(&self) -> bool {
        self.steal().is_some()
    }

    /// Tells the guest that the host let the vCPU wait for `nanoseconds` more while it was ready to
    /// run.
    pub fn add_stolen_time(&mut self, nanoseconds: u64) {
        self.stolen = self.stolen.saturating_add(nanoseconds);
        if let Some(steal) = self.steal() {
            steal.report(&self.ram, self.stolen);
        }
    }

    /// Tells the guest's other vCPUs whether this one runs, so that they need not interrupt it only to
    /// flush its translations. Returns whether these must be flushed before it runs again.
    #[must_use = "other vCPUs rely on the flush"]
    fn running(&self, running: bool) -> bool {
        self.steal().is_some_and(|steal| steal.set_running(&self.ram, running))
    }

    fn set_running(&self, running: bool) {
        let _ = self.running(running);
    }

    /// Whether the monitor may look for work for a while before a halted vCPU sleeps. Guests that do so
    /// themselves do not want it.
    pub fn may_poll(&self) -> bool {
        self.poll_control & register::ENABLED != 0
    }

    /// The vCPU halts.
    pub fn sleeps(&self) {
        self.set_running(false);
    }

    /// The vCPU goes on after a halt. Returns whether its translations must be flushed before.
    #[must_use = "other vCPUs rely on the flush"]
    pub fn wakes(&self) -> bool {
        self.running(true)
    }
}

/// The address in a register whose lowest bit says whether it counts.
fn enabled(value: u64) -> Option<u64> {
    (value & register::ENABLED != 0).then_some(value & !register::ENABLED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambos_memory::{Bytes, GuestPhysAddr};

    fn vcpu() -> (KvmVcpu, Arc<GuestRam>) {
        let ram = Arc::new(GuestRam::new(1 << 20).unwrap());
        let origin = Origin { tsc: 500, hz: 1_000_000_000, unix_time_ns: 0 };
        (KvmVcpu::new(Arc::clone(&ram), origin), ram)
    }

    #[test]
    fn registers_are_kept_and_reserved_bits_fault() {
        let (mut vcpu, _) = vcpu();
        for (index, value) in [
            (register::WALL_CLOCK, 0x1000),
            (register::SYSTEM_TIME, 0x2001),
            (register::STEAL_TIME, 0x3041),
            (register::END_OF_INTERRUPT, 0x4005),
            (register::POLL_CONTROL, 0),
        ] {
            assert!(KvmVcpu::owns_msr(index));
            vcpu.msr_write(index, value, 0).unwrap();
            assert_eq!(vcpu.msr_read(index), Ok(value));
            assert!(vcpu.msr_write(index, value | 2, 0).is_err());
        }
        assert!(vcpu.msr_write(register::STEAL_TIME, 0x3021, 0).is_err());
        assert!(!KvmVcpu::owns_msr(0x4b56_4d02));
        assert!(vcpu.msr_read(0x4b56_4d02).is_err());
    }

    #[test]
    fn the_monitor_looks_for_work_unless_the_guest_does() {
        let (mut vcpu, _) = vcpu();
        assert!(vcpu.may_poll());
        vcpu.msr_write(register::POLL_CONTROL, 0, 0).unwrap();
        assert!(!vcpu.may_poll());
    }

    #[test]
    fn the_clock_follows_the_counter() {
        let (mut vcpu, ram) = vcpu();
        vcpu.tsc_moved(7);
        vcpu.msr_write(register::SYSTEM_TIME, 0x2001, 7).unwrap();
        let tsc = || ram.memory().read_obj::<u64>(GuestPhysAddr(0x2008)).unwrap();
        assert_eq!(tsc(), 507);
        vcpu.tsc_moved(9);
        assert_eq!(tsc(), 509);
        vcpu.msr_write(register::SYSTEM_TIME, 0, 0).unwrap();
        vcpu.tsc_moved(11);
        assert_eq!(tsc(), 509);
    }

    #[test]
    fn any_address_is_survived() {
        let (mut vcpu, _) = vcpu();
        for index in register::WALL_CLOCK..=register::POLL_CONTROL {
            for value in [!0x3f, !0x3e, (1 << 20) - 63, 0xffff_ffff_ffff_fff1] {
                let _ = vcpu.msr_write(index, value, u64::MAX);
                vcpu.add_stolen_time(u64::MAX);
                vcpu.sleeps();
                let _ = vcpu.wakes();
            }
        }
    }
}
