//! The machine as one vCPU sees it.

use crate::cpu_model::CpuModel;
use crate::kvm::KvmInterface;
use crate::msrs::PlatformMsrs;
use crate::shootdown::{self, Member};
use crate::tsc::GuestTsc;
use crate::vcpu::VcpuPlatform;
use ambos_device::{Access, MmioBus, Outcome, PortBus};
use ambos_intercept::{Device, Intercept, Ledger, UnservedLog};
use ambos_kvm_pv::KvmVcpu;
use ambos_pc::LocalApic;
use ambos_vcpu::{MsrFault, Platform, PortWidth};
use ambos_x86::msr;
use std::sync::Arc;

/// IA32_APIC_BASE: the local APIC is enabled.
const APIC_ENABLED: u64 = 1 << 11;

/// What one vCPU reaches of its machine.
pub(crate) struct PcPlatform {
    pub(crate) ports: Arc<PortBus>,
    pub(crate) mmio: Arc<MmioBus>,
    pub(crate) apic: Arc<LocalApic>,
    pub(crate) apic_device: Device,
    pub(crate) model: Arc<CpuModel>,
    pub(crate) msrs: PlatformMsrs,
    /// In a machine that tells its guest of KVM's interface.
    pub(crate) kvm: Option<KvmInterface>,
    pub(crate) tsc: Arc<GuestTsc>,
    pub(crate) members: Arc<[Member]>,
    pub(crate) index: usize,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) unserved: Arc<UnservedLog>,
    /// What the last access asked for, if no device served it.
    pub(crate) in_vain: Option<String>,
}

impl PcPlatform {
    fn note_port(&mut self, access: Access, port: u16, action: &str) {
        if access.outcome == Outcome::Unclaimed {
            self.in_vain = Some(format!("port {port:#x} {action}"));
        }
    }

    fn note_mmio(&mut self, outcome: Outcome, gpa: u64, action: &str) {
        if outcome == Outcome::Unclaimed {
            self.in_vain = Some(format!("memory {:#x} {action}", gpa & !0xfff));
        }
    }

    fn apic_offset(&self, gpa: u64) -> Option<u64> {
        let page = self.apic.mmio_page()?;
        (gpa & !0xfff == page).then_some(gpa & 0xfff)
    }
}

impl VcpuPlatform for PcPlatform {
    fn may_poll(&self) -> bool {
        self.kvm.as_ref().is_none_or(KvmInterface::may_poll)
    }

    fn sleeps(&self) {
        if let Some(kvm) = &self.kvm {
            kvm.sleeps();
        }
    }

    fn wakes(&self) -> bool {
        self.kvm.as_ref().is_some_and(KvmInterface::wakes)
    }
}

impl Platform for PcPlatform {
    fn port_read(&mut self, port: u16, width: PortWidth) -> u32 {
        let mut bytes = [0; 4];
        let ticket = self.ledger.start(Intercept::PortIo(Device::NONE));
        let access = self.ports.read(port, &mut bytes[..width as usize]);
        self.ledger.finish_as(ticket, Intercept::PortIo(access.device));
        self.note_port(access, port, "read");
        u32::from_le_bytes(bytes)
    }

    fn port_write(&mut self, port: u16, width: PortWidth, value: u32) {
        let ticket = self.ledger.start(Intercept::PortIo(Device::NONE));
        let access = self.ports.write(port, &value.to_le_bytes()[..width as usize]);
        self.ledger.finish_as(ticket, Intercept::PortIo(access.device));
        self.note_port(access, port, "write");
    }

    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        let ticket = self.ledger.start(Intercept::Mmio(self.apic_device));
        if let Some(offset) = self.apic_offset(gpa) {
            if self.apic.mmio_read(offset, data).is_err() {
                data.fill(0xff);
            }
            self.ledger.finish(ticket);
            return;
        }
        let access = self.mmio.read(gpa, data);
        self.ledger.finish_as(ticket, Intercept::Mmio(access.device));
        self.note_mmio(access.outcome, gpa, "read");
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        let ticket = self.ledger.start(Intercept::Mmio(self.apic_device));
        if let Some(offset) = self.apic_offset(gpa) {
            // What the APIC refuses it also ignores.
            let _ = self.apic.mmio_write(offset, data);
            self.ledger.finish(ticket);
            return;
        }
        let access = self.mmio.write(gpa, data);
        self.ledger.finish_as(ticket, Intercept::Mmio(access.device));
        self.note_mmio(access.outcome, gpa, "write");
    }

    fn take_unserved(&mut self) -> Option<String> {
        self.in_vain.take()
    }

    fn msr_read(&mut self, index: u32) -> Result<u64, MsrFault> {
        if let Some(kvm) = self.kvm.as_ref().filter(|_| KvmVcpu::owns_msr(index)) {
            return kvm.msr_read(index);
        }
        self.apic.msr_read(index).or_else(|_| self.msrs.read(index))
    }

    fn msr_write(&mut self, index: u32, value: u64) -> Result<(), MsrFault> {
        match index {
            msr::IA32_TSC => {
                self.tsc.set(value);
                self.apic.tsc_changed();
                if let Some(kvm) = &self.kvm {
                    kvm.tsc_moved(self.tsc.offset());
                }
                Ok(())
            }
            msr::IA32_TSC_DEADLINE => {
                // Guests look at stolen time when their timer ticks.
                if let Some(kvm) = &mut self.kvm {
                    kvm.report_stolen_time();
                }
                self.apic.msr_write(index, value)
            }
            msr::IA32_APIC_BASE | msr::X2APIC_FIRST..=msr::X2APIC_LAST => {
                self.apic.msr_write(index, value)
            }
            _ => match &mut self.kvm {
                Some(kvm) if KvmVcpu::owns_msr(index) => {
                    kvm.msr_write(index, value, self.tsc.offset(), &self.apic)
                }
                _ => self.msrs.write(index, value),
            },
        }
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        if let Some(values) = self.kvm.as_ref().and_then(|_| KvmInterface::cpuid(leaf)) {
            return values;
        }
        let mut values = self.model.cpuid(self.apic.id(), leaf, subleaf);
        if leaf == 1 && self.kvm.is_some() {
            values[2] |= ambos_x86::cpuid::leaf1_ecx::HYPERVISOR;
        }
        let enabled = |base: u64| base & APIC_ENABLED != 0;
        if leaf == 1 && !self.apic.msr_read(msr::IA32_APIC_BASE).is_ok_and(enabled) {
            values[3] &= !ambos_x86::cpuid::leaf1_edx::APIC;
        }
        values
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        self.apic.acknowledge_interrupt()
    }

    fn task_priority(&mut self) -> u8 {
        self.apic.task_priority()
    }

    fn set_task_priority(&mut self, class: u8) {
        self.apic.set_task_priority(class);
    }

    fn flush_others(&mut self) {
        let ticket = self.ledger.start(Intercept::Shootdown);
        shootdown::flush_others(&self.members, self.index);
        self.ledger.finish(ticket);
    }

    fn hypercall(
        &mut self,
        number: u64,
        arguments: [u64; 4],
        long: bool,
        supervisor: bool,
    ) -> Option<u64> {
        let kvm = self.kvm.as_ref()?;
        Some(kvm.hypercall(number, arguments, long, supervisor))
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn unserved(&self) -> &UnservedLog {
        &self.unserved
    }
}
