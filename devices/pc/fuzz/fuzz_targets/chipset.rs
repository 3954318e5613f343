//! Everything that a guest can do to the chipset, read from the fuzzer's bytes: port and memory
//! accesses of every width, local APIC accesses of two vCPUs, and the passing of time.
#![no_main]

use ambos_clock::VmClock;
use ambos_pc::apic::ApicVcpu;
use ambos_pc::{PcChipset, PcConfig};
use ambos_random::Input;
use ambos_vcpu::{Attention, Request};
use libfuzzer_sys::fuzz_target;
use outside::{Ignore, Tsc};
use std::sync::Arc;

#[path = "../../tests/hostile/outside.rs"]
mod outside;

const CPUS: usize = 2;

fuzz_target!(|data: &[u8]| {
    let (clock, time) = VmClock::manual();
    let attention: [Arc<Attention>; CPUS] = Default::default();
    let vcpus = attention.iter().map(|attention| ApicVcpu {
        attention: Arc::clone(attention),
        tsc: Arc::new(Tsc(Arc::clone(&clock))),
    });
    let pc = PcChipset::new(PcConfig {
        clock: Arc::clone(&clock),
        vcpus: vcpus.collect(),
        console: Box::new(std::io::sink()),
        power: Arc::new(Ignore),
        unix_time_ns: 1_700_000_000_000_000_000,
        ram_size: 1 << 30,
        debug_exit: true,
    });
    let Ok(pc) = pc else { return };
    let ports = pc.ports().ranges();
    let mmio = pc.mmio().ranges();
    let mut input = Input::new(data);
    while !input.is_empty() {
        let operation = input.choice();
        let apic = &pc.local_apics()[operation >> 7];
        match operation & 0xf {
            0..=5 => {
                // Mostly ports that somebody answers.
                let (range, _) = &ports[input.choice() % ports.len()];
                let port = range.first.wrapping_add(input.choice() as u16 % range.count);
                let width = 1 << (operation >> 4 & 3).min(2);
                if operation & 1 == 0 {
                    pc.ports().write(port, &input.number(width).to_le_bytes()[..width]);
                } else {
                    pc.ports().read(port, &mut [0; 4][..width]);
                }
            }
            6 => {
                pc.ports().write(input.number(2) as u16, &input.number(4).to_le_bytes()[..4]);
            }
            7..=8 => {
                let (range, _) = &mmio[input.choice() % mmio.len()];
                let address = range.first.wrapping_add(input.number(2) % range.length);
                let width = 1 + (operation >> 4 & 7);
                if operation & 1 == 0 {
                    pc.mmio().write(address, &input.number(width).to_le_bytes()[..width]);
                } else {
                    pc.mmio().read(address, &mut [0; 8][..width]);
                }
            }
            9 => {
                let offset = input.number(1) << 4;
                let _ = apic.mmio_write(offset, &input.number(4).to_le_bytes()[..4]);
            }
            10 => {
                let _ = apic.mmio_read(input.number(2), &mut [0; 4]);
            }
            11 => {
                let index = match input.choice() {
                    0xff => 0x1b,
                    0xfe => 0x6e0,
                    number => 0x800 + number as u32,
                };
                if apic.msr_read(index).is_err() {
                    let _ = apic.msr_write(index, input.number(8));
                }
            }
            12 => apic.set_task_priority(input.byte()),
            13 => {
                // A vCPU looks only when it is asked to.
                if attention[operation >> 7].pending().contains(Request::INTERRUPT) {
                    apic.acknowledge_interrupt();
                }
            }
            14 => {
                pc.console_input(&data[..data.len().min(100)]);
                pc.pci_pin(operation as u8, 0).wire("fuzz").pulse();
            }
            _ => {
                let shift = input.choice() & 0x1f;
                time.advance(input.number(2) << shift);
                clock.fire_due();
            }
        }
    }
});
