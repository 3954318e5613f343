//! The guest as the control domain reaches it: its grants and its event channels.

use ambos_clock::{Timer, TimerTarget, VmClock};
use ambos_memory::GuestRam;
use ambos_xen::{Domain, GrantRefusal, Receiver};
use ambos_xen_backends::{
    Access, BindError, Channel, EventChannels, GrantError, GrantRef, Grants, GuestPort, Notified,
    Progress,
};
use std::sync::{Arc, OnceLock, Weak};

/// Rounds of work that a notification is served with at once.
const ROUNDS: usize = 64;

pub(super) struct Bridge {
    domain: Arc<Domain>,
    clock: Arc<VmClock>,
}

impl Bridge {
    pub(super) fn new(domain: Arc<Domain>, clock: Arc<VmClock>) -> Self {
        Self { domain, clock }
    }
}

impl Grants for Bridge {
    fn ram(&self) -> &Arc<GuestRam> {
        self.domain.ram()
    }

    fn pin(&self, reference: GrantRef, access: Access) -> Result<u64, GrantError> {
        self.domain.begin_grant(reference.0, access == Access::Write).map_err(|refusal| {
            match refusal {
                GrantRefusal::BadReference | GrantRefusal::NotGranted => GrantError::BadReference,
                GrantRefusal::Denied => GrantError::PermissionDenied,
                GrantRefusal::BadPage => GrantError::BadPage,
            }
        })
    }

    fn unpin(&self, reference: GrantRef, access: Access) {
        self.domain.end_grant(reference.0, access == Access::Write);
    }
}

/// The control domain's end of a channel.
struct End {
    domain: Arc<Domain>,
    port: u32,
    _service: Arc<Service>,
}

impl Channel for End {
    fn notify(&self) {
        self.domain.notify(self.port);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.domain.disconnect(self.port);
    }
}

/// Passes notifications on; what is too much work for one is gone on with by the timekeeper.
struct Service {
    receiver: Arc<dyn Notified>,
    later: OnceLock<Timer>,
}

impl Service {
    fn serve(&self) {
        for _ in 0..ROUNDS {
            if self.receiver.notified() == Progress::Done {
                return;
            }
        }
        if let Some(timer) = self.later.get() {
            timer.arm(timer.clock().now());
        }
    }
}

impl Receiver for Service {
    fn notified(&self) {
        self.serve();
    }
}

impl TimerTarget for Service {
    fn expired(&self, _: u64) {
        self.serve();
    }
}

impl EventChannels for Bridge {
    fn bind(
        &self,
        port: GuestPort,
        receiver: Arc<dyn Notified>,
    ) -> Result<Box<dyn Channel>, BindError> {
        let service = Arc::new(Service { receiver, later: OnceLock::new() });
        let target: Weak<Service> = Arc::downgrade(&service);
        let timer = self.clock.timer(format!("event channel {}", port.0), target);
        let _ = service.later.set(timer);
        let connected = Arc::clone(&service) as Arc<dyn Receiver>;
        self.domain.connect(port.0, connected).map_err(|_| BindError(port))?;
        let domain = Arc::clone(&self.domain);
        Ok(Box::new(End { domain, port: port.0, _service: service }))
    }
}
