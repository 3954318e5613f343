//! What a virtual CPU is to the rest of the machine.
//!
//! - [`CpuState`]: everything architectural, as plain data that moves between engines.
//! - [`Engine`]: runs a vCPU until its owner must decide something ([`Stop`]).
//! - [`Platform`]: what a running vCPU asks of the machine around it, served in place.
//! - [`Supervisor`]: what a deprivileged guest traps to instead of its own kernel; [`GuestCpu`]: what
//!   that sees of the vCPU.
//! - [`Attention`]: how other threads ask a running vCPU to look up.

mod attention;
mod engine;
mod platform;
mod state;
mod supervisor;

pub use attention::{Attention, Request};
pub use engine::{Crash, Engine, Stop};
pub use platform::{MsrFault, PHYSICAL_BITS, Platform, PortWidth};
pub use state::{
    Control, CpuState, DebugRegisters, Msrs, Segment, Segments, TableRegister, VectorState,
};

pub use supervisor::{
    Exception, GuestCpu, GuestFault, Resume, SPACES, SegmentName, Supervisor, Trap,
};

/// The number of a vCPU within its machine, counted from zero; also its initial APIC ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VcpuId(pub u32);
