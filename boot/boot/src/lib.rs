//! Reads kernels and builds a guest's initial memory and CPU state.
//!
//! - [`image`]: kernel files: what one is, what it says of itself, the kernel proper inside it.
//! - [`protocol`]: boot protocols: [`load`] puts a kernel and all it is told into guest memory and
//!   returns the state of the first vCPU. Further vCPUs wait for a start-up message, as on a PC.
//! - [`acpi`]: the tables that describe the PC to its operating system.
//! - [`inspect`]: what a kernel file supports, for people and programs.
//!
//! Kernel files are untrusted. Devices and engines are not known here; the places of devices come
//! from `ambos-pc-map`.
#![forbid(unsafe_code)]

pub mod acpi;
mod bytes;
pub mod image;
pub mod inspect;
pub mod protocol;
#[cfg(test)]
mod testing;

pub use image::{ImageError, KernelImage};
pub use protocol::{
    BootConfig, BootError, Module, Protocol, Reserved, XenPvGuest, load, load_xen_pv,
};
