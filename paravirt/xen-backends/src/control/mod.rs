//! The control domain: everything that a guest finds outside itself.
//!
//! [`ControlDomain`] holds the store, the console, and the back halves of the guest's devices, connects
//! them to the guest's event channels, and is what the owner of the guest talks to.
//!
//! # Locks
//!
//! The store and the states of the devices are behind one lock, which is held while a back half connects
//! to the guest's channels and pages. Each queue of a device has a lock of its own; nobody who holds one takes
//! the store's.

mod domain;
mod power;
mod tree;

pub use domain::{Adapter, ControlDomain, ControlError, Disk, SharedPage};
pub use power::PowerAction;
pub use tree::DomainInfo;

#[cfg(test)]
mod tests;
