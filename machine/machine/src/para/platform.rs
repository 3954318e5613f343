//! The machine as a vCPU of a PV guest sees it: there is nothing but the hypervisor.

use crate::cpu_model::CpuModel;
use crate::msrs::PlatformMsrs;
use crate::shootdown::{self, Member};
use crate::vcpu::VcpuPlatform;
use ambos_intercept::{Ledger, UnservedLog};
use ambos_interpret::system::xsave;
use ambos_vcpu::{MsrFault, Platform, PortWidth, Supervisor};
use ambos_x86::msr;
use ambos_xen::{Processor, XenVcpu, cpuid_policy};
use std::sync::Arc;

/// The processor that the hypervisor shows to its guest.
#[derive(Clone)]
pub(super) struct ModelProcessor {
    model: Arc<CpuModel>,
    msrs: PlatformMsrs,
    id: u32,
    tsc_khz: u32,
}

impl ModelProcessor {
    pub(super) fn new(model: Arc<CpuModel>, id: u32, tsc_khz: u32) -> Self {
        let msrs = PlatformMsrs::new(model.is_intel());
        Self { model, msrs, id, tsc_khz }
    }
}

/// Memory types are the hypervisor's.
fn is_memory_type(index: u32) -> bool {
    matches!(
        index,
        msr::IA32_MTRRCAP
            | msr::IA32_MTRR_DEF_TYPE
            | msr::IA32_MTRR_PHYSBASE0..=msr::IA32_MTRR_PHYSMASK7
            | msr::IA32_MTRR_FIX64K_00000..=msr::IA32_MTRR_FIX4K_F8000
    )
}

impl Processor for ModelProcessor {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let values = self.model.cpuid(self.id, leaf, subleaf);
        cpuid_policy(leaf, subleaf, values, self.tsc_khz)
    }

    fn save_area(&self, xcr0: u64, compacted: bool) -> u32 {
        if compacted { xsave::compacted_size(xcr0) } else { xsave::standard_size(xcr0) }
    }

    fn read_msr(&self, index: u32) -> Option<u64> {
        if is_memory_type(index) {
            return None;
        }
        self.msrs.read(index).ok()
    }

    fn write_msr(&mut self, index: u32, value: u64) -> bool {
        !is_memory_type(index) && self.msrs.write(index, value).is_ok()
    }
}

/// What one vCPU reaches.
pub(super) struct ParaPlatform {
    pub(super) supervisor: XenVcpu,
    pub(super) processor: ModelProcessor,
    pub(super) members: Arc<[Member]>,
    pub(super) index: usize,
    pub(super) ledger: Arc<Ledger>,
    pub(super) unserved: Arc<UnservedLog>,
}

impl VcpuPlatform for ParaPlatform {}

impl Platform for ParaPlatform {
    fn port_read(&mut self, _: u16, _: PortWidth) -> u32 {
        u32::MAX
    }

    fn port_write(&mut self, _: u16, _: PortWidth, _: u32) {}

    fn mmio_read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _: u64, _: &[u8]) {}

    fn msr_read(&mut self, _: u32) -> Result<u64, MsrFault> {
        Err(MsrFault)
    }

    fn msr_write(&mut self, _: u32, _: u64) -> Result<(), MsrFault> {
        Err(MsrFault)
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.processor.cpuid(leaf, subleaf)
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        None
    }

    fn task_priority(&mut self) -> u8 {
        0
    }

    fn set_task_priority(&mut self, _: u8) {}

    fn flush_others(&mut self) {
        shootdown::flush_others(&self.members, self.index);
    }

    fn supervisor(&mut self) -> Option<&mut dyn Supervisor> {
        Some(&mut self.supervisor)
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn unserved(&self) -> &UnservedLog {
        &self.unserved
    }
}
