//! What the hypervisor asks of the machine.

use crate::control::{Control, Outcome};
use crate::shootdown::{self, Member};
use ambos_vcpu::Request;
use ambos_xen::Host;
use ambos_xen_abi::sched::reason;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

pub(super) struct MachineHost {
    control: Arc<Control>,
    members: Arc<[Member]>,
    emergency: Mutex<Box<dyn Write + Send>>,
}

impl MachineHost {
    pub(super) fn new(
        control: Arc<Control>,
        members: Arc<[Member]>,
        emergency: Box<dyn Write + Send>,
    ) -> Self {
        Self { control, members, emergency: Mutex::new(emergency) }
    }
}

impl Host for MachineHost {
    fn shutdown(&self, why: u32) {
        self.control.end(match why {
            reason::POWEROFF => Outcome::PoweredOff,
            reason::REBOOT | reason::SOFT_RESET => Outcome::Reset,
            reason::WATCHDOG => Outcome::Crashed("the guest's watchdog fired".to_owned()),
            _ => Outcome::Crashed("the guest's kernel says that it crashed".to_owned()),
        });
    }

    fn print(&self, bytes: &[u8]) {
        let mut console = self.emergency.lock().unwrap_or_else(PoisonError::into_inner);
        // A console that does not take it is no reason to stop the guest.
        let _ = console.write_all(bytes).and_then(|()| console.flush());
    }

    fn away(&self, own: u32, away: bool) {
        if let Some(member) = self.members.get(own as usize) {
            member.set_running(!away);
        }
    }

    fn forget(&self, own: u32, mask: u64, request: Request, meanwhile: &mut dyn FnMut()) {
        shootdown::ask_others(&self.members, own as usize, mask, request, meanwhile);
    }
}
