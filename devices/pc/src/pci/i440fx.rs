//! The 82441FX host bridge (440FX), as far as software looks at it.
//!
//! Its registers that would remap memory (shadowing of ROM, system management memory) can be written
//! and read back but have no effect: RAM is where the machine's map says.

use ambos_device::{ConfigSpace, PciFunction, PciIdentity};

/// Registers (Intel 440FX data sheet, 290549-001).
mod spec {
    use ambos_device::PciIdentity;

    pub(super) const IDENTITY: PciIdentity = PciIdentity {
        vendor: 0x8086,
        device: 0x1237,
        revision: 2,
        class: [6, 0, 0],
        subsystem_vendor: 0,
        subsystem: 0,
    };
    /// First of seven programmable attribute maps.
    pub(super) const PAM: u8 = 0x59;
    /// System management RAM control.
    pub(super) const SMRAM: u8 = 0x72;
}

/// The host bridge.
#[derive(Debug)]
pub struct HostBridge {
    config: ConfigSpace,
}

impl Default for HostBridge {
    fn default() -> Self {
        let identity: &PciIdentity = &spec::IDENTITY;
        let config = ConfigSpace::new(identity)
            .with_registers(spec::PAM, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33], &[0xff; 7])
            .with_registers(spec::SMRAM, &[0x02], &[0x78]);
        Self { config }
    }
}

impl PciFunction for HostBridge {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
    }
}
