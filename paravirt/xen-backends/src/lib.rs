//! What a Xen guest finds outside itself: xenstore, the console, and the back halves of split drivers.
//!
//! [`ControlDomain`] is all of it, as a library without any processor: it reaches the guest only through
//! [`Grants`], by which it gets at pages that the guest lets it use, and [`EventChannels`]. The
//! hypercalls behind these are somebody else's business, and so are the disks' images
//! (`ambos-block`) and the networks (`ambos-net`).
//!
//! Layouts and protocols are those of Xen's `public/io/*.h`, as a 64-bit guest has them.
//!
//! # What the guest can do
//!
//! Everything that it writes is taken for hostile. Rings are read by indices of our own, requests are copied
//! before they are looked at, and a guest that contradicts itself loses the ring, and nothing else. The
//! work of one notification is bounded ([`Progress`]), and so is what the store keeps for it.
#![forbid(unsafe_code)]

mod block;
mod console;
mod control;
mod events;
mod grants;
mod net;
mod ring;
mod served;
mod shared;
#[cfg(test)]
mod testing;
mod turnstile;
mod xenbus;
mod xenstore;

pub use control::{
    Adapter, ControlDomain, ControlError, Disk, DomainInfo, PowerAction, SharedPage,
};
pub use events::{BindError, Channel, EventChannels, GuestPort, Notified, Progress};
pub use grants::{Access, GrantError, GrantRef, Grants};
pub use shared::RingError;
