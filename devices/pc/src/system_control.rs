//! System control port A (port 92h): fast A20 and fast reset.
//!
//! The A20 gate can be switched and read but changes nothing: the address line is always on.

use crate::power::{PowerRequest, PowerSink};
use ambos_device::{AccessError, PortDevice, read_bytes, write_bytes};
use std::sync::Arc;

/// Bits (Intel 82371FB/SB data sheet, 290550-002).
mod spec {
    /// A change from 0 to 1 resets the processor.
    pub(super) const FAST_INIT: u8 = 1 << 0;
    /// The A20 gate.
    pub(super) const FAST_A20: u8 = 1 << 1;
}

/// The port.
pub struct SystemControlA {
    // Dependencies.
    power: Arc<dyn PowerSink>,

    // Volatile state.
    value: u8,
}

impl SystemControlA {
    /// The port after power-on, with A20 on as firmware leaves it.
    pub fn new(power: Arc<dyn PowerSink>) -> Self {
        Self { power, value: spec::FAST_A20 }
    }
}

impl PortDevice for SystemControlA {
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        read_bytes(offset, data, |offset| match offset {
            0 => Ok(self.value),
            _ => Err(AccessError::NoRegister),
        })
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        write_bytes(offset, data, |offset, value| {
            if offset != 0 {
                return Err(AccessError::NoRegister);
            }
            if value & !self.value & spec::FAST_INIT != 0 {
                self.power.request(PowerRequest::Reset);
            }
            self.value = value & (spec::FAST_A20 | spec::FAST_INIT);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Requests;

    #[test]
    fn a_rising_bit_resets() {
        let requests = Arc::new(Requests::default());
        let mut port = SystemControlA::new(requests.clone());
        let mut data = [0];
        port.read(0, &mut data).unwrap();
        assert_eq!(data, [2]);
        port.write(0, &[0]).unwrap();
        assert!(requests.take().is_empty());
        port.write(0, &[3]).unwrap();
        port.write(0, &[3]).unwrap();
        assert_eq!(requests.take(), [PowerRequest::Reset]);
        assert!(port.read(1, &mut data).is_err());
    }
}
