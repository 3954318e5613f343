//! What CPUID tells the guest: the host's processor without what the engine does not carry.
//!
//! The guest sees no hypervisor (it is unaware of one), and a processor that has none of the known
//! speculation bugs: those are the host's to deal with, so guests need not pay for them again.

use ambos_vcpu::PHYSICAL_BITS;
use ambos_x86::cpuid::{leaf1_ecx, leaf1_edx};
use ambos_x86::xstate;
use std::arch::x86_64::__cpuid_count;
use std::collections::HashMap;

/// Leaf 1, ECX: what the engine carries if the host has it.
const LEAF1_ECX: u32 = 1 << 0 // SSE3
    | 1 << 1 // PCLMULQDQ
    | 1 << 9 // SSSE3
    | 1 << 12 // FMA
    | leaf1_ecx::CX16
    | 1 << 19 // SSE4.1
    | 1 << 20 // SSE4.2
    | 1 << 22 // MOVBE
    | 1 << 23 // POPCNT
    | 1 << 25 // AES
    | leaf1_ecx::XSAVE
    | leaf1_ecx::AVX
    | 1 << 29 // F16C
    | leaf1_ecx::RDRAND;
/// Leaf 1, ECX: what the engine and the platform provide themselves.
const LEAF1_ECX_OWN: u32 = leaf1_ecx::PCID | leaf1_ecx::X2APIC | leaf1_ecx::TSC_DEADLINE;
/// Leaf 1, EDX: FPU, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE-36,
/// CLFLUSH, MMX, FXSR, SSE, SSE2.
const LEAF1_EDX: u32 = 0x078b_fbfd;
/// Leaf 7, EBX: BMI1, AVX2, BMI2, ERMS, AVX-512 F/DQ/IFMA/CD/BW/VL, RDSEED, ADX, CLFLUSHOPT, CLWB,
/// SHA.
const LEAF7_EBX: u32 = 1 << 3
    | 1 << 5
    | 1 << 8
    | 1 << 9
    | 1 << 16
    | 1 << 17
    | 1 << 18
    | 1 << 19
    | 1 << 21
    | 1 << 23
    | 1 << 24
    | 1 << 28
    | 1 << 29
    | 1 << 30
    | 1 << 31;
/// Leaf 7, EBX: FSGSBASE, SMEP, INVPCID, SMAP.
const LEAF7_EBX_OWN: u32 = 1 << 0 | 1 << 7 | 1 << 10 | 1 << 20;
/// Leaf 7, ECX: AVX512-VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID.
const LEAF7_ECX: u32 =
    1 << 1 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 14 | 1 << 22;
/// Leaf 7, ECX: UMIP.
const LEAF7_ECX_OWN: u32 = 1 << 2;
/// Leaf 7, EDX: fast short REP MOV, AVX512-VP2INTERSECT.
const LEAF7_EDX: u32 = 1 << 4 | 1 << 8;
/// Leaf 7, EDX: SERIALIZE, which is quicker here than all else that does the same.
const LEAF7_EDX_OWN: u32 = 1 << 14;
/// Leaf 7, EDX on Intel: SPEC_CTRL and ARCH_CAPABILITIES, so that the guest learns that it is safe.
const LEAF7_EDX_INTEL: u32 = 1 << 26 | 1 << 29;
/// Leaf 0x8000_0001, ECX: LAHF in 64-bit mode, CR8 in 32-bit mode, LZCNT, SSE4A, misaligned SSE,
/// PREFETCHW.
const EXTENDED_ECX: u32 = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 8;
/// Leaf 0x8000_0001, EDX: what the engine provides: SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
const EXTENDED_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29;
/// Leaf 0x8000_0001, EDX on AMD: the copies of leaf 1's bits.
const EXTENDED_EDX_AMD: u32 = 0x0183_f3fd;
/// Leaf 0x8000_0008, EBX on AMD: error pointers are always saved and restored, not affected by
/// speculative store bypass.
const EXTENDED_8_EBX_AMD: u32 = 1 << 2 | 1 << 26;
/// Leaf 0x8000_0021, ECX: no transient scheduler attack reaches the L1 cache or the store queue, nor, by the
/// bit that newer kernels ask for besides these, anything else.
const EXTENDED_21_ECX: u32 = 1 << 1 | 1 << 2 | 1 << 7;
/// Leaf 0x8000_0021, EAX: LFENCE serializes, null selectors clear the base, automatic IBRS, and not
/// affected by SRSO.
const EXTENDED_21_EAX: u32 = 1 << 2 | 1 << 6 | 1 << 8 | 1 << 29;

/// The processor model of one machine.
#[derive(Debug, Clone)]
pub struct CpuModel {
    cpus: u32,
    intel: bool,
    vendor: [u32; 3],
    max_basic: u32,
    max_extended: u32,
    xcr0: u64,
    /// What the host's processor says, by leaf and subleaf. Where the host is a virtual machine itself it takes
    /// microseconds to ask, and programs ask some 40 times when they start.
    host: HashMap<(u32, u32), [u32; 4]>,
}

fn has_subleaves(leaf: u32) -> bool {
    matches!(leaf, 4 | 7 | 0xb | 0xd)
}

/// The host's leaves up to `max_basic` and from 0x8000_0000 up to `max_extended`, with as many
/// subleaves as tell anything.
fn host_leaves(max_basic: u32, max_extended: u32) -> HashMap<(u32, u32), [u32; 4]> {
    let leaves = (0..=max_basic).chain(0x8000_0000..=max_extended);
    let subleaves = |leaf| if has_subleaves(leaf) { 0..20 } else { 0..1 };
    leaves
        .flat_map(|leaf| subleaves(leaf).map(move |subleaf| (leaf, subleaf)))
        .map(|(leaf, subleaf)| ((leaf, subleaf), host(leaf, subleaf)))
        .collect()
}

fn host(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = __cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

impl CpuModel {
    /// A model for a machine of `cpus` vCPUs, after the host's processor.
    pub fn host(cpus: u32) -> Self {
        let [basic, b, c, d] = host(0, 0);
        let intel = [b, d, c] == [0x756e_6547, 0x4965_6e69, 0x6c65_746e];
        let extended = host(0x8000_0000, 0)[0];
        let [low, _, _, high] = if basic >= 0xd { host(0xd, 0) } else { [3, 0, 0, 0] };
        let mut xcr0 = u64::from(high) << 32 | u64::from(low);
        xcr0 &= xstate::X87 | xstate::SSE | xstate::AVX | xstate::AVX512;
        if xcr0 & xstate::AVX512 != xstate::AVX512 {
            xcr0 &= !xstate::AVX512;
        }
        let max_basic = basic.clamp(0xb, 0xd).max(0xd);
        let max_extended = if intel { extended.min(0x8000_0008) } else { 0x8000_0021 };
        let host = host_leaves(max_basic, max_extended);
        Self { cpus: cpus.max(1), intel, vendor: [b, c, d], max_basic, max_extended, xcr0, host }
    }

    /// Whether the processor is Intel's; otherwise it follows AMD's manual.
    pub fn is_intel(&self) -> bool {
        self.intel
    }

    /// CPUID of the vCPU with APIC ID `apic_id`: EAX, EBX, ECX, EDX. What depends on control
    /// registers is the engine's.
    pub fn cpuid(&self, apic_id: u32, leaf: u32, subleaf: u32) -> [u32; 4] {
        let basic = leaf <= self.max_basic;
        let extended = (0x8000_0000..=self.max_extended).contains(&leaf);
        if !basic && !extended {
            return [0; 4];
        }
        // Programs leave anything in ECX where there are no subleaves.
        let place = if has_subleaves(leaf) { subleaf } else { 0 };
        let known = self.host.get(&(leaf, place)).copied();
        let [a, b, c, d] = known.unwrap_or_else(|| host(leaf, subleaf));
        match leaf {
            0 => [self.max_basic, self.vendor[0], self.vendor[1], self.vendor[2]],
            1 => self.leaf_1(apic_id, [a, b, c, d]),
            2 if self.intel => [a, b, c, d],
            4 if self.intel => [a & 0x3fff | (self.cpus - 1).min(63) << 26, b, c, d],
            // The local APIC's timer never stops.
            6 => [1 << 2, 0, 0, 0],
            7 => self.leaf_7(subleaf, [a, b, c, d]),
            0xb => self.topology(apic_id, subleaf),
            0xd => self.state_components(subleaf, [a, b, c, d]),
            0x8000_0000 if self.intel => [self.max_extended, 0, 0, 0],
            0x8000_0000 => [self.max_extended, self.vendor[0], self.vendor[1], self.vendor[2]],
            0x8000_0001 => {
                let copies = if self.intel { 0 } else { d & EXTENDED_EDX_AMD };
                let amd_ecx = if self.intel { 0 } else { c & 1 << 7 | 1 << 4 };
                [a, 0, c & EXTENDED_ECX | amd_ecx, EXTENDED_EDX | copies]
            }
            0x8000_0002..=0x8000_0006 => [a, b, c, d],
            // The time-stamp counter is invariant.
            0x8000_0007 => [0, 0, 0, 1 << 8],
            0x8000_0008 => {
                let (features, cores) =
                    if self.intel { (0, 0) } else { (EXTENDED_8_EBX_AMD, self.cpus - 1) };
                [PHYSICAL_BITS | 48 << 8, features, cores, 0]
            }
            0x8000_0021 => [EXTENDED_21_EAX, 0, EXTENDED_21_ECX, 0],
            _ => [0; 4],
        }
    }

    fn leaf_1(&self, apic_id: u32, [a, _, c, _]: [u32; 4]) -> [u32; 4] {
        let ebx = apic_id << 24 | self.cpus.min(255) << 16 | 8 << 8;
        let threads = if self.cpus > 1 { leaf1_edx::HTT } else { 0 };
        let mut ecx = c & LEAF1_ECX | LEAF1_ECX_OWN;
        if self.xcr0 & xstate::AVX == 0 {
            ecx &= !(leaf1_ecx::AVX | 1 << 12 | 1 << 29);
        }
        [a, ebx, ecx, LEAF1_EDX | threads]
    }

    fn leaf_7(&self, subleaf: u32, [a, b, c, d]: [u32; 4]) -> [u32; 4] {
        match subleaf {
            0 => {
                let own = LEAF7_EDX_OWN | if self.intel { LEAF7_EDX_INTEL } else { 0 };
                let mut ebx = b & LEAF7_EBX | LEAF7_EBX_OWN;
                if self.xcr0 & xstate::AVX512 == 0 {
                    ebx &= !(1 << 16 | 1 << 17 | 1 << 21 | 1 << 28 | 1 << 30 | 1 << 31);
                }
                [a.min(1), ebx, c & LEAF7_ECX | LEAF7_ECX_OWN, d & LEAF7_EDX | own]
            }
            // AVX-VNNI, AVX512-BF16.
            1 => [a & (1 << 4 | 1 << 5), 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// Leaf 0xb: threads, then cores.
    fn topology(&self, apic_id: u32, subleaf: u32) -> [u32; 4] {
        match subleaf {
            0 => [0, 1, 1 << 8, apic_id],
            1 => {
                let bits = u32::BITS - (self.cpus - 1).leading_zeros();
                [bits, self.cpus, 2 << 8 | 1, apic_id]
            }
            _ => [0, 0, subleaf & 0xff, apic_id],
        }
    }

    fn state_components(&self, subleaf: u32, [a, b, c, _]: [u32; 4]) -> [u32; 4] {
        match subleaf {
            0 => {
                let size = ambos_interpret::system::xsave::standard_size(self.xcr0);
                [self.xcr0 as u32, size, size, (self.xcr0 >> 32) as u32]
            }
            // XSAVEOPT, XSAVEC, XGETBV with ECX = 1, XSAVES.
            1 => [a & 0xf, 0, 0, 0],
            2..=62 if self.xcr0 >> subleaf & 1 != 0 => [a, b, c, 0],
            _ => [0; 4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_sees_no_hypervisor_and_no_nested_virtualization() {
        let model = CpuModel::host(2);
        let [_, ebx, ecx, edx] = model.cpuid(1, 1, 0);
        assert_eq!(ecx & (leaf1_ecx::HYPERVISOR | leaf1_ecx::VMX | leaf1_ecx::MONITOR), 0);
        assert_eq!(ebx >> 24, 1);
        assert_ne!(edx & leaf1_edx::HTT, 0);
        assert_eq!(model.cpuid(0, 0x8000_0001, 0)[2] & 1 << 2, 0);
        assert_eq!(model.cpuid(0, 0x4000_0000, 0), [0; 4]);
    }

    #[test]
    fn no_transient_scheduler_attack_is_to_be_fought() {
        // Otherwise kernels clear buffers whenever they go back to user mode.
        let model = CpuModel { intel: false, max_extended: 0x8000_0021, ..CpuModel::host(1) };
        for bit in [1, 2, 7] {
            assert_ne!(model.cpuid(0, 0x8000_0021, 0)[2] & 1 << bit, 0, "{bit}");
        }
    }

    #[test]
    fn what_is_remembered_of_the_host_is_what_it_says() {
        let model = CpuModel::host(1);
        assert!(model.host.contains_key(&(0xd, 1)) && model.host.contains_key(&(0x8000_0001, 0)));
        for subleaf in [0, 7, u32::MAX] {
            let [a, _, c, d] = model.cpuid(0, 1, subleaf);
            assert_eq!([a, d], [host(1, 0)[0], model.cpuid(0, 1, 0)[3]]);
            assert_eq!(c, model.cpuid(0, 1, 0)[2]);
        }
    }

    #[test]
    fn every_leaf_answers() {
        let model = CpuModel::host(1);
        for leaf in (0..0x40).chain(0x8000_0000..0x8000_0040) {
            for subleaf in 0..70 {
                let _ = model.cpuid(0, leaf, subleaf);
            }
        }
    }
}
