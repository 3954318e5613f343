//! Event channels between the guest and the back ends.

use std::sync::Arc;
use thiserror::Error;

/// A port of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPort(pub u32);

/// The guest's port cannot be bound to: it does not exist, or is not waiting for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the guest's event channel {} cannot be bound", .0.0)]
pub struct BindError(pub GuestPort);

/// Whether a notification was served to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// There is nothing left to do.
    Done,
    /// There was more to do than one call may take: call again soon.
    More,
}

/// What the guest's notifications of one channel go to.
pub trait Notified: Send + Sync {
    /// The guest notified. Called on the thread of the vCPU that did, which goes on when this
    /// returns; so requests are served without a hand-over between threads.
    ///
    /// The caller holds no lock that [`Channel::notify`] or [`EventChannels::bind`] takes. Several
    /// calls may be under way at once. The work of one call is bounded.
    fn notified(&self) -> Progress;
}

/// One end of a channel; dropping it closes the channel.
pub trait Channel: Send + Sync {
    /// Notifies the guest.
    fn notify(&self);
}

/// The guest's event channels, as the domain of the back ends sees them.
pub trait EventChannels: Send + Sync {
    /// Connects to a port of the guest's that waits for us. From now on, until the result is
    /// dropped, `receiver` is told whenever the guest notifies.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    fn bind(
        &self,
        port: GuestPort,
        receiver: Arc<dyn Notified>,
    ) -> Result<Box<dyn Channel>, BindError>;
}

/// Serves what may be waiting, without a notification. The guest cannot hold this up for ever: what
/// it goes on asking for meanwhile is not served before it notifies.
pub(crate) fn run(receiver: &dyn Notified) {
    for _ in 0..64 {
        if receiver.notified() == Progress::Done {
            break;
        }
    }
}
