//! Where the parts of Ambos's PC are: addresses, ports and interrupt lines.
//!
//! What describes the machine to a guest (ACPI tables, the memory map) and what implements it
//! (the devices) take their numbers from here, so that they cannot disagree. Addresses that every
//! PC has are the conventional ones; the free choices are ours. No behaviour lives here.
#![forbid(unsafe_code)]

pub mod interrupt;
pub mod memory;
pub mod pci;
pub mod port;
