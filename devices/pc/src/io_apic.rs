//! The 82093AA I/O APIC, in the version with an EOI register.
//!
//! 24 input pins, each with an entry of the redirection table that says which message its interrupt
//! becomes. Pins are active high however their entry is programmed: wires carry assertion, not
//! voltage.
//!
//! Messages are sent with the I/O APIC locked; local APICs come later in the lock order.

use crate::apic::{DeliveryMode, Destination, EndOfInterrupt, InterruptFabric, Message};
use crate::lock;
use ambos_device::{AccessError, MmioDevice, read_dwords, write_dwords};
use ambos_wire::Inputs;
use std::sync::{Arc, Mutex};

/// Registers (Intel 82093AA data sheet, 290566-001; EOI register: ICH data sheets).
mod spec {
    use bitflags::bitflags;

    /// Number of input pins.
    pub(super) const PINS: usize = 24;
    /// Index register.
    pub(super) const INDEX: u64 = 0x00;
    /// Data window.
    pub(super) const WINDOW: u64 = 0x10;
    /// End of interrupt for a vector.
    pub(super) const EOI: u64 = 0x40;
    /// Index of the identification register.
    pub(super) const ID: u8 = 0;
    /// Index of the version register.
    pub(super) const VERSION: u8 = 1;
    /// Index of the arbitration register.
    pub(super) const ARBITRATION: u8 = 2;
    /// Index of the first half of the first table entry.
    pub(super) const TABLE: u8 = 0x10;
    /// Value of the version register.
    pub(super) const VERSION_VALUE: u32 = 0x20 | (PINS as u32 - 1) << 16;

    bitflags! {
        /// An entry of the redirection table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) struct Entry: u64 {
            const LOGICAL = 1 << 11;
            /// Read-only: a level-triggered interrupt was sent and not ended.
            const REMOTE_IRR = 1 << 14;
            const LEVEL_TRIGGERED = 1 << 15;
            const MASKED = 1 << 16;
            /// What can be written.
            const WRITABLE = 0xff00_0000_0001_afff;
            const _ = !0;
        }
    }

    impl Entry {
        pub(super) fn vector(self) -> u8 {
            self.bits() as u8
        }

        pub(super) fn delivery_mode(self) -> u32 {
            (self.bits() >> 8) as u32 & 7
        }

        pub(super) fn destination(self) -> u8 {
            (self.bits() >> 56) as u8
        }
    }
}

use spec::Entry;

/// The I/O APIC.
#[derive(Debug)]
pub struct IoApic {
    // Dependencies.
    fabric: Arc<InterruptFabric>,

    // Volatile state.
    id: u8,
    index: u8,
    table: [Entry; spec::PINS],
    levels: [bool; spec::PINS],
}

impl IoApic {
    /// Number of input pins.
    pub const PINS: usize = spec::PINS;

    /// An I/O APIC with ID `id` (0–15) that sends through `fabric`. All pins are masked.
    pub fn new(fabric: &Arc<InterruptFabric>, id: u8) -> Arc<Mutex<Self>> {
        let io_apic = Arc::new(Mutex::new(Self {
            fabric: Arc::clone(fabric),
            id: id & 0xf,
            index: 0,
            table: [Entry::MASKED; spec::PINS],
            levels: [false; spec::PINS],
        }));
        let weak = Arc::downgrade(&io_apic);
        fabric.connect_io_apic(weak);
        io_apic
    }

    fn read_window(&self) -> u32 {
        match self.index {
            spec::ID | spec::ARBITRATION => u32::from(self.id) << 24,
            spec::VERSION => spec::VERSION_VALUE,
            _ => match self.selected() {
                Some((pin, 0)) => self.table[pin].bits() as u32,
                Some((pin, _)) => (self.table[pin].bits() >> 32) as u32,
                None => 0,
            },
        }
    }

    fn write_window(&mut self, value: u32) {
        if self.index == spec::ID {
            self.id = (value >> 24) as u8 & 0xf;
        }
        let Some((pin, half)) = self.selected() else { return };
        let before = self.table[pin];
        let shift = u32::from(half) * 32;
        let bits = before.bits() & !(0xffff_ffff << shift) | u64::from(value) << shift;
        let mut entry = Entry::from_bits_retain(bits) & Entry::WRITABLE;
        // An edge-triggered entry has no remote IRR: how old drivers end an interrupt.
        if entry.contains(Entry::LEVEL_TRIGGERED) {
            entry |= before & Entry::REMOTE_IRR;
        }
        self.table[pin] = entry;
        self.serve_level(pin);
    }

    /// The pin and the half of its entry that the index register selects.
    fn selected(&self) -> Option<(usize, u8)> {
        let index = self.index.checked_sub(spec::TABLE)?;
        let pin = usize::from(index / 2);
        (pin < spec::PINS).then_some((pin, index & 1))
    }

    /// Sends the interrupt of a level-triggered pin if it asks and may.
    fn serve_level(&mut self, pin: usize) {
        let entry = self.table[pin];
        let idle = !entry.intersects(Entry::MASKED | Entry::REMOTE_IRR);
        if entry.contains(Entry::LEVEL_TRIGGERED) && idle && self.levels[pin] {
            if entry.delivery_mode() <= DeliveryMode::LowestPriority as u32 {
                self.table[pin] |= Entry::REMOTE_IRR;
            }
            self.send(entry);
        }
    }

    fn send(&self, entry: Entry) {
        let Some(mode) = DeliveryMode::from_field(entry.delivery_mode()) else { return };
        let logical = entry.contains(Entry::LOGICAL);
        self.fabric.deliver(Message {
            destination: Destination::from_field(entry.destination(), logical),
            mode,
            vector: entry.vector(),
            level_triggered: entry.contains(Entry::LEVEL_TRIGGERED),
        });
    }

    fn end(&mut self, vector: u8) {
        for pin in 0..spec::PINS {
            let entry = &mut self.table[pin];
            if entry.contains(Entry::REMOTE_IRR) && entry.vector() == vector {
                entry.remove(Entry::REMOTE_IRR);
                self.serve_level(pin);
            }
        }
    }
}

impl Inputs for IoApic {
    fn set_input(&mut self, line: u32, level: bool) {
        let pin = line as usize;
        let Some(before) = self.levels.get_mut(pin) else { return };
        let rising = level && !*before;
        *before = level;
        let entry = self.table[pin];
        if entry.contains(Entry::LEVEL_TRIGGERED) {
            self.serve_level(pin);
        } else if rising && !entry.contains(Entry::MASKED) {
            self.send(entry);
        }
    }
}

impl EndOfInterrupt for Mutex<IoApic> {
    fn end_of_interrupt(&self, vector: u8) {
        lock(self).end(vector);
    }
}

impl MmioDevice for IoApic {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        read_dwords(offset, data, |offset| match offset {
            spec::INDEX => Ok(u32::from(self.index)),
            spec::WINDOW => Ok(self.read_window()),
            spec::EOI => Ok(0),
            _ => Err(AccessError::NoRegister),
        })
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        if let (spec::INDEX, [index]) = (offset, data) {
            self.index = *index;
            return Ok(());
        }
        write_dwords(offset, data, |offset, value| {
            match offset {
                spec::INDEX => self.index = value as u8,
                spec::WINDOW => self.write_window(value),
                spec::EOI => self.end(value as u8),
                _ => return Err(AccessError::NoRegister),
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apic::testing::Cpus;

    struct Bench {
        cpus: Cpus,
        io_apic: Arc<Mutex<IoApic>>,
    }

    impl Bench {
        fn new() -> Self {
            let cpus = Cpus::new(2);
            let io_apic = IoApic::new(&cpus.fabric, 2);
            Self { cpus, io_apic }
        }

        fn write(&self, index: u8, value: u32) {
            let mut io_apic = self.io_apic.lock().unwrap();
            io_apic.write(spec::INDEX, &u32::from(index).to_le_bytes()).unwrap();
            io_apic.write(spec::WINDOW, &value.to_le_bytes()).unwrap();
        }

        fn read(&self, index: u8) -> u32 {
            let mut io_apic = self.io_apic.lock().unwrap();
            let mut data = [0; 4];
            io_apic.write(spec::INDEX, &[index]).unwrap();
            io_apic.read(spec::WINDOW, &mut data).unwrap();
            u32::from_le_bytes(data)
        }

        fn entry(&self, pin: u8, low: u32, destination: u8) {
            self.write(0x11 + pin * 2, u32::from(destination) << 24);
            self.write(0x10 + pin * 2, low);
        }

        fn set(&self, pin: u32, level: bool) {
            self.io_apic.lock().unwrap().set_input(pin, level);
        }
    }

    #[test]
    fn identity() {
        let bench = Bench::new();
        assert_eq!(bench.read(1), 0x0017_0020);
        assert_eq!(bench.read(0), 0x0200_0000);
        bench.write(0, 0xff00_0000);
        assert_eq!(bench.read(0), 0x0f00_0000);
        assert_eq!(bench.read(0x10), 0x1_0000);
        assert_eq!(bench.read(0x40), 0);
    }

    #[test]
    fn edges_go_to_their_destination() {
        let bench = Bench::new();
        bench.entry(4, 0x41, 1);
        bench.set(4, true);
        bench.set(4, true);
        assert_eq!(bench.cpus.take(1), Some(0x41));
        assert_eq!(bench.cpus.take(1), None);
        assert_eq!(bench.cpus.take(0), None);
        bench.set(4, false);
        bench.entry(4, 0x1_0041, 1);
        bench.set(4, true);
        assert_eq!(bench.cpus.take(1), None);
    }

    #[test]
    fn levels_ask_again_after_the_end_of_interrupt() {
        let bench = Bench::new();
        bench.entry(16, 0x8050, 0);
        bench.set(16, true);
        assert_eq!(bench.cpus.take(0), Some(0x50));
        assert_eq!(bench.read(0x30) & 0x4000, 0x4000);
        bench.cpus.end(0);
        assert_eq!(bench.cpus.take(0), Some(0x50));
        bench.set(16, false);
        bench.cpus.end(0);
        assert_eq!(bench.cpus.take(0), None);
        assert_eq!(bench.read(0x30) & 0x4000, 0);
    }

    #[test]
    fn the_eoi_register_and_the_old_trick_clear_remote_irr() {
        let bench = Bench::new();
        bench.entry(9, 0x8060, 0);
        bench.set(9, true);
        bench.set(9, false);
        assert_eq!(bench.read(0x22) & 0x4000, 0x4000);
        bench.io_apic.lock().unwrap().write(spec::EOI, &0x60u32.to_le_bytes()).unwrap();
        assert_eq!(bench.read(0x22) & 0x4000, 0);
        bench.set(9, true);
        bench.set(9, false);
        assert_eq!(bench.read(0x22) & 0x4000, 0x4000);
        bench.write(0x22, 0x1_0060);
        bench.write(0x22, 0x8060);
        assert_eq!(bench.read(0x22) & 0x4000, 0);
    }

    #[test]
    fn unmasking_a_level_that_is_high_sends() {
        let bench = Bench::new();
        bench.entry(9, 0x1_8060, 0);
        bench.set(9, true);
        assert_eq!(bench.cpus.take(0), None);
        bench.write(0x22, 0x8060);
        assert_eq!(bench.cpus.take(0), Some(0x60));
    }
}
