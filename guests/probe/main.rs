//! A kernel that times single privileged operations.
//!
//! It is its own operating system: a PC starts it by the PVH protocol, a Xen-like host as a
//! paravirtualized domain, and it finds out nothing but by which of its two entries it was entered. It
//! prints `ticks NAME OPERATIONS TICKS` for each operation, in ticks of the time-stamp counter, and ends
//! the machine. The same names stand for the same task under each technique: loading the top of the page
//! tables is a write of CR3 on a PC and a hypercall in a domain.

#![no_std]
#![no_main]

#[path = "../shared/c_library.rs"]
mod c_library;
mod entry;
mod measure;
mod pc;
mod text;
mod xen;
