//! A machine for a Xen PV guest: no chips, but a hypervisor and a control domain.

mod bridge;
mod host;
mod platform;

use crate::CpuModel;
use crate::disks::Disk;
use crate::machine::{Assembly, FrontPanel, MachineError};
use crate::network::Network;
use crate::shootdown::Member;
use crate::tsc::{self, GuestTsc};
use crate::vcpu::{StartUp, Vcpu};
use ambos_boot::XenPvGuest;
use ambos_clock::VmClock;
use ambos_intercept::{Ledger, UnservedLog};
use ambos_vcpu::{Attention, Request};
use ambos_xen::{Domain, DomainConfig, Frames, Layout, Start, XenVcpu};
use ambos_xen_backends::{Adapter, ControlDomain, DomainInfo, GuestPort, PowerAction, SharedPage};
use bridge::Bridge;
use host::MachineHost;
use platform::{ModelProcessor, ParaPlatform};
use std::io::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the machine gives to one run of a PV guest.
pub(crate) struct Parts<'a> {
    pub(crate) layout: Layout,
    pub(crate) guest: &'a XenPvGuest,
    pub(crate) clock: &'a Arc<VmClock>,
    pub(crate) control: &'a Arc<crate::control::Control>,
    pub(crate) model: &'a Arc<CpuModel>,
    pub(crate) attentions: &'a [Arc<Attention>],
    pub(crate) disks: &'a [Disk],
    pub(crate) network: Option<&'a Network>,
    pub(crate) ledgers: &'a [Arc<Ledger>],
    pub(crate) unserved: &'a Arc<UnservedLog>,
}

/// Typing goes into the console's ring; what has no room there waits in it. The power button is a wish
/// in the store.
struct PvPanel(Arc<ControlDomain>);

impl FrontPanel for PvPanel {
    fn type_in(&self, bytes: &[u8]) -> usize {
        self.0.console_input(bytes);
        bytes.len()
    }

    fn press_power_button(&self) {
        if !self.0.request(PowerAction::PowerOff) {
            tracing::warn!("the guest has not said that it can be asked to switch off");
        }
    }
}

/// Puts hypervisor, control domain and vCPUs together. The guest has been built in memory that is divided as `frames` says. What the guest prints goes to `console`, or to
/// `emergency` if it does so by a hypercall.
pub(crate) fn assemble(
    parts: &Parts<'_>,
    frames: Frames,
    console: Box<dyn Write + Send>,
    emergency: Box<dyn Write + Send>,
) -> Result<Assembly, MachineError> {
    let (cpus, attentions) = (parts.ledgers.len(), parts.attentions);
    let members: Arc<[Member]> =
        attentions.iter().map(|attention| Member::new(Arc::clone(attention))).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let counter = GuestTsc::starting_at(tsc::host_tsc());
    let guest = parts.guest;
    let host =
        Arc::new(MachineHost::new(Arc::clone(parts.control), Arc::clone(&members), emergency));
    let domain = Domain::new(DomainConfig {
        frames,
        host,
        clock: Arc::clone(parts.clock),
        unserved: Arc::clone(parts.unserved),
        attentions: attentions.to_vec(),
        tsc_hz: tsc::frequency(),
        unix_time_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        console_frame: guest.console_frame,
        store_frame: guest.store_frame,
    });
    let outside = control_domain(parts, &domain, now.as_secs(), cpus as u32, console)?;
    let tsc_khz = (tsc::frequency() / 1000).min(u32::MAX.into()) as u32;
    let mut vcpus = Vec::new();
    for (index, attention) in attentions.iter().enumerate() {
        let mut state = guest.state.clone();
        state.msrs.tsc_offset = counter.offset();
        let id = index as u32;
        let processor = ModelProcessor::new(Arc::clone(parts.model), id, tsc_khz);
        let start = (index == 0).then_some(Start { root: guest.root, stack: guest.stack });
        let ledger = Arc::clone(&parts.ledgers[index]);
        let supervisor = XenVcpu::new(
            Arc::clone(&domain),
            id,
            Arc::clone(&ledger),
            Box::new(processor.clone()),
            start,
        );
        if index == 0 {
            // The vCPU begins with its first event.
            attention.raise(Request::INTERRUPT);
        }
        vcpus.push(Vcpu {
            initial: Some(Box::new(state)),
            deprivileged: true,
            platform: Box::new(ParaPlatform {
                supervisor,
                processor,
                members: Arc::clone(&members),
                index,
                ledger: Arc::clone(&ledger),
                unserved: Arc::clone(parts.unserved),
            }),
            members: Arc::clone(&members),
            index,
            ledger,
            attention: Arc::clone(attention),
            control: Arc::clone(parts.control),
            clock: Arc::clone(parts.clock),
            start_up: StartUp::ByEvent,
        });
    }
    Ok(Assembly { vcpus, panel: Arc::new(PvPanel(outside)), labels: Vec::new() })
}

fn control_domain(
    parts: &Parts<'_>,
    domain: &Arc<Domain>,
    start_time: u64,
    cpus: u32,
    console: Box<dyn Write + Send>,
) -> Result<Arc<ControlDomain>, MachineError> {
    let bridge = Arc::new(Bridge::new(Arc::clone(domain), Arc::clone(parts.clock)));
    let page = |frame: u64| -> Result<SharedPage, MachineError> {
        let port = domain.new_port().map_err(|_| MachineError::Ports)?;
        Ok(SharedPage { address: frame << 12, frame, port: GuestPort(port) })
    };
    let store = page(parts.guest.store_frame)?;
    let terminal = page(parts.guest.console_frame)?;
    let info = DomainInfo {
        id: Domain::ID.0,
        name: "ambos".to_owned(),
        uuid: [0; 16],
        cpus,
        memory_kib: parts.layout.guest_frames * 4,
        start_time,
    };
    let outside = ControlDomain::new(
        info,
        store,
        terminal,
        console,
        Arc::clone(&bridge) as Arc<dyn ambos_xen_backends::Grants>,
        bridge as Arc<dyn ambos_xen_backends::EventChannels>,
    )?;
    for Disk { content, cdrom } in parts.disks {
        let content = Arc::clone(content);
        outside.add_disk(ambos_xen_backends::Disk { content, cdrom: *cdrom });
    }
    if let Some(Network { backend, mac }) = parts.network {
        outside.add_adapter(Adapter { network: Arc::clone(backend), mac: *mac });
    }
    Ok(outside)
}
