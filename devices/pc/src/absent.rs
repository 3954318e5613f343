//! Ports that kernels touch on every PC although nothing needs to answer there.
//!
//! The 8237 DMA controllers and their page registers, the POST port and its twin that serve as a
//! delay: software writes to them blindly. They are claimed so that such accesses do not
//! show up as requests that the monitor could not serve.

use ambos_device::{AccessError, PortDevice};

/// Takes every write and reads as all ones, like a bus on which nobody answers.
#[derive(Debug, Default)]
pub struct Absent;

impl PortDevice for Absent {
    fn read(&mut self, _offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        data.fill(0xff);
        Ok(())
    }

    fn write(&mut self, _offset: u16, _data: &[u8]) -> Result<(), AccessError> {
        Ok(())
    }
}
