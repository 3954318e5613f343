//! Model-specific registers that are neither the CPU's own nor a device's: memory types, machine
//! checks, and what kernels look at because of one model or another.

use ambos_vcpu::{MsrFault, PHYSICAL_BITS};
use ambos_x86::msr;

/// Variable-range memory-type registers.
const VARIABLE_RANGES: u64 = 8;
/// MTRRCAP: write-combining, fixed ranges, and the number of variable ranges.
const MTRR_CAPABILITIES: u64 = 1 << 10 | 1 << 8 | VARIABLE_RANGES;
/// AMD: hardware configuration.
const AMD_HWCR: u32 = 0xc001_0015;
/// AMD: northbridge configuration.
const AMD_NB_CFG: u32 = 0xc001_001f;
/// AMD: decode configuration.
const AMD_DE_CFG: u32 = 0xc001_1029;
/// AMD: system configuration.
const AMD_SYSCFG: u32 = 0xc001_0010;
/// AMD: SMM address and mask.
const AMD_SMM: std::ops::RangeInclusive<u32> = 0xc001_0112..=0xc001_0113;
/// AMD: virtual-machine control; bit 4 says that SVM is locked off.
const AMD_VM_CR: u32 = 0xc001_0114;
/// HWCR: the time-stamp counter runs at the P0 frequency.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
/// DE_CFG: LFENCE serializes.
const DE_CFG_LFENCE: u64 = 1 << 1;
/// A microcode revision that is newer than any fix a kernel looks for.
const MICROCODE: u64 = 0xffff_ffff;
/// What the engine is not vulnerable to, because the host takes care of it (SDM vol. 4, table 2-2, 10AH).
const ARCH_CAPABILITIES: u64 = 1 << 0 // RDCL_NO
    | 1 << 1 // IBRS_ALL
    | 1 << 3 // SKIP_L1DFL_VMENTRY
    | 1 << 4 // SSB_NO
    | 1 << 5 // MDS_NO
    | 1 << 6 // IF_PSCHANGE_MC_NO
    | 1 << 8 // TAA_NO
    | 1 << 13 // SBDR_SSDP_NO
    | 1 << 14 // FBSDP_NO
    | 1 << 15 // PSDP_NO
    | 1 << 20 // BHI_NO
    | 1 << 24 // PBRSB_NO
    | 1 << 26 // GDS_NO
    | 1 << 27 // RFDS_NO
    | 1 << 62; // ITS_NO
/// Intel: platform information, with no turbo or ratio.
const INTEL_PLATFORM_INFO: u32 = 0xce;
/// Intel: core counts of the package.
const INTEL_CORE_COUNT: u32 = 0x35;
/// Fast string operations.
const MISC_ENABLE_FAST_STRINGS: u64 = 1;
/// SPEC_CTRL: IBRS, STIBP, SSBD.
const SPEC_CTRL_MASK: u64 = 7;

/// The registers of one vCPU.
#[derive(Debug, Clone)]
pub(crate) struct PlatformMsrs {
    intel: bool,
    variable: [u64; 16],
    fixed: [u64; 11],
    default_type: u64,
    misc_enable: u64,
    machine_check_status: u64,
    spec_ctrl: u64,
}

impl PlatformMsrs {
    /// As firmware leaves them: everything is write-back but the hole for devices.
    pub(crate) fn new(intel: bool) -> Self {
        let mask = (1u64 << PHYSICAL_BITS) - 1;
        let mut variable = [0; 16];
        // 0xc000_0000 to 0xffff_ffff uncacheable, valid.
        variable[0] = 0xc000_0000;
        variable[1] = mask & !0x3fff_ffff | 1 << 11;
        Self {
            intel,
            variable,
            fixed: [0x0606_0606_0606_0606; 11],
            // Enabled, with fixed ranges, default write-back.
            default_type: 1 << 11 | 1 << 10 | 6,
            misc_enable: MISC_ENABLE_FAST_STRINGS,
            machine_check_status: 0,
            spec_ctrl: 0,
        }
    }

    fn fixed_index(index: u32) -> Option<usize> {
        match index {
            msr::IA32_MTRR_FIX64K_00000 => Some(0),
            msr::IA32_MTRR_FIX16K_80000 => Some(1),
            msr::IA32_MTRR_FIX16K_A0000 => Some(2),
            msr::IA32_MTRR_FIX4K_C0000..=msr::IA32_MTRR_FIX4K_F8000 => {
                Some((index - msr::IA32_MTRR_FIX4K_C0000) as usize + 3)
            }
            _ => None,
        }
    }

    /// Reads a register.
    pub(crate) fn read(&self, index: u32) -> Result<u64, MsrFault> {
        if let Some(fixed) = Self::fixed_index(index) {
            return Ok(self.fixed[fixed]);
        }
        match index {
            msr::IA32_MTRRCAP => Ok(MTRR_CAPABILITIES),
            msr::IA32_MTRR_PHYSBASE0..=msr::IA32_MTRR_PHYSMASK7 => {
                Ok(self.variable[(index - msr::IA32_MTRR_PHYSBASE0) as usize])
            }
            msr::IA32_MTRR_DEF_TYPE => Ok(self.default_type),
            msr::IA32_MCG_CAP => Ok(0),
            msr::IA32_MCG_STATUS => Ok(self.machine_check_status),
            msr::IA32_BIOS_SIGN_ID => Ok(if self.intel { MICROCODE << 32 } else { MICROCODE }),
            msr::IA32_MISC_ENABLE if self.intel => Ok(self.misc_enable),
            msr::IA32_FEATURE_CONTROL if self.intel => Ok(1),
            msr::IA32_ARCH_CAPABILITIES if self.intel => Ok(ARCH_CAPABILITIES),
            msr::IA32_SPEC_CTRL if self.intel => Ok(self.spec_ctrl),
            INTEL_PLATFORM_INFO if self.intel => Ok(0),
            INTEL_CORE_COUNT if self.intel => Ok(1 << 16 | 1),
            AMD_HWCR if !self.intel => Ok(HWCR_TSC_FREQ_SEL),
            AMD_DE_CFG if !self.intel => Ok(DE_CFG_LFENCE),
            AMD_VM_CR if !self.intel => Ok(1 << 4),
            AMD_NB_CFG | AMD_SYSCFG if !self.intel => Ok(0),
            _ if !self.intel && AMD_SMM.contains(&index) => Ok(0),
            _ => Err(MsrFault),
        }
    }

    /// Writes a register.
    pub(crate) fn write(&mut self, index: u32, value: u64) -> Result<(), MsrFault> {
        if let Some(fixed) = Self::fixed_index(index) {
            self.fixed[fixed] = value;
            return Ok(());
        }
        match index {
            msr::IA32_MTRR_PHYSBASE0..=msr::IA32_MTRR_PHYSMASK7 => {
                self.variable[(index - msr::IA32_MTRR_PHYSBASE0) as usize] = value;
            }
            msr::IA32_MTRR_DEF_TYPE => self.default_type = value & 0xcff,
            msr::IA32_MCG_STATUS => self.machine_check_status = value & 7,
            msr::IA32_MISC_ENABLE if self.intel => self.misc_enable = value,
            msr::IA32_SPEC_CTRL if self.intel && value & !SPEC_CTRL_MASK == 0 => {
                self.spec_ctrl = value;
            }
            // Starts a microcode update on Intel: there is none.
            msr::IA32_BIOS_SIGN_ID => {}
            AMD_HWCR | AMD_NB_CFG | AMD_DE_CFG | AMD_SYSCFG if !self.intel => {}
            _ => return Err(MsrFault),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_types_are_kept() {
        let mut msrs = PlatformMsrs::new(true);
        assert_eq!(msrs.read(msr::IA32_MTRR_PHYSBASE0), Ok(0xc000_0000));
        msrs.write(msr::IA32_MTRR_FIX4K_F8000, 0x0505_0505_0505_0505).unwrap();
        assert_eq!(msrs.read(msr::IA32_MTRR_FIX4K_F8000), Ok(0x0505_0505_0505_0505));
        assert_eq!(msrs.read(0x1234), Err(MsrFault));
        assert_eq!(msrs.write(msr::IA32_SPEC_CTRL, 1 << 9), Err(MsrFault));
    }
}
