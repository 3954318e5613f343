//! The debug-exit port: a write of v ends the monitor with status 2v+1.
//!
//! A convention of people who write operating systems (`isa-debug-exit`): a test kernel tells its
//! result through the monitor's exit status, which is never zero, so that it differs from a clean
//! power-off.

use crate::power::{PowerRequest, PowerSink};
use ambos_device::{AccessError, PortDevice};
use std::sync::Arc;

/// The port; 1 to 4 bytes can be written at its first address.
pub struct DebugExit {
    // Dependencies.
    power: Arc<dyn PowerSink>,
}

impl DebugExit {
    /// A port that ends the monitor through `power`.
    pub fn new(power: Arc<dyn PowerSink>) -> Self {
        Self { power }
    }
}

impl PortDevice for DebugExit {
    fn read(&mut self, _offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        data.fill(0);
        Ok(())
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        if offset != 0 {
            return Err(AccessError::NoRegister);
        }
        let mut bytes = [0; 4];
        let part = bytes.get_mut(..data.len()).ok_or(AccessError::Size)?;
        part.copy_from_slice(data);
        let status = u32::from_le_bytes(bytes).wrapping_mul(2).wrapping_add(1);
        self.power.request(PowerRequest::DebugExit(status));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Requests;

    #[test]
    fn the_status_is_twice_the_value_and_one() {
        let requests = Arc::new(Requests::default());
        let mut port = DebugExit::new(requests.clone());
        port.write(0, &[0x10]).unwrap();
        port.write(0, &[0, 0, 0, 0x80]).unwrap();
        assert!(port.write(1, &[1]).is_err());
        assert_eq!(requests.take(), [PowerRequest::DebugExit(0x21), PowerRequest::DebugExit(1)]);
    }
}
