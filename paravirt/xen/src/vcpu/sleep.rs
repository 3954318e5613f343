//! Sleeping and waking, and the account of it that the guest can read.

use super::{Flow, XenVcpu};
use crate::domain::lock;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::vcpu::runstate;
use std::sync::atomic::Ordering;

impl XenVcpu {
    /// Enters a run state and tells the guest.
    pub(crate) fn enter_run_state(&mut self, cpu: &mut dyn GuestCpu, state: u32) {
        let now = self.now(cpu);
        lock(&self.shared().run_states).enter(state, now);
        self.write_run_states(cpu);
    }

    /// Writes the run states where the guest wants them. The guest's kernel has them mapped; where user mode's tables
    /// do not, the next entry to the kernel brings no new ones, and nothing is lost.
    pub(crate) fn write_run_states(&mut self, cpu: &mut dyn GuestCpu) {
        let Some(area) = self.run_state_area else { return };
        let now = self.now(cpu);
        let info = lock(&self.shared().run_states).info(now);
        // What cannot be written now is written at the next change.
        let _ = crate::bytes::write(cpu, area, &info);
    }

    /// Sleeps until an event, unless one is pending.
    pub(crate) fn block(&mut self, cpu: &mut dyn GuestCpu) -> Flow {
        self.mask_events(false);
        if self.event_pending() {
            return Flow::Guest;
        }
        self.enter_run_state(cpu, runstate::BLOCKED);
        Flow::Sleep
    }

    /// Something ended the sleep, if there was one.
    pub(crate) fn woken(&mut self, cpu: &mut dyn GuestCpu) {
        let vcpu = self.shared();
        if vcpu.polling.swap(false, Ordering::SeqCst) {
            vcpu.timers.poll.cancel();
        }
        let slept = lock(&vcpu.run_states).state != runstate::RUNNING;
        if slept {
            self.enter_run_state(cpu, runstate::RUNNING);
        }
    }
}
