//! The conformance suite of engines: small guest programs (the folder `guests`), each of which
//! checks one part of what a processor does and says whether it held.
//!
//! [`run`] runs one program on one engine. A program begins in 64-bit mode, or in real mode if its
//! name begins with `real_`, on a board that has little more than RAM and a port to report to.
//! [`suite!`] makes a test of each program for an engine.

mod board;
mod hostile;
mod start;

pub use board::{Board, Verdict, run};
pub use hostile::{Guests, Hostile};
pub use start::{RAM_SIZE, initial_state, lay_out};

/// All programs by name.
pub static PROGRAMS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/programs.rs"));

/// The program called `name`.
pub fn program(name: &str) -> Option<&'static [u8]> {
    PROGRAMS.iter().find(|(other, _)| *other == name).map(|(_, image)| *image)
}
