//! What network adapters stand on.
//!
//! An adapter of any kind works on a [`NetBackend`]. What an adapter looks like to a guest is the
//! devices' business; what a network looks like is the back-end's.
//!
//! # Large frames
//!
//! Costs are per frame, so frames may be large: an [`Offload`] beside a frame says that it stands for
//! a row of segments, or that a checksum is still to be computed. A back-end takes every such frame;
//! an adapter says what it takes ([`NetBackend::accept`]), and gets the rest as segments with
//! checksums.
//!
//! # Threads and locks
//!
//! A back-end works on a thread of its own. An adapter calls it with its own lock held, and the
//! back-end never waits in such a call for anything but its own short locks; it holds none of them
//! when it calls [`NetPort::changed`], which takes the adapter's.
//!
//! [`NetBackend::receive`] is called by the adapter: when it was told of frames, and when the guest
//! has provided buffers again. So frames wait in the back-end, which holds back their senders, and an
//! interrupt serves all that came together.

pub mod checksum;
#[cfg(feature = "manual")]
mod manual;
mod offload;
mod segments;
mod tap;
mod user;

#[cfg(feature = "manual")]
pub use manual::ManualNet;
pub use offload::{Accepts, Checksum, HEADER_LENGTH, Offload, SegmentKind, Segmentation};
pub use segments::{Received, Segments};
pub use tap::{TapError, TapNet};
pub use user::{Forward, Protocol, UserError, UserNet, UserOptions};

use std::fmt;
use std::sync::Weak;
use vm_memory::VolatileSlice;

/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;

/// Bytes of the largest frame: a header, one VLAN tag, and the largest IP packet.
pub const FRAME_MAX: usize = ETHERNET_HEADER + 4 + 65_535;

/// Part of a frame: guest memory, or a header that the device made.
pub type Slice<'a> = VolatileSlice<'a>;

/// An adapter's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The address that an adapter has unless another one is asked for; locally administered.
    pub const DEFAULT: Self = Self([0x02, 0x41, 0x6d, 0x62, 0x6f, 0x73]);
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A frame cannot be taken now; [`NetPort::changed`] tells when it is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A network as an adapter sees it.
pub trait NetBackend: Send + Sync {
    /// Bytes of the largest IP packet that is not to be segmented.
    fn mtu(&self) -> u16;

    /// Connects an adapter, in place of the one that was there: whatever was on its way to that one
    /// is dropped, and nothing is accepted yet but plain frames.
    fn attach(&self, port: Weak<dyn NetPort>);

    /// Says which frames [`NetBackend::receive`] may give to the adapter.
    fn accept(&self, accepts: Accepts);

    /// Sends the frame that is in `parts`, one after the other. Frames that make no sense, or are
    /// longer than [`FRAME_MAX`], are dropped.
    ///
    /// # Errors
    ///
    /// [`Full`]: nothing was sent.
    fn transmit(&self, offload: &Offload, parts: &[Slice<'_>]) -> Result<(), Full>;

    /// Gives frames that came in to `take`, until there are no more or `take` says `false`: then the
    /// frame has no place and comes again next time. `take` must not call the back-end.
    fn receive(&self, take: &mut dyn FnMut(&Received<'_>) -> bool);
}

/// An adapter as its network sees it.
pub trait NetPort: Send + Sync {
    /// Frames came in after [`NetBackend::receive`] had found no more, or
    /// [`NetBackend::transmit`] may succeed after it had failed.
    fn changed(&self);
}
