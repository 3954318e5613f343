//! The ISA bridge of the 82371SB (PIIX3): where the PCI interrupt lines are routed to the 8259s.

use super::routing::{LINES, LineRouter};
use crate::lock;
use ambos_device::{ConfigSpace, PciFunction};
use ambos_pc_map::interrupt::PCI_PIC_IRQS;
use std::sync::{Arc, Mutex};

/// Registers (Intel 82371FB/SB data sheet, 290550-002).
mod spec {
    use ambos_device::PciIdentity;

    pub(super) const IDENTITY: PciIdentity = PciIdentity {
        vendor: 0x8086,
        device: 0x7000,
        revision: 0,
        class: [6, 1, 0],
        subsystem_vendor: 0,
        subsystem: 0,
    };
    /// First of four route control registers.
    pub(super) const ROUTE: u8 = 0x60;
    /// X-bus chip select, top of memory and other registers without effect here.
    pub(super) const X_BUS: u8 = 0x4e;
}

/// The ISA bridge.
#[derive(Debug)]
pub struct IsaBridge {
    // Dependencies.
    router: Arc<Mutex<LineRouter>>,

    // Volatile state.
    config: ConfigSpace,
}

impl IsaBridge {
    /// An ISA bridge that routes the PCI lines through `router`, at first as the machine's map
    /// says.
    pub fn new(router: Arc<Mutex<LineRouter>>) -> Self {
        let config = ConfigSpace::new(&spec::IDENTITY)
            .multifunction()
            .with_registers(spec::X_BUS, &[0x03, 0x00], &[0xff; 2])
            .with_registers(spec::ROUTE, &PCI_PIC_IRQS, &[0x8f; LINES]);
        let bridge = Self { router, config };
        bridge.route();
        bridge
    }

    fn route(&self) {
        let mut router = lock(&self.router);
        for line in 0..LINES {
            router.set_route(line, self.config.byte(spec::ROUTE + line as u8));
        }
    }
}

impl PciFunction for IsaBridge {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        if self.config.write(offset, data) {
            self.route();
        }
    }
}
