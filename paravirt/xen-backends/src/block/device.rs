//! What a disk's two halves tell each other.

use super::queue::Queue;
use super::request::{INDIRECT_MAX, SLOT};
use crate::events::{EventChannels, run};
use crate::grants::{GrantRef, Grants};
use crate::ring::RequestRing;
use crate::shared::SharedPages;
use crate::xenbus::{BackHalf, ConnectError, FrontNode};
use ambos_block::{BlockBackend, SECTOR};
use std::sync::Arc;

/// A ring has at most two to the power of this many pages.
const RING_ORDER_MAX: u32 = 4;
/// Queues that a disk has at most.
const QUEUES_MAX: u16 = 8;
/// Bytes of the blocks underneath, which are also the unit of what can be given back.
const BLOCK: u32 = 4096;
/// The layout of requests that is understood.
const PROTOCOL: &str = "x86_64-abi";

/// Flags of a disk.
mod info {
    pub(super) const CDROM: u32 = 1;
    pub(super) const REMOVABLE: u32 = 2;
    pub(super) const READ_ONLY: u32 = 4;
}

/// The back half of a disk.
pub(crate) struct BlockBack {
    // Configuration.
    cdrom: bool,
    queues_max: u16,

    // Dependencies.
    disk: Arc<dyn BlockBackend>,
    grants: Arc<dyn Grants>,
    channels: Arc<dyn EventChannels>,

    // Volatile state.
    queues: Vec<Arc<Queue>>,
}

impl BlockBack {
    /// The back half of `disk`, perhaps in a CD-ROM drive, for a guest with `cpus` vCPUs.
    pub(crate) fn new(
        disk: Arc<dyn BlockBackend>,
        cdrom: bool,
        cpus: u32,
        grants: Arc<dyn Grants>,
        channels: Arc<dyn EventChannels>,
    ) -> Self {
        let queues_max = u16::try_from(cpus).unwrap_or(u16::MAX).clamp(1, QUEUES_MAX);
        Self { cdrom, queues_max, disk, grants, channels, queues: Vec::new() }
    }

    fn read_only(&self) -> bool {
        self.cdrom || self.disk.is_read_only()
    }

    fn connect_queue(
        &self,
        front: &FrontNode<'_>,
        pages: u32,
        prefix: &str,
    ) -> Result<Arc<Queue>, ConnectError> {
        let name = |page: u32| {
            if pages == 1 { format!("{prefix}ring-ref") } else { format!("{prefix}ring-ref{page}") }
        };
        let grants = (0..pages).map(|page| front.grant(&name(page)));
        let grants = grants.collect::<Result<Vec<GrantRef>, _>>()?;
        let port = front.port(&format!("{prefix}event-channel"))?;
        let shared = SharedPages::granted(&self.grants, &grants)?;
        let ring = RequestRing::new(shared, SLOT as u32)?;
        let queue = Queue::new(&self.disk, self.read_only(), &self.grants, ring);
        queue.ring().set_channel(Arc::from(self.channels.bind(port, queue.clone())?));
        Ok(queue)
    }
}

impl BackHalf for BlockBack {
    fn features(&self) -> Vec<(&'static str, String)> {
        let mut features = vec![
            ("feature-persistent", "0".to_owned()),
            ("feature-max-indirect-segments", INDIRECT_MAX.to_string()),
            ("max-ring-page-order", RING_ORDER_MAX.to_string()),
            ("multi-queue-max-queues", self.queues_max.to_string()),
        ];
        let writable = u32::from(!self.read_only());
        for name in ["feature-flush-cache", "feature-barrier", "feature-discard"] {
            features.push((name, writable.to_string()));
        }
        features.extend([
            ("discard-granularity", BLOCK.to_string()),
            ("discard-alignment", "0".to_owned()),
            ("discard-secure", "0".to_owned()),
        ]);
        features
    }

    fn connect(
        &mut self,
        front: &FrontNode<'_>,
    ) -> Result<Vec<(&'static str, String)>, ConnectError> {
        if let Some(value) = front.text("protocol").filter(|value| *value != PROTOCOL) {
            return Err(ConnectError::Unsupported { name: "protocol", value: value.to_owned() });
        }
        let order = front.number::<u32>("ring-page-order");
        if let Some(order) = order.filter(|order| *order > RING_ORDER_MAX) {
            let value = order.to_string();
            return Err(ConnectError::Unsupported { name: "ring-page-order", value });
        }
        let pages = 1 << order.unwrap_or(0);
        for prefix in front.queues(self.queues_max)? {
            let queue = self.connect_queue(front, pages, &prefix)?;
            self.queues.push(queue);
        }
        let mut flags = 0;
        if self.cdrom {
            flags |= info::CDROM | info::REMOVABLE;
        }
        if self.read_only() {
            flags |= info::READ_ONLY;
        }
        Ok(vec![
            ("sectors", (self.disk.size() / SECTOR).to_string()),
            ("info", flags.to_string()),
            ("sector-size", SECTOR.to_string()),
            ("physical-sector-size", BLOCK.to_string()),
        ])
    }

    fn connected(&mut self) {
        // Requests may be waiting already, for which nobody notifies.
        for queue in &self.queues {
            run(&**queue);
        }
    }

    fn disconnect(&mut self) {
        self.queues.drain(..).for_each(|queue| queue.ring().disconnect());
    }
}

impl Drop for BlockBack {
    fn drop(&mut self) {
        self.disconnect();
    }
}
