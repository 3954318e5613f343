//! What a vCPU of a machine with the interface of KVM has besides.

use crate::stolen::StolenTime;
use crate::tsc;
use ambos_kvm_pv::{Effect, EndFlag, Hypercall, KvmVcpu, Origin};
use ambos_memory::GuestRam;
use ambos_pc::LocalApic;
use ambos_pc::apic::LazyEnd;
use ambos_pc_map::memory::LOCAL_APIC;
use ambos_vcpu::MsrFault;
use ambos_wire::MsiTarget;
use std::sync::Arc;

/// Where the destination is in the address of a message.
const DESTINATION_SHIFT: u32 = 12;

/// One vCPU's side of the interface, connected to its machine.
pub(crate) struct KvmInterface {
    registers: KvmVcpu,
    /// Where messages to other vCPUs go.
    messages: Arc<dyn MsiTarget>,
    vcpus: u64,
    /// Made on the vCPU's thread.
    stolen: Option<StolenTime>,
}

/// The flag as a local APIC uses it.
struct Flag(EndFlag);

impl LazyEnd for Flag {
    fn invite(&self) -> bool {
        self.0.set()
    }

    fn revoke(&self) -> bool {
        self.0.clear()
    }
}

impl KvmInterface {
    /// The interface of one of `vcpus` vCPUs.
    pub(crate) fn new(
        ram: &Arc<GuestRam>,
        origin: Origin,
        messages: Arc<dyn MsiTarget>,
        vcpus: usize,
    ) -> Self {
        let registers = KvmVcpu::new(Arc::clone(ram), origin);
        Self { registers, messages, vcpus: vcpus as u64, stolen: None }
    }

    /// What CPUID says of it.
    pub(crate) fn cpuid(leaf: u32) -> Option<[u32; 4]> {
        ambos_kvm_pv::cpuid(leaf, tsc::frequency())
    }

    pub(crate) fn msr_read(&self, index: u32) -> Result<u64, MsrFault> {
        self.registers.msr_read(index)
    }

    pub(crate) fn msr_write(
        &mut self,
        index: u32,
        value: u64,
        tsc_offset: u64,
        apic: &LocalApic,
    ) -> Result<(), MsrFault> {
        if let Effect::EndFlag(flag) = self.registers.msr_write(index, value, tsc_offset)? {
            apic.set_lazy_end(flag.map(|flag| Box::new(Flag(flag)) as Box<dyn LazyEnd>));
        }
        Ok(())
    }

    pub(crate) fn tsc_moved(&self, tsc_offset: u64) {
        self.registers.tsc_moved(tsc_offset);
    }

    /// Tells the guest of stolen time, once in a while.
    pub(crate) fn report_stolen_time(&mut self) {
        if !self.registers.wants_stolen_time() {
            return;
        }
        let stolen = self.stolen.get_or_insert_with(StolenTime::of_this_thread);
        if let Some(nanoseconds) = stolen.look() {
            self.registers.add_stolen_time(nanoseconds);
        }
    }

    /// Whether the monitor may look for work before a halted vCPU sleeps.
    pub(crate) fn may_poll(&self) -> bool {
        self.registers.may_poll()
    }

    /// The vCPU halts.
    pub(crate) fn sleeps(&self) {
        self.registers.sleeps();
    }

    /// The vCPU goes on; returns whether its translations must be flushed before.
    #[must_use = "other vCPUs rely on the flush"]
    pub(crate) fn wakes(&self) -> bool {
        self.registers.wakes()
    }

    pub(crate) fn hypercall(
        &self,
        number: u64,
        arguments: [u64; 4],
        long: bool,
        supervisor: bool,
    ) -> u64 {
        match Hypercall::new(number, arguments, long, supervisor) {
            Hypercall::Send(interrupts) => {
                let targets = interrupts.targets().filter(|target| *target < self.vcpus);
                let sent = targets.map(|target| {
                    let address = LOCAL_APIC | target << DESTINATION_SHIFT;
                    self.messages.signal(address, interrupts.command);
                });
                sent.count() as u64
            }
            Hypercall::Yield(_) => {
                std::thread::yield_now();
                0
            }
            Hypercall::Refused(result) => result,
        }
    }
}
