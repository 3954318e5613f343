//! Which segment descriptors a guest may have.

use ambos_x86::segment::{attr, system_type};
use ambos_xen_abi::segment::FIRST_RESERVED_GDT_ENTRY;

const DPL: u64 = 3 << (40 + attr::DPL_SHIFT);

/// The descriptor as it may stand in a table: segments are made those of the least privilege; `None`
/// if it is one that a guest may not have, such as a gate or a task state.
pub(crate) fn checked(descriptor: u64) -> Option<u64> {
    let attributes = (descriptor >> 40) as u32;
    if attributes & attr::P == 0 {
        return Some(descriptor);
    }
    let lowered = descriptor | DPL;
    if attributes & attr::S != 0 {
        return Some(lowered);
    }
    match attributes & attr::TYPE {
        // The second half of a call gate.
        0 => Some(lowered),
        system_type::CALL_GATE => {
            let selector = (descriptor >> 16) as u16;
            let own = usize::from(selector >> 3) >= FIRST_RESERVED_GDT_ENTRY && selector & 4 == 0;
            let reserved = descriptor >> 32 & 0xff;
            (!own && selector & 0xfffc != 0 && reserved == 0).then_some(lowered)
        }
        _ => None,
    }
}

/// A code or data segment of the least privilege: what a return may load. Attributes and all, or `None`.
pub(crate) fn segment(descriptor: u64, selector: u16) -> ambos_vcpu::Segment {
    let (base, limit, attributes) = ambos_x86::segment::decode(descriptor);
    ambos_vcpu::Segment { selector, base, limit, attributes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_lose_their_privilege() {
        assert_eq!(checked(0x00af_9b00_0000_ffff), Some(0x00af_fb00_0000_ffff));
        assert_eq!(checked(0), Some(0));
        assert_eq!(checked(0x0000_1b00_0000_ffff), Some(0x0000_1b00_0000_ffff), "not present");
    }

    #[test]
    fn gates_and_task_states_are_refused() {
        // Task state, interrupt gate, local table.
        for kind in [0x89u64, 0x8b, 0x8e, 0x82] {
            assert_eq!(checked(kind << 40), None, "{kind:#x}");
        }
        let gate = |selector: u64| 0xecu64 << 40 | selector << 16;
        assert!(checked(gate(0x10)).is_some());
        assert_eq!(checked(gate(0xe033)), None);
        assert_eq!(checked(gate(0)), None);
    }
}
