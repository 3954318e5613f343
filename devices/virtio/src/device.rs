//! What a virtio device is, whatever bus it sits on.

use crate::VirtioPci;
use crate::queue::{Broken, QueueAccess};
use bitflags::bitflags;
use std::fmt;
use std::sync::{Mutex, PoisonError, Weak};

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceKind {
    /// The standard's device ID (chapter 5).
    pub id: u16,
    /// PCI base class, subclass and programming interface.
    pub class: [u8; 3],
}

bitflags! {
    /// Features that concern the queues and not the device (chapter 6).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct QueueFeatures: u64 {
        const INDIRECT_DESCRIPTORS = 1 << 28;
        const EVENT_INDEX = 1 << 29;
        const VERSION_1 = 1 << 32;
    }
}

/// How long a driver may wait until it is told of completed requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Not at all.
    None,
    /// As long as all vCPUs are busy, until so many nanoseconds after the interrupt before.
    Apart(u64),
    /// For a time, if there are few of them.
    Delay {
        /// How long after the first of them.
        nanoseconds: u64,
        /// How many of them do not wait; neither do a quarter of the queue.
        requests: u16,
    },
}

/// A device without its bus.
///
/// Offsets in the configuration space are as the standard has them; what is past its end reads as
/// zero and is not written.
pub trait VirtioDevice: Send {
    /// What it is.
    fn kind(&self) -> DeviceKind;

    /// The device's own features that it offers.
    fn features(&self) -> u64;

    /// The sizes of its queues: powers of two.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Reads the configuration space.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// The device is on its bus: `doorbell` reaches it from other threads. Devices that only answer
    /// to their driver do not need it.
    fn connect(&mut self, doorbell: Doorbell) {
        drop(doorbell);
    }

    /// The driver has chosen among the features that were offered.
    fn set_features(&mut self, features: u64);

    /// The driver has reset the device.
    fn reset(&mut self);

    /// There may be requests in queue `index`.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the driver breaks the rules so that the device cannot go on.
    fn serve(&mut self, index: usize, queue: &mut QueueAccess<'_>) -> Result<(), Broken>;

    /// How long the driver of queue `index`, which was just served, may wait for its interrupt.
    fn patience(&self, index: usize) -> Patience {
        let _ = index;
        Patience::None
    }

    /// Which other queue there is something to do in, now that queue `index` was served.
    fn serve_next(&self, index: usize) -> Option<usize> {
        let _ = index;
        None
    }
}

/// Lets a device look at its queues because something happened behind it.
#[derive(Clone)]
pub struct Doorbell(Weak<Mutex<VirtioPci>>);

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").finish_non_exhaustive()
    }
}

impl Doorbell {
    pub(crate) fn new(device: Weak<Mutex<VirtioPci>>) -> Self {
        Self(device)
    }

    /// Calls [`VirtioDevice::serve`] for each of `queues` that is in use, with the device's lock
    /// held.
    pub fn ring(&self, queues: &[usize]) {
        let Some(device) = self.0.upgrade() else { return };
        let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
        for &index in queues {
            device.serve(index);
        }
    }

    /// Tells the driver that the configuration space has changed.
    pub fn configuration_changed(&self) {
        let Some(device) = self.0.upgrade() else { return };
        device.lock().unwrap_or_else(PoisonError::into_inner).configuration_changed();
    }
}

/// Reads `data` from the bytes of a configuration space.
pub(crate) fn read_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    for (byte, at) in data.iter_mut().zip(offset..=u64::MAX) {
        let at = usize::try_from(at).ok();
        *byte = at.and_then(|at| config.get(at)).copied().unwrap_or(0);
    }
}
