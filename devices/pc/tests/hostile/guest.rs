//! A guest driven by bytes: accesses to the registers of one device, and to the memory where it has rings, tables
//! and buffers.

use ambos_block::MemoryImage;
use ambos_clock::{ManualTime, VmClock};
use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};
use ambos_net::{MacAddress, ManualNet, Offload};
use ambos_pc::apic::ApicVcpu;
use ambos_pc::{IdeDrive, PcChipset, PcConfig, VideoMode};
use ambos_random::Input;
use ambos_vcpu::Attention;
use outside::{Ignore, Tsc};
use std::io;
use std::sync::Arc;

#[path = "outside.rs"]
mod outside;

/// The device under attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// The IDE controller, with a disk and a CD-ROM.
    Ide,
    /// The network adapter.
    E1000,
    /// The display adapter.
    Vga,
    /// Keyboard and mouse.
    I8042,
}

impl Device {
    /// Its place on the PCI bus, and what it is called on the others.
    fn place(self) -> (Option<u64>, &'static str) {
        match self {
            Self::Ide => (Some(1 << 15 | 1 << 12), "IDE controller"),
            Self::E1000 => (Some(3 << 15), "e1000 network adapter"),
            Self::Vga => (Some(2 << 15), "VGA"),
            Self::I8042 => (None, "8042 keyboard controller"),
        }
    }
}

const RAM: u64 = 1 << 20;
/// Where tables and rings are, mostly.
const TABLES: u64 = 0x1_0000;
/// The memory window of PCI configuration.
const CONFIGURATION: u64 = 0xe000_0000;

struct Guest {
    pc: PcChipset,
    ram: Arc<GuestRam>,
    clock: Arc<VmClock>,
    time: ManualTime,
    network: Arc<ManualNet>,
    device: Device,
}

impl Guest {
    fn new(device: Device) -> Self {
        let (clock, time) = VmClock::manual();
        let ram = Arc::new(GuestRam::with_display(RAM, 1 << 20).unwrap());
        let vcpu = ApicVcpu {
            attention: Arc::new(Attention::default()),
            tsc: Arc::new(Tsc(Arc::clone(&clock))),
        };
        let mut pc = PcChipset::new(PcConfig {
            clock: Arc::clone(&clock),
            vcpus: vec![vcpu],
            console: Box::new(io::sink()),
            power: Arc::new(Ignore),
            unix_time_ns: 0,
            ram_size: RAM,
            debug_exit: false,
        })
        .unwrap();
        let network = Arc::new(ManualNet::default());
        match device {
            Device::Ide => {
                let disk = |read_only| Arc::new(MemoryImage::new(vec![7; 1 << 20], read_only));
                let drives = [
                    Some(IdeDrive::Disk(disk(false))),
                    Some(IdeDrive::Cdrom(disk(true))),
                    None,
                    None,
                ];
                pc.add_ide(&ram, drives).unwrap();
            }
            // Without a screen, whose picture would take most of the time.
            Device::E1000 => {
                pc.add_e1000(&ram, &clock, network.clone(), MacAddress::DEFAULT).unwrap();
            }
            Device::Vga => pc.add_vga(&ram, VideoMode::Text).unwrap(),
            Device::I8042 => {}
        }
        let guest = Self { pc, ram, clock, time, network, device };
        // Registers where they can be found, memory access allowed.
        match device {
            Device::Ide => {
                guest.configure(0x20, 0xc001, 4);
                guest.configure(4, 5, 2);
            }
            Device::E1000 => {
                guest.configure(0x10, 0xc000_0000, 4);
                guest.configure(0x14, 0xc101, 4);
                guest.configure(4, 7, 2);
            }
            Device::Vga | Device::I8042 => {}
        }
        let (_, label) = device.place();
        let (ports, memory) = (guest.pc.ports().ranges(), guest.pc.mmio().ranges());
        let owners =
            || ports.iter().map(|(_, owner)| owner).chain(memory.iter().map(|(_, owner)| owner));
        assert!(owners().any(|owner| owner == label), "{label} is not there");
        guest
    }

    fn configure(&self, offset: u64, value: u64, width: usize) {
        if let (Some(place), _) = self.device.place() {
            let address = CONFIGURATION + place + offset;
            self.pc.mmio().write(address, &value.to_le_bytes()[..width]);
        }
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        // Past the end is nowhere.
        let _ = self.ram.memory().write_slice(bytes, GuestPhysAddr(address));
    }

    /// An address that mostly points to tables and buffers.
    fn address(input: &mut Input<'_>) -> u64 {
        match input.choice() & 7 {
            0 => input.number(8),
            1 => input.number(3),
            2 => RAM - (input.number(1)),
            _ => TABLES + (input.number(2) & 0xfff0),
        }
    }

    fn step(&self, input: &mut Input<'_>) {
        let (_, label) = self.device.place();
        let operation = input.choice();
        match operation & 0xf {
            0..=3 => {
                let ranges = self.pc.ports().ranges();
                let ranges: Vec<_> =
                    ranges.into_iter().filter(|(_, owner)| owner == label).collect();
                if ranges.is_empty() {
                    return;
                }
                let (range, _) = &ranges[input.choice() % ranges.len()];
                let port = range.first.wrapping_add(input.choice() as u16 % range.count);
                let width = 1 << (operation >> 4 & 3).min(2);
                // The same register again and again is how data are moved.
                for _ in 0..=if operation & 0xc0 == 0xc0 { input.choice() * 2 } else { 0 } {
                    if operation & 1 == 0 {
                        self.pc.ports().write(port, &input.number(width).to_le_bytes()[..width]);
                    } else {
                        self.pc.ports().read(port, &mut [0; 4][..width]);
                    }
                }
            }
            4..=6 => {
                let ranges = self.pc.mmio().ranges();
                let ranges: Vec<_> =
                    ranges.into_iter().filter(|(_, owner)| owner == label).collect();
                if ranges.is_empty() {
                    return;
                }
                let (range, _) = &ranges[input.choice() % ranges.len()];
                let offset = input.number(2) % range.length;
                // Registers are four bytes wide, mostly.
                let (offset, width) = if operation & 0x10 == 0 {
                    (offset & !3, 4)
                } else {
                    (offset, 1 + (operation >> 5))
                };
                if operation & 1 == 0 {
                    let value = if operation & 0x20 == 0 {
                        Self::address(input)
                    } else {
                        input.number(width)
                    };
                    self.pc
                        .mmio()
                        .write(range.first + offset, &value.to_le_bytes()[..width.min(8)]);
                } else {
                    self.pc.mmio().read(range.first + offset, &mut [0; 8][..width]);
                }
            }
            7..=10 => {
                // Descriptors: an address, then lengths and flags.
                let mut bytes = Self::address(input).to_le_bytes().to_vec();
                bytes.extend(input.number(8).to_le_bytes());
                let length = if self.device == Device::Ide { 8 } else { 16 };
                self.put(TABLES + (input.number(2) & 0xfff8), &bytes[16 - length..]);
            }
            11 => self.put(TABLES + input.number(2), &input.number(8).to_le_bytes()),
            12 => self.configure(
                input.number(1) & 0xff,
                input.number(4),
                1 << (operation >> 4 & 3).min(2),
            ),
            13 => {
                let frame: Vec<u8> = (0..input.number(2) & 0xfff).map(|at| at as u8).collect();
                let mut header = [0; 12];
                header.copy_from_slice(
                    &[input.number(8).to_le_bytes(), input.number(8).to_le_bytes()].concat()[..12],
                );
                if self.network.waiting() < 8 {
                    self.network.bring(&frame, Offload::from_header(&header));
                }
                self.network.take_sent();
            }
            14 => {
                if let Some(screen) = self.pc.screen() {
                    assert_eq!(screen.rgb.len(), screen.width * screen.height * 3);
                }
            }
            _ => {
                self.time.advance(input.number(2) << (operation >> 4));
                self.clock.fire_due();
            }
        }
    }
}

/// Attacks `device` with what `data` says.
pub(crate) fn run(device: Device, data: &[u8]) {
    let guest = Guest::new(device);
    let mut input = Input::new(data);
    while !input.is_empty() {
        guest.step(&mut input);
    }
}
