//! The interpreter: reference semantics of every processor mode.
//!
//! [`Cpu`] is one vCPU. It implements [`ambos_vcpu::Engine`] and runs alone, without any device: all
//! it needs is guest RAM and an [`ambos_vcpu::Platform`].
//!
//! Where to find what:
//!
//! - [`run`]: the loop, and what is looked at between blocks (interrupts, breakpoints).
//! - [`fetch`], [`decode`], [`blocks`]: from the instruction pointer to decoded, cached code.
//! - [`exec`]: what ordinary programs use, a file for each class of instructions.
//! - [`system`]: privileged and sensitive instructions, exceptions and interrupts.
//! - [`supervised`]: guests that run deprivileged, under a supervisor.
//! - [`mmu`]: address translation, loads and stores.
//!
//! The translator builds on this crate: it shares the state, the software MMU and every rare path.

pub mod blocks;
pub mod cpu;
pub mod decode;
pub mod exec;
pub mod exit;
pub mod fetch;
pub mod mmu;
pub mod op;
pub mod run;
pub mod supervised;
pub mod system;
pub mod unserved;

pub use cpu::Cpu;
