//! CPUID as a PV guest sees it: the machine's model without what the hypervisor keeps for itself, and Xen's
//! own leaves.

use ambos_x86::cpuid::{leaf1_ecx, leaf1_edx};
use ambos_xen_abi::cpuid::{
    BASE, FEATURES, HVM, HYPERCALL_MSR, MMU_PT_UPDATE_PRESERVE_AD, PV, SIGNATURE, TIME,
    TSC_MODE_NEVER_EMULATE, VERSION,
};
use ambos_xen_abi::version::{MAJOR, MINOR};

/// Leaf 1, EDX: VME, PSE, SYSENTER, MTRR, PGE, PSE-36 are not for PV guests, and there is no local APIC.
const LEAF1_EDX: u32 = 1 << 1 | 1 << 3 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 17 | leaf1_edx::APIC;
/// Leaf 1, ECX: MONITOR, VMX, SMX, PCID, x2APIC, TSC deadline.
const LEAF1_ECX: u32 =
    1 << 3 | 1 << 5 | 1 << 6 | leaf1_ecx::PCID | leaf1_ecx::X2APIC | leaf1_ecx::TSC_DEADLINE;
/// Leaf 7, EBX: SMEP, INVPCID, SMAP.
const LEAF7_EBX: u32 = 1 << 7 | 1 << 10 | 1 << 20;
/// Leaf 7, ECX: UMIP, PKU.
const LEAF7_ECX: u32 = 1 << 2 | 1 << 3;
/// Leaf 0x8000_0001, EDX: VME, PSE, MTRR, PGE, PSE-36 in AMD's copies; 1 GiB pages.
const EXTENDED_EDX: u32 = 1 << 1 | 1 << 3 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 17 | 1 << 26;
/// XSAVES of leaf 0xd, subleaf 1: supervisor components are the hypervisor's.
const XSAVES: u32 = 1 << 3;

/// Bits of the highest address of RAM, at most: as many as the first layout of grants has room for, so that
/// guests use that one. No host has more memory to give.
const MACHINE_ADDRESS_BITS: u32 = 32 + 12;

/// What a leaf returns, from what the machine's model returns for it.
pub fn policy(leaf: u32, subleaf: u32, values: [u32; 4], tsc_khz: u32) -> [u32; 4] {
    let [a, b, c, d] = values;
    match leaf {
        1 => [a, b, c & !LEAF1_ECX | leaf1_ecx::HYPERVISOR, d & !LEAF1_EDX],
        7 if subleaf == 0 => [a, b & !LEAF7_EBX, c & !LEAF7_ECX, d],
        0xd if subleaf == 1 => [a & !XSAVES, b, c, d],
        0x8000_0001 => [a, b, c, d & !EXTENDED_EDX],
        // Bits of the manufacturer's mitigations stay; sizes of large pages' TLBs mean nothing.
        BASE => [PV, SIGNATURE[0], SIGNATURE[1], SIGNATURE[2]],
        VERSION => [u32::from(MAJOR) << 16 | u32::from(MINOR), 0, 0, 0],
        FEATURES => [1, HYPERCALL_MSR, MMU_PT_UPDATE_PRESERVE_AD, 0],
        TIME => match subleaf {
            // The counter is the same everywhere, and not emulated.
            0 => [1 << 1, TSC_MODE_NEVER_EMULATE, tsc_khz, 0],
            2 => [tsc_khz, 0, 0, 0],
            _ => [0; 4],
        },
        HVM => [0; 4],
        PV => [0, MACHINE_ADDRESS_BITS, 0, 0],
        _ => values,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hypervisor_names_itself() {
        let [top, b, c, d] = policy(BASE, 0, [0; 4], 1000);
        let name: Vec<u8> = [b, c, d].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!((top, &name[..]), (PV, &b"XenVMMXenVMM"[..]));
        assert_eq!(policy(VERSION, 0, [0; 4], 1000)[0], 4 << 16 | 17);
    }

    #[test]
    fn what_a_pv_guest_cannot_use_is_hidden() {
        let [_, _, c, d] = policy(1, 0, [u32::MAX; 4], 1000);
        assert_eq!(c & LEAF1_ECX, 0);
        assert_eq!(d & LEAF1_EDX, 0);
        assert_ne!(c & leaf1_ecx::HYPERVISOR, 0);
    }
}
