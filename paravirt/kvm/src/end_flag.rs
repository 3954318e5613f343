//! Lazy ends of interrupts: a bit in guest memory says that the guest need not tell the local APIC of
//! the end of the interrupt in service, only clear the bit.

use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};
use std::sync::Arc;

/// The bit.
const NEED_NOT_TELL: u8 = 1;

/// The flag of one vCPU. Only that vCPU's thread uses it, while the guest does not run there, so that
/// nobody else changes the byte meanwhile.
#[derive(Debug, Clone)]
pub struct EndFlag {
    ram: Arc<GuestRam>,
    place: GuestPhysAddr,
}

impl EndFlag {
    pub(crate) fn new(ram: Arc<GuestRam>, address: u64) -> Self {
        Self { ram, place: GuestPhysAddr(address) }
    }

    fn byte(&self) -> Option<u8> {
        self.ram.memory().read_obj(self.place).ok()
    }

    /// Sets it; returns whether that was possible.
    pub fn set(&self) -> bool {
        let Some(byte) = self.byte() else { return false };
        self.ram.memory().write_obj(byte | NEED_NOT_TELL, self.place).is_ok()
    }

    /// Clears it; returns whether it was still set, that is, whether the guest has not yet ended the
    /// interrupt.
    pub fn clear(&self) -> bool {
        let Some(byte) = self.byte() else { return true };
        let _ = self.ram.memory().write_obj(byte & !NEED_NOT_TELL, self.place);
        byte & NEED_NOT_TELL != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bit_changes() {
        let ram = Arc::new(GuestRam::new(1 << 20).unwrap());
        let flag = EndFlag::new(Arc::clone(&ram), 0x2004);
        ram.memory().write_obj(0xf0u8, GuestPhysAddr(0x2004)).unwrap();
        assert!(flag.set());
        assert_eq!(ram.memory().read_obj::<u8>(GuestPhysAddr(0x2004)).unwrap(), 0xf1);
        assert!(flag.clear());
        assert!(!flag.clear());
        assert_eq!(ram.memory().read_obj::<u8>(GuestPhysAddr(0x2004)).unwrap(), 0xf0);
        let nowhere = EndFlag::new(ram, 1 << 30);
        assert!(!nowhere.set() && nowhere.clear());
    }
}
