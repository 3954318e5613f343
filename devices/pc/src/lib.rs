//! The generic chips of a PC.
//!
//! One file or folder per chip, named after it. A chip knows no bus, no vCPU and no host: it gets a
//! clock, wires and sinks, and is driven by the traits of `ambos-device`. [`PcChipset`] puts them
//! together as the platform's address map says.
//!
//! # Locks
//!
//! Each chip has one lock, taken by whoever calls it. In this order, each may be taken while those
//! before it are held, never the other way round:
//!
//! 1. devices (16550, 8254, RTC, HPET, 8042, power management, PCI functions)
//! 2. pins of wires, in the direction of the wires
//! 3. interrupt routers, then 8259 pair and I/O APIC
//! 4. local APICs, one at a time
//! 5. the clock's timer queue, the vCPUs' sleepers, the tables of the buses
//!
//! What must go the other way (a local APIC fetching a vector from the 8259s, or telling the I/O
//! APIC of an end of interrupt) first gives its own lock back.
#![forbid(unsafe_code)]

pub mod absent;
pub mod acpi_pm;
pub mod apic;
pub mod chipset;
pub mod debug_exit;
pub mod e1000;
pub mod hpet;
pub mod i8042;
pub mod i8254;
pub mod i8259;
pub mod ide;
pub mod io_apic;
pub mod mc146818;
pub mod pci;
pub mod power;
pub mod system_control;
pub mod uart16550;
pub mod vga;

pub use acpi_pm::AcpiPm;
pub use apic::{InterruptFabric, LocalApic};
pub use chipset::{ChipsetError, PcChipset, PcConfig};
pub use e1000::{E1000, E1000Parts};
pub use hpet::Hpet;
pub use i8042::I8042;
pub use i8254::Pit;
pub use i8259::PicPair;
pub use ide::{IdeController, IdeDrive};
pub use io_apic::IoApic;
pub use mc146818::Rtc;
pub use power::{PowerRequest, PowerSink};
pub use uart16550::Uart;
pub use vga::{Screen, Vga, VgaParts, VideoMode};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a chip. A panic of the monitor in one chip must not take the others with it.
pub(crate) fn lock<T: ?Sized>(chip: &Mutex<T>) -> MutexGuard<'_, T> {
    chip.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod testing;
