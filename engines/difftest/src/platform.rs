//! A machine without devices, but for one page of device memory.

use ambos_intercept::{Ledger, UnservedLog};
use ambos_vcpu::{MsrFault, Platform, PortWidth};
use ambos_x86::PAGE_SIZE;

/// Guest-physical address of the device memory, in the hole below 4 GiB where there is never RAM.
pub const DEVICE: u64 = 0xd000_0000;

/// What the engine under test runs on.
#[derive(Debug)]
pub struct BarePlatform {
    /// Content of the device memory.
    pub device: Box<[u8; PAGE_SIZE as usize]>,
    ledger: Ledger,
    unserved: UnservedLog,
}

impl Default for BarePlatform {
    fn default() -> Self {
        Self {
            device: Box::new([0; PAGE_SIZE as usize]),
            ledger: Ledger::default(),
            unserved: UnservedLog::default(),
        }
    }
}

impl BarePlatform {
    /// The part of the device memory at `gpa`, if there is so much of it.
    fn window(&mut self, gpa: u64, size: usize) -> Option<&mut [u8]> {
        let start = usize::try_from(gpa.checked_sub(DEVICE)?).ok()?;
        self.device.get_mut(start..start.checked_add(size)?)
    }
}

impl Platform for BarePlatform {
    fn port_read(&mut self, _port: u16, _width: PortWidth) -> u32 {
        u32::MAX
    }

    fn port_write(&mut self, _port: u16, _width: PortWidth, _value: u32) {}

    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        match self.window(gpa, data.len()) {
            Some(window) => data.copy_from_slice(window),
            None => data.fill(0xff),
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        if let Some(window) = self.window(gpa, data.len()) {
            window.copy_from_slice(data);
        }
    }

    fn msr_read(&mut self, _index: u32) -> Result<u64, MsrFault> {
        Err(MsrFault)
    }

    fn msr_write(&mut self, _index: u32, _value: u64) -> Result<(), MsrFault> {
        Err(MsrFault)
    }

    fn cpuid(&mut self, _leaf: u32, _subleaf: u32) -> [u32; 4] {
        [0; 4]
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        None
    }

    fn task_priority(&mut self) -> u8 {
        0
    }

    fn set_task_priority(&mut self, _class: u8) {}

    fn flush_others(&mut self) {}

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn unserved(&self) -> &UnservedLog {
        &self.unserved
    }
}
