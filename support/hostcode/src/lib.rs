//! Running host instructions on a guest's behalf: the home of most `unsafe`.
//!
//! - [`alu`]: single integer instructions executed on the host, flags included.
//! - [`mem`]: loads, stores, atomics and string instructions on raw host addresses.
//! - [`arena`]: executable memory, written through one mapping and executed through another (W^X).
//! - [`guard`]: calls into generated code whose faults come back as values.
//!
//! Nothing here knows of guests, machines or instruction encodings.
#![expect(unsafe_code, reason = "this crate exists to confine it")]

pub mod alu;
pub mod arena;
pub mod guard;
pub mod mem;

pub use alu::Word;
pub use arena::{Arena, ArenaError};
pub use guard::{HostFault, ThunkFrame};
