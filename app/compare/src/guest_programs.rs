//! The programs that run inside guests, built by this crate's build script.

/// The workloads: a static program for Linux (`guests/workload`).
pub const WORKLOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload"));
/// The kernel that times single operations (`guests/probe`).
pub(crate) const PROBE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/probe"));
/// A script by which a guest says what it finds and uses.
pub(crate) const FACTS: &[u8] = include_bytes!("guest_facts.sh");
