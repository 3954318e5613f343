//! Local APICs for unit tests, with the operations of a vCPU's guest.

use super::{ApicVcpu, InterruptFabric, LocalApic, TimeStampCounter};
use ambos_clock::{ManualTime, VmClock};
use ambos_vcpu::{Attention, Request};
use std::sync::Arc;

/// A counter that runs three times as fast as machine time.
pub(crate) struct TripleTime(pub(crate) Arc<VmClock>);

impl TimeStampCounter for TripleTime {
    fn now(&self) -> u64 {
        self.0.now() * 3
    }

    fn hz(&self) -> u64 {
        3_000_000_000
    }
}

pub(crate) struct Cpus {
    pub(crate) fabric: Arc<InterruptFabric>,
    pub(crate) attention: Vec<Arc<Attention>>,
    pub(crate) clock: Arc<VmClock>,
    pub(crate) time: ManualTime,
}

impl Cpus {
    /// `count` vCPUs with their APICs enabled by software.
    pub(crate) fn new(count: usize) -> Self {
        let (clock, time) = VmClock::manual();
        let attention: Vec<_> = (0..count).map(|_| Arc::new(Attention::default())).collect();
        let vcpus = attention.iter().map(|attention| ApicVcpu {
            attention: Arc::clone(attention),
            tsc: Arc::new(TripleTime(Arc::clone(&clock))),
        });
        let cpus =
            Self { fabric: InterruptFabric::new(&clock, vcpus.collect()), attention, clock, time };
        for cpu in 0..count {
            cpus.write(cpu, 0xf0, 0x1ff);
        }
        cpus
    }

    pub(crate) fn apic(&self, cpu: usize) -> &Arc<LocalApic> {
        &self.fabric.apics()[cpu]
    }

    pub(crate) fn write(&self, cpu: usize, offset: u64, value: u32) {
        self.apic(cpu).mmio_write(offset, &value.to_le_bytes()).unwrap();
    }

    pub(crate) fn read(&self, cpu: usize, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.apic(cpu).mmio_read(offset, &mut data).unwrap();
        u32::from_le_bytes(data)
    }

    pub(crate) fn asked(&self, cpu: usize) -> bool {
        self.attention[cpu].pending().contains(Request::INTERRUPT)
    }

    /// Takes an interrupt as a vCPU does: only if it is asked to look.
    pub(crate) fn take(&self, cpu: usize) -> Option<u8> {
        if !self.asked(cpu) {
            return None;
        }
        let vector = self.apic(cpu).acknowledge_interrupt();
        assert!(vector.is_some(), "asked for nothing");
        vector
    }

    pub(crate) fn end(&self, cpu: usize) {
        self.write(cpu, 0xb0, 0);
    }

    /// Advances machine time and serves timers on the way.
    pub(crate) fn run(&self, ns: u64) {
        self.time.run(ns, 1_000_000);
    }
}
