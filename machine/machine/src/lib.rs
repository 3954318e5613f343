//! Assembles memory, vCPUs and platform into a machine and runs it.
//!
//! - [`Machine`]: what it is made of, and its life from power-on to the end.
//! - [`CpuModel`]: what CPUID tells the guest.
//! - [`Statistics`]: what was counted, for people and programs.
//!
//! Devices, kernels and engines are other crates'; this one only puts them together.

mod control;
mod counted;
mod cpu_model;
mod disks;
mod engine;
mod halt_poll;
mod hybrid;
mod kvm;
mod machine;
mod msrs;
mod network;
mod observer;
mod para;
mod platform;
mod shootdown;
mod statistics;
mod stolen;
mod technique;
mod thread;
mod tsc;
mod vcpu;
mod virtio;

pub use ambos_pc::{Screen, VideoMode};
pub use ambos_translate::Views;
pub use control::Outcome;
pub use cpu_model::CpuModel;
pub use disks::Disk;
pub use engine::{EngineConfig, EngineError, EngineKind};
pub use hybrid::{HostAccess, SharedDirectory};
pub use machine::{AfterReset, Config, Handle, Loader, Machine, MachineError};
pub use network::Network;
pub use observer::{Moment, Observer};
pub use statistics::{Statistics, WindowLine};
pub use technique::Technique;
