//! The guest's time-stamp counter.

use ambos_pc::apic::TimeStampCounter;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The counter of one vCPU: the host's plus an offset.
#[derive(Debug)]
pub(crate) struct GuestTsc {
    offset: AtomicU64,
}

impl GuestTsc {
    /// A counter that is zero when the host's is `base`.
    pub(crate) fn starting_at(base: u64) -> Self {
        Self { offset: AtomicU64::new(0u64.wrapping_sub(base)) }
    }

    /// What is added to the host's counter.
    pub(crate) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// Makes the counter read `value` now.
    pub(crate) fn set(&self, value: u64) {
        self.offset.store(value.wrapping_sub(host_tsc()), Ordering::Relaxed);
    }
}

impl TimeStampCounter for GuestTsc {
    fn now(&self) -> u64 {
        host_tsc().wrapping_add(self.offset())
    }

    fn hz(&self) -> u64 {
        frequency()
    }
}

/// The host's time-stamp counter.
pub(crate) fn host_tsc() -> u64 {
    ambos_interpret::system::time::host_tsc()
}

/// Frequency of the host's time-stamp counter, in hertz.
pub(crate) fn frequency() -> u64 {
    static FREQUENCY: OnceLock<u64> = OnceLock::new();
    *FREQUENCY.get_or_init(|| announced().unwrap_or_else(measured))
}

/// What the processor or the hypervisor below announces.
fn announced() -> Option<u64> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let leaf = __cpuid(0);
    if leaf.eax >= 0x15 {
        let leaf = __cpuid_count(0x15, 0);
        if leaf.eax != 0 && leaf.ebx != 0 && leaf.ecx != 0 {
            return Some(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax));
        }
    }
    if __cpuid(1).ecx & ambos_x86::cpuid::leaf1_ecx::HYPERVISOR != 0 {
        let top = __cpuid(0x4000_0000).eax;
        // The timing leaf of VMware and KVM: kilohertz.
        if (0x4000_0010..0x4000_0100).contains(&top) {
            let khz = __cpuid(0x4000_0010).eax;
            return (khz != 0).then_some(u64::from(khz) * 1000);
        }
    }
    None
}

/// When the measurement of the frequency began, and the counter then.
fn beginning() -> (Instant, u64) {
    static BEGINNING: OnceLock<(Instant, u64)> = OnceLock::new();
    *BEGINNING.get_or_init(|| (Instant::now(), host_tsc()))
}

/// Says that the frequency will be asked for: if it has to be measured, that begins now.
pub(crate) fn expect_frequency() {
    let _ = beginning();
}

/// Measures against the monotonic clock, as the kernel calibrates: 20 ms give some 10 ppm.
fn measured() -> u64 {
    const LEAST: Duration = Duration::from_millis(20);
    let (start, first) = beginning();
    std::thread::sleep(LEAST.saturating_sub(start.elapsed()));
    let (last, elapsed) = (host_tsc(), start.elapsed());
    let ticks = u128::from(last.wrapping_sub(first)) * 1_000_000_000;
    u64::try_from(ticks / elapsed.as_nanos().max(1)).unwrap_or(u64::MAX)
}
