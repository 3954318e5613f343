//! The interface that Linux guests of KVM know, as far as this monitor carries it.
//!
//! - [`cpuid`]: how a guest learns of it.
//! - [`KvmVcpu`]: one vCPU's registers and what they make the monitor keep in guest memory: the clock,
//!   stolen time, whether the vCPU sleeps.
//! - [`EndFlag`]: the flag by which a guest ends interrupts without being intercepted.
//! - [`Hypercall`]: what a guest asks for with VMCALL or VMMCALL.
//!
//! It knows guest memory and nothing else of a machine. What guest memory is told where there is none
//! is lost, as on a processor.
#![forbid(unsafe_code)]

mod clock;
mod end_flag;
mod hypercalls;
mod spec;
mod steal;
mod vcpu;

pub use clock::Origin;
pub use end_flag::EndFlag;
pub use hypercalls::{Hypercall, Interrupts};
pub use vcpu::{Effect, KvmVcpu};

use spec::{FEATURES_LEAF, Features, SIGNATURE, SIGNATURE_LEAF, TIMING_LEAF};

/// What CPUID says of the interface in a machine whose time-stamp counter has `hz` hertz: EAX, EBX,
/// ECX, EDX. `None` for leaves that have nothing to do with it.
pub fn cpuid(leaf: u32, hz: u64) -> Option<[u32; 4]> {
    let [b, c, d] = [0, 4, 8].map(|at| {
        u32::from_le_bytes([SIGNATURE[at], SIGNATURE[at + 1], SIGNATURE[at + 2], SIGNATURE[at + 3]])
    });
    match leaf {
        SIGNATURE_LEAF => Some([TIMING_LEAF, b, c, d]),
        FEATURES_LEAF => Some([Features::all().bits(), 0, 0, 0]),
        // The local APIC's timer counts nanoseconds.
        TIMING_LEAF => Some([u32::try_from(hz / 1000).unwrap_or(0), 1_000_000, 0, 0]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_spelt() {
        let [top, b, c, d] = cpuid(0x4000_0000, 2_500_000_000).unwrap();
        assert_eq!([b, c, d], [0x4b4d_564b, 0x564b_4d56, 0x4d]);
        assert_eq!(cpuid(top, 2_500_000_000).unwrap()[0], 2_500_000);
        assert_eq!(cpuid(0x4000_0002, 1), None);
        assert_eq!(cpuid(0, 1), None);
    }
}
