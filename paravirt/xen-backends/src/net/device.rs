//! What an adapter's two halves tell each other.

use super::receive::Receiver;
use super::spec::{RECEIVE_SLOT, TRANSMIT_SLOT};
use super::transmit::Transmitter;
use crate::events::{Channel, EventChannels, Notified, Progress, run};
use crate::grants::Grants;
use crate::ring::RequestRing;
use crate::shared::SharedPages;
use crate::xenbus::{BackHalf, ConnectError, FrontNode};
use ambos_net::{Accepts, NetBackend, NetPort};
use std::sync::{Arc, Weak};

/// Queues that an adapter has at most.
const QUEUES_MAX: u16 = 8;

/// The back half of a network adapter.
pub(crate) struct NetBack {
    // Configuration.
    queues_max: u16,

    // Dependencies.
    network: Arc<dyn NetBackend>,
    grants: Arc<dyn Grants>,
    channels: Arc<dyn EventChannels>,

    // Volatile state.
    /// There while the halves are connected.
    adapter: Option<Arc<Adapter>>,
}

/// A connected adapter as the network knows it.
struct Adapter {
    receiver: Arc<Receiver>,
    transmitters: Vec<Arc<Transmitter>>,
}

/// What the guest's only channel of a queue notifies of.
struct Both(Arc<Transmitter>, Arc<Receiver>);

impl NetBack {
    /// The back half of an adapter on `network`, for a guest with `cpus` vCPUs.
    pub(crate) fn new(
        network: Arc<dyn NetBackend>,
        cpus: u32,
        grants: Arc<dyn Grants>,
        channels: Arc<dyn EventChannels>,
    ) -> Self {
        let queues_max = u16::try_from(cpus).unwrap_or(u16::MAX).clamp(1, QUEUES_MAX);
        Self { queues_max, network, grants, channels, adapter: None }
    }

    fn ring(
        &self,
        front: &FrontNode<'_>,
        name: &str,
        slot: usize,
    ) -> Result<RequestRing, ConnectError> {
        let pages = SharedPages::granted(&self.grants, &[front.grant(name)?])?;
        Ok(RequestRing::new(pages, slot as u32)?)
    }

    fn connect_queue(
        &self,
        front: &FrontNode<'_>,
        prefix: &str,
        adapter: &mut Adapter,
    ) -> Result<(), ConnectError> {
        let name = |name: &str| format!("{prefix}{name}");
        let transmit = self.ring(front, &name("tx-ring-ref"), TRANSMIT_SLOT)?;
        let receive = self.ring(front, &name("rx-ring-ref"), RECEIVE_SLOT)?;
        let receiver = Arc::clone(&adapter.receiver);
        let transmitter = Transmitter::new(&self.network, &self.grants, transmit);
        // From now on it is disconnected if anything goes wrong.
        adapter.transmitters.push(Arc::clone(&transmitter));
        let bind = |name: &str, to: Arc<dyn Notified>| {
            let channel = self.channels.bind(front.port(name)?, to)?;
            Ok::<Arc<dyn Channel>, ConnectError>(Arc::from(channel))
        };
        if front.text(&name("event-channel-tx")).is_some() {
            transmitter.ring().set_channel(bind(&name("event-channel-tx"), transmitter.clone())?);
            let channel = bind(&name("event-channel-rx"), receiver.clone())?;
            receiver.add_queue(receive, channel);
        } else {
            let both = Arc::new(Both(Arc::clone(&transmitter), Arc::clone(&receiver)));
            let channel = bind(&name("event-channel"), both)?;
            transmitter.ring().set_channel(Arc::clone(&channel));
            receiver.add_queue(receive, channel);
        }
        Ok(())
    }

    /// What the guest takes besides plain frames.
    fn accepts(front: &FrontNode<'_>) -> Accepts {
        let mut accepts = Accepts::empty();
        if !front.flag("feature-no-csum-offload") && front.flag("feature-ipv6-csum-offload") {
            accepts |= Accepts::CHECKSUM;
            if front.flag("feature-sg") {
                accepts.set(Accepts::TCP_V4, front.flag("feature-gso-tcpv4"));
                accepts.set(Accepts::TCP_V6, front.flag("feature-gso-tcpv6"));
            }
        }
        accepts
    }
}

impl BackHalf for NetBack {
    fn features(&self) -> Vec<(&'static str, String)> {
        let yes = [
            "feature-sg",
            "feature-gso-tcpv4",
            "feature-gso-tcpv6",
            "feature-ipv6-csum-offload",
            "feature-rx-copy",
            "feature-split-event-channels",
        ];
        let no = ["feature-rx-flip", "feature-multicast-control"];
        let flag = |value: &'static str| move |name: &'static str| (name, value.to_owned());
        let mut features: Vec<_> = yes.into_iter().map(flag("1")).collect();
        features.extend(no.into_iter().map(flag("0")));
        features.push(("multi-queue-max-queues", self.queues_max.to_string()));
        features
    }

    fn connect(
        &mut self,
        front: &FrontNode<'_>,
    ) -> Result<Vec<(&'static str, String)>, ConnectError> {
        for name in ["request-rx-copy", "feature-rx-notify"] {
            if !front.flag(name) {
                return Err(ConnectError::Unsupported { name, value: "0".to_owned() });
            }
        }
        let receiver = Receiver::new(&self.network, &self.grants);
        receiver.set_scatter(front.flag("feature-sg"));
        let mut adapter = Adapter { receiver, transmitters: Vec::new() };
        for prefix in front.queues(self.queues_max)? {
            if let Err(error) = self.connect_queue(front, &prefix, &mut adapter) {
                adapter.disconnect();
                return Err(error);
            }
        }
        let adapter = Arc::new(adapter);
        let port: Weak<Adapter> = Arc::downgrade(&adapter);
        self.network.attach(port);
        self.network.accept(Self::accepts(front));
        self.adapter = Some(adapter);
        Ok(Vec::new())
    }

    fn connected(&mut self) {
        let Some(adapter) = &self.adapter else { return };
        adapter.transmitters.iter().for_each(|transmitter| run(&**transmitter));
        run(&*adapter.receiver);
    }

    fn disconnect(&mut self) {
        if let Some(adapter) = self.adapter.take() {
            self.network.accept(Accepts::empty());
            adapter.disconnect();
        }
    }
}

impl Drop for NetBack {
    fn drop(&mut self) {
        self.disconnect();
    }
}

impl Adapter {
    fn disconnect(&self) {
        self.transmitters.iter().for_each(|transmitter| transmitter.ring().disconnect());
        self.receiver.disconnect();
    }
}

impl NetPort for Adapter {
    fn changed(&self) {
        // On the network's own thread, which has nothing else to do: so all of it.
        while self.receiver.notified() == Progress::More {}
        for transmitter in &self.transmitters {
            while transmitter.notified() == Progress::More {}
        }
    }
}

impl Notified for Both {
    fn notified(&self) -> Progress {
        let progress = [self.0.notified(), self.1.notified()];
        if progress.contains(&Progress::More) { Progress::More } else { Progress::Done }
    }
}
