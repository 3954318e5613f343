//! Stolen time, and whether the vCPU sleeps: a structure in guest memory.

use ambos_memory::{Bytes, GuestMemoryBackend, GuestPhysAddr, GuestRam, VolatileMemory};
use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes of the structure, which is aligned to them.
pub(crate) const SIZE: u64 = 64;
/// Places in it: stolen nanoseconds, version, and the state below.
const VERSION: u64 = 8;
const STATE: u64 = 16;
/// State: the vCPU does not run.
const NOT_RUNNING: u8 = 1;
/// State: flush its translations before it runs again.
const FLUSH: u8 = 2;

/// The structure of one vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StealTime(pub(crate) u64);

impl StealTime {
    /// Tells the guest that `nanoseconds` were stolen from the vCPU in all.
    pub(crate) fn report(self, ram: &GuestRam, nanoseconds: u64) {
        let memory = ram.memory();
        let version = GuestPhysAddr(self.0 + VERSION);
        let Ok(now) = memory.read_obj::<u32>(version) else { return };
        let odd = now | 1;
        let steps = [(odd, None), (odd.wrapping_add(1), Some(nanoseconds))];
        for (value, stolen) in steps {
            if let Some(stolen) = stolen {
                let _ = memory.store(stolen, GuestPhysAddr(self.0), Ordering::Release);
            }
            let _ = memory.store(value, version, Ordering::Release);
        }
    }

    /// Tells whether the vCPU runs. Returns whether its translations must be flushed before it does.
    pub(crate) fn set_running(self, ram: &GuestRam, running: bool) -> bool {
        let slice = ram.memory().get_slice(GuestPhysAddr(self.0 + STATE), 1);
        let Ok(slice) = slice else { return false };
        // Other vCPUs change it meanwhile.
        let Ok(state) = slice.get_atomic_ref::<AtomicU8>(0) else { return false };
        let before = state.swap(if running { 0 } else { NOT_RUNNING }, Ordering::SeqCst);
        running && before & FLUSH != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_asked_for_while_the_vcpu_sleeps() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let steal = StealTime(0x3000);
        assert!(!steal.set_running(&ram, false));
        let state = GuestPhysAddr(0x3010);
        assert_eq!(ram.memory().read_obj::<u8>(state).unwrap(), 1);
        ram.memory().write_obj(3u8, state).unwrap();
        assert!(steal.set_running(&ram, true));
        assert!(!steal.set_running(&ram, true));
        steal.report(&ram, 77);
        assert_eq!(ram.memory().read_obj::<[u64; 2]>(GuestPhysAddr(0x3000)).unwrap(), [77, 2]);
        StealTime(1 << 30).report(&ram, 1);
        assert!(!StealTime(1 << 30).set_running(&ram, true));
    }
}
