//! What is around a chipset that is tried: nobody who switches it off, and a counter that follows its clock.

use ambos_clock::VmClock;
use ambos_pc::apic::TimeStampCounter;
use ambos_pc::{PowerRequest, PowerSink};
use std::sync::Arc;

/// Does nothing that it is asked for.
pub(crate) struct Ignore;

impl PowerSink for Ignore {
    fn request(&self, _request: PowerRequest) {}
}

/// Counts nanoseconds of a clock.
pub(crate) struct Tsc(pub(crate) Arc<VmClock>);

impl TimeStampCounter for Tsc {
    fn now(&self) -> u64 {
        self.0.now()
    }

    fn hz(&self) -> u64 {
        1_000_000_000
    }
}
