//! Serves the Xen PV interface to one guest: everything that a deprivileged kernel asks of the hypervisor it
//! was ported to, in user space and without Xen.
//!
//! - [`Domain`]: what all vCPUs of the guest share: its frames and page tables (`pages`), event channels
//!   (`events`), grants (`grants`), time (`time`).
//! - [`XenVcpu`]: one vCPU's part, which is the [`ambos_vcpu::Supervisor`] of its engine: `vcpu` has entry
//!   and return, `emulate` the instructions that Xen emulates, `hypercall` a file for each call and the
//!   list of what is served.
//! - [`Layout`]: which frames of RAM are the guest's.
//!
//! Not here: the store, the console and the back halves of split drivers, which live in a domain of their own
//! in Xen and are libraries over [`Domain`]'s grants and event channels here; and the building of the domain.
#![forbid(unsafe_code)]

mod bytes;
mod cpuid;
mod descriptor;
mod domain;
mod emulate;
mod events;
mod grants;
mod hypercall;
mod layout;
mod pages;
#[cfg(test)]
mod testing;
mod time;
mod vcpu;

pub use cpuid::policy as cpuid_policy;
pub use domain::{Domain, DomainConfig, Frames, Host, Start};
pub use events::Receiver;
pub use grants::GrantRefusal;
pub use layout::{Layout, MAX_VCPUS};
pub use vcpu::{Processor, XenVcpu};
