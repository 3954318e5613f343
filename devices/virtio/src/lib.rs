//! Paravirtual devices after the virtio standard, version 1.2, on PCI.
//!
//! - [`VirtioDevice`]: what a device is, without a bus. [`BlockDevice`], [`NetDevice`], [`ConsoleDevice`],
//!   [`SocketDevice`], [`ShareDevice`], [`Balloon`] and [`EntropySource`] are such devices.
//! - [`VirtioPci`]: puts one of them on PCI, as a function of the modern kind only.
//! - [`QueueAccess`] and [`Chain`]: the requests of a guest, with every address still unchecked.
//!
//! # Threads
//!
//! A request that will not wait is served by the vCPU that announces it, inside its write to the
//! doorbell: handing it to another thread and getting the answer back costs several times what it
//! takes itself. Others go to threads of the device's, which ring a [`Doorbell`] when they are done.
//! Interrupts of requests that are given back together are one.
//!
//! # Copies
//!
//! Data move between the image and guest memory in one system call; only headers and status bytes,
//! a few bytes each, are copied.
#![forbid(unsafe_code)]

mod balloon;
mod block;
mod console;
mod device;
mod entropy;
mod net;
mod pci;
mod queue;
mod ranges;
mod share;
mod socket;
#[cfg(test)]
mod testing;

pub use balloon::Balloon;
pub use block::BlockDevice;
pub use console::{ConsoleDevice, ConsoleKeyboard};
pub use device::{DeviceKind, Doorbell, VirtioDevice};
pub use entropy::EntropySource;
pub use net::NetDevice;
pub use pci::{PciParts, VirtioPci};
pub use queue::{Broken, Chain, Filled, QueueAccess};
pub use share::ShareDevice;
pub use socket::SocketDevice;
