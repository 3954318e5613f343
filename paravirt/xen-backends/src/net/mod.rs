//! The back half of a network adapter (`io/netif.h`): netback.
//!
//! # Copies
//!
//! What the guest sends goes from its pages to the network in one step, and what it receives from the
//! network to its pages ([`NetBackend`](ambos_net::NetBackend)). Large frames stay whole in both directions.
//!
//! # Waiting
//!
//! Frames wait in the network until the guest provides pages; requests to send wait here until
//! the network has room. The guest is asked to notify of pages only if they were missed, and the network
//! tells of room by itself.
//!
//! # Threads
//!
//! Each queue's requests to send are served by one thread at a time, and so is reception as a whole,
//! because frames come from the network in one row. That is the thread of the vCPU that notifies, or
//! the network's.

mod device;
mod headers;
mod receive;
mod spec;
mod transmit;

pub(crate) use device::NetBack;

#[cfg(test)]
mod tests;
