//! The one door through which every interception passes.
//!
//! Whatever the monitor does on a guest's behalf (a privileged instruction, a port access, a
//! hypercall, an injected interrupt) is an [`Intercept`], counted and, where it takes the monitor's
//! time, timed in a [`Ledger`]. What the monitor could not serve goes to the list of [`Unserved`]
//! requests. What back-ends move is counted in a [`Transfer`] for each. Reports read these; nothing
//! else keeps counters of its own.
//!
//! Each vCPU owns one ledger and writes it from one thread, so counting is a plain load, add and
//! store. Readers on other threads see values that are at most one event old.

mod class;
mod ledger;
mod transfer;
mod unserved;

pub use class::{Device, Intercept, Privileged};
pub use ledger::{Count, Ledger, Ticket};
pub use transfer::{Moved, Transfer};
pub use unserved::{Unserved, UnservedLog};
