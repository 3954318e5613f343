//! The chips of a PC, wired up.
//!
//! ```text
//!                    ┌────────── 8259 pair ── INTR ──► LINT0 ┐
//! ISA lines 0–15 ───►┤ (fork)                                ├ local APICs ──► vCPUs
//!                    └────────── I/O APIC ─── messages ─────►┘      ▲
//! PCI lines ── router ──► I/O APIC 16–19, 8259 by route             │ messages
//! PCI functions ── message-signalled interrupts ────────────────────┘
//! ```
//!
//! The machine gives every port and memory access that is not RAM to the buses, with one exception:
//! the local APIC's page is each vCPU's own, so it asks [`LocalApic::mmio_page`] first.

use crate::absent::Absent;
use crate::acpi_pm::{AcpiPm, TimerWidth};
use crate::apic::{ApicVcpu, InterruptFabric, LocalApic};
use crate::debug_exit::DebugExit;
use crate::hpet::{HpetOutputs, LegacySwitch};
use crate::ide::{IdeChannel, IdeController, IdeDrive};
use crate::mc146818::{Rtc, RtcConfig};
use crate::pci::{
    ConfigPorts, ConfigWindow, HostBridge, IsaBridge, LINES, LineRouter, PciBus, PlugError,
};
use crate::power::PowerSink;
use crate::system_control::SystemControlA;
use crate::vga::{Screen, VideoMode};
use crate::{E1000, E1000Parts, Hpet, I8042, IoApic, PicPair, Pit, Uart, Vga, VgaParts, lock};
use ambos_clock::VmClock;
use ambos_device::{
    BarMapper, ConfigError, DeviceTable, MapError, MmioBus, MmioDevice, MmioRange, PciAddress,
    PciFunction, PortBus, PortDevice, PortRange, Shared,
};
use ambos_memory::GuestRam;
use ambos_net::{MacAddress, NetBackend};
use ambos_pc_map::{interrupt, memory, pci, port};
use ambos_vcpu::{Attention, Request};
use ambos_wire::{Fork, InputPin, MsiTarget, WireTarget};
use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex};
use thiserror::Error;

/// What a PC is made of and stands on.
pub struct PcConfig {
    /// The machine's clock.
    pub clock: Arc<VmClock>,
    /// What the local APICs need of each vCPU; at least one.
    pub vcpus: Vec<ApicVcpu>,
    /// What the first serial port sends to. It is flushed after each byte.
    pub console: Box<dyn Write + Send>,
    /// Where power-off, reset and debug exit are asked for.
    pub power: Arc<dyn PowerSink>,
    /// Time of day now, in nanoseconds since 1970 began (UTC).
    pub unix_time_ns: u64,
    /// Bytes of RAM.
    pub ram_size: u64,
    /// Whether there is a debug-exit port.
    pub debug_exit: bool,
}

/// Why a PC cannot be put together.
#[derive(Debug, Error)]
pub enum ChipsetError {
    /// Two chips claim the same addresses.
    #[error("a chip cannot be mapped")]
    Map(#[from] MapError),
    /// Two PCI functions claim the same place.
    #[error("a PCI function cannot be plugged in")]
    Plug(#[from] PlugError),
    /// A PCI function's registers cannot be laid out.
    #[error("the registers of a PCI function do not fit")]
    Config(#[from] ConfigError),
    /// There is no such place on the bus.
    #[error("there is no PCI device {0}, function {1}")]
    NoSuchPlace(u8, u8),
}

/// A PC without CPUs and memory.
pub struct PcChipset {
    ports: Arc<PortBus>,
    mmio: Arc<MmioBus>,
    table: DeviceTable,
    fabric: Arc<InterruptFabric>,
    uart: Shared<Uart>,
    pm: Shared<AcpiPm>,
    vga: Option<Shared<Vga>>,
    pci: Arc<PciBus>,
    /// Where each vCPU is asked to look up.
    attentions: Arc<[Arc<Attention>]>,
    isa_pins: [InputPin; 16],
    pci_pins: [InputPin; LINES],
    // Kept alive for the fabric, which knows them only weakly.
    _pic: Shared<PicPair>,
    _io_apic: Shared<IoApic>,
}

impl fmt::Debug for PcChipset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcChipset").field("devices", &self.table.labels()).finish_non_exhaustive()
    }
}

/// The interrupt controllers' inputs.
struct Lines {
    /// ISA interrupts as devices see them: both controllers.
    isa: [InputPin; 16],
    /// Inputs of the 8259s alone.
    pic: [InputPin; 16],
    /// Inputs of the I/O APIC alone.
    io_apic: [InputPin; IoApic::PINS],
}

impl Lines {
    fn new(pic: &Shared<PicPair>, io_apic: &Shared<IoApic>) -> Self {
        let pin = |target: Arc<dyn WireTarget>, line: usize| InputPin::new(target, line as u32);
        let pic: [InputPin; 16] = std::array::from_fn(|irq| pin(pic.clone(), irq));
        let io_apic: [InputPin; IoApic::PINS] =
            std::array::from_fn(|gsi| pin(io_apic.clone(), gsi));
        let isa = std::array::from_fn(|irq| {
            let gsi = if irq == usize::from(interrupt::TIMER_IRQ) {
                usize::from(interrupt::TIMER_GSI)
            } else {
                irq
            };
            if irq == usize::from(interrupt::CASCADE_IRQ) {
                // No device can be here: the second 8259 is.
                return pic[irq].clone();
            }
            Fork::pin(&format!("IRQ {irq}"), &[pic[irq].clone(), io_apic[gsi].clone()])
        });
        Self { isa, pic, io_apic }
    }

    fn irq(&self, irq: u8) -> &InputPin {
        &self.isa[usize::from(irq & 0xf)]
    }
}

/// Inputs of the 8259s that are level-triggered: the SCI and those that PCI lines are routed to.
fn level_triggered() -> u16 {
    let lines = interrupt::PCI_PIC_IRQS.into_iter().chain([interrupt::SCI_IRQ]);
    lines.fold(0, |lines, irq| lines | 1 << (irq & 0xf))
}

/// Maps chips and gives them their rows.
struct Mapper<'a> {
    ports: &'a PortBus,
    mmio: &'a MmioBus,
    table: &'a mut DeviceTable,
}

impl Mapper<'_> {
    fn ports(
        &mut self,
        label: &str,
        device: Shared<dyn PortDevice>,
        ranges: &[PortRange],
    ) -> Result<(), MapError> {
        let row = self.table.add(label);
        ranges
            .iter()
            .try_for_each(|range| self.ports.map(*range, label, row, Arc::clone(&device)).map(drop))
    }

    fn mmio(
        &mut self,
        label: &str,
        device: Shared<dyn MmioDevice>,
        range: MmioRange,
    ) -> Result<(), MapError> {
        let row = self.table.add(label);
        self.mmio.map(range, label, row, device).map(drop)
    }
}

fn shared<T>(chip: T) -> Shared<T> {
    Arc::new(Mutex::new(chip))
}

impl PcChipset {
    /// Label of the local APICs in the device table; the machine serves them itself.
    pub const LOCAL_APIC: &'static str = "local APIC";

    /// Puts a PC together.
    ///
    /// # Errors
    ///
    /// [`ChipsetError`] if chips are in each other's way, which is a mistake in the machine's map.
    pub fn new(config: PcConfig) -> Result<Self, ChipsetError> {
        let PcConfig { clock, vcpus, console, power, unix_time_ns, ram_size, debug_exit } = config;
        let (ports, mmio) = (Arc::new(PortBus::default()), Arc::new(MmioBus::default()));
        let mut table = DeviceTable::default();
        table.add(Self::LOCAL_APIC);
        let mut map = Mapper { ports: &ports, mmio: &mmio, table: &mut table };
        let cpus = u32::try_from(vcpus.len()).unwrap_or(u32::MAX);

        // Interrupt controllers.
        let attentions = vcpus.iter().map(|vcpu| Arc::clone(&vcpu.attention)).collect();
        let fabric = InterruptFabric::new(&clock, vcpus);
        let pic = shared(PicPair::new(fabric.lint0().wire("8259 INTR"), level_triggered()));
        fabric.connect_pic(&pic);
        let io_apic = IoApic::new(&fabric, interrupt::ioapic_id(cpus));
        let lines = Lines::new(&pic, &io_apic);
        let ranges = [
            PortRange::new(port::PIC_MASTER, 2).at_offset(PicPair::MASTER),
            PortRange::new(port::PIC_SLAVE, 2).at_offset(PicPair::SLAVE),
            PortRange::new(port::ELCR, 2).at_offset(PicPair::ELCR),
        ];
        map.ports("8259 interrupt controllers", pic.clone(), &ranges)?;
        let range = MmioRange::new(memory::IOAPIC, memory::IOAPIC_SIZE);
        map.mmio("I/O APIC", io_apic.clone(), range)?;

        // Clocks.
        let irqs = [interrupt::TIMER_IRQ, interrupt::RTC_IRQ];
        let [irq_0, irq_8] = irqs.map(|irq| lines.irq(irq).wire("legacy replacement switch"));
        let legacy = shared(LegacySwitch::new(irq_0, irq_8));
        let legacy_pin = |line| InputPin::new(legacy.clone(), line);
        let pit = Pit::new(&clock, legacy_pin(LegacySwitch::PIT).wire("8254 channel 0"));
        let ranges = [
            PortRange::new(port::PIT, 4).at_offset(Pit::CHANNELS),
            PortRange::new(port::SYSTEM_CONTROL_B, 1).at_offset(Pit::PORT_61),
        ];
        map.ports("8254 timer", pit, &ranges)?;
        let low_ram = ram_size.min(memory::LOW_RAM_MAX);
        let rtc = RtcConfig { unix_time_ns, low_ram, high_ram: ram_size - low_ram, cpus };
        let rtc = Rtc::new(&clock, legacy_pin(LegacySwitch::RTC).wire("MC146818"), &rtc);
        map.ports("MC146818 real-time clock", rtc, &[PortRange::new(port::RTC_INDEX, 2)])?;
        let io_apic_pins = std::array::from_fn(|pin| lines.io_apic[HPET_PINS + pin].clone());
        let hpet = Hpet::new(&clock, HpetOutputs { legacy, io_apic: io_apic_pins });
        map.mmio("HPET", hpet, MmioRange::new(memory::HPET, memory::HPET_SIZE))?;

        // Power.
        let sci = lines.irq(interrupt::SCI_IRQ).wire("ACPI SCI");
        let pm = AcpiPm::new(&clock, sci, Arc::clone(&power), TimerWidth::Bits24);
        let range = PortRange::new(port::PM_BASE, port::PM_LEN);
        map.ports("ACPI power management", pm.clone(), &[range])?;
        let control = shared(SystemControlA::new(Arc::clone(&power)));
        map.ports("system control port", control, &[PortRange::new(port::SYSTEM_CONTROL_A, 1)])?;
        if debug_exit {
            let exit = shared(DebugExit::new(Arc::clone(&power)));
            map.ports("debug exit", exit, &[PortRange::new(port::DEBUG_EXIT, 4)])?;
        }

        // Keyboard, mouse, serial port.
        let keyboard = lines.irq(interrupt::KEYBOARD_IRQ).wire("8042 keyboard");
        let mouse = lines.irq(interrupt::MOUSE_IRQ).wire("8042 mouse");
        let i8042 = shared(I8042::new(keyboard, mouse, Arc::clone(&power)));
        let ranges = [
            PortRange::new(port::I8042_DATA, 1).at_offset(I8042::DATA),
            PortRange::new(port::I8042_COMMAND, 1).at_offset(I8042::COMMAND),
        ];
        map.ports("8042 keyboard controller", i8042, &ranges)?;
        let uart = Uart::new(lines.irq(interrupt::COM1_IRQ).wire("16550"), console);
        let uart = shared(uart);
        map.ports("16550 serial port", uart.clone(), &[PortRange::new(port::COM1, 8)])?;

        // PCI.
        let bus = Arc::new(PciBus::default());
        let io_apic_pins = std::array::from_fn(|line| {
            lines.io_apic[usize::from(interrupt::PCI_GSI_BASE) + line].clone()
        });
        let router = shared(LineRouter::new(&io_apic_pins, &lines.pic));
        let pci_pins = std::array::from_fn(|line| InputPin::new(router.clone(), line as u32));
        plug(&bus, pci::HOST_BRIDGE, 0, shared(HostBridge::default()))?;
        plug(&bus, pci::SOUTH_BRIDGE, 0, shared(IsaBridge::new(router)))?;
        let config = shared(ConfigPorts::new(Arc::clone(&bus), power));
        let range = PortRange::new(port::PCI_CONFIG_ADDRESS, 8);
        map.ports("PCI configuration", config, &[range])?;
        let window = shared(ConfigWindow::new(Arc::clone(&bus)));
        let range = MmioRange::new(memory::ECAM_START, memory::ECAM_SIZE);
        map.mmio("PCI configuration", window, range)?;

        map.ports("absent device", shared(Absent), &ABSENT)?;

        Ok(Self {
            ports,
            mmio,
            table,
            fabric,
            uart,
            pm,
            vga: None,
            pci: bus,
            attentions,
            isa_pins: lines.isa,
            pci_pins,
            _pic: pic,
            _io_apic: io_apic,
        })
    }

    /// Adds the display adapter, which shows `mode` at first. `ram` has memory for a display.
    ///
    /// # Errors
    ///
    /// [`ChipsetError`] if it is there already.
    pub fn add_vga(&mut self, ram: &Arc<GuestRam>, mode: VideoMode) -> Result<(), ChipsetError> {
        const LABEL: &str = "VGA";
        let row = self.table.add(LABEL);
        let (ports, mmio) = (Arc::downgrade(&self.ports), Arc::downgrade(&self.mmio));
        let attentions = Arc::clone(&self.attentions);
        let flush = move || attentions.iter().for_each(|vcpu| vcpu.raise(Request::FLUSH_ALL));
        let vga = Vga::new(VgaParts {
            ram: Arc::clone(ram),
            mapper: BarMapper::new(LABEL, row, ports, mmio),
            mode,
            flush: Box::new(flush),
        })?;
        let ranges = [
            PortRange::new(port::VGA_MONOCHROME, 12).at_offset(Vga::PORTS),
            PortRange::new(port::VGA, 32)
                .at_offset(Vga::PORTS + (port::VGA - port::VGA_MONOCHROME)),
            PortRange::new(port::BOCHS_DISPLAY, 3).at_offset(Vga::DISPI_PORTS),
        ];
        for range in ranges {
            self.ports.map(range, LABEL, row, vga.clone())?;
        }
        let window = MmioRange::new(memory::VGA_START, memory::VGA_END - memory::VGA_START)
            .at_offset(Vga::WINDOW);
        self.mmio.map(window, LABEL, row, vga.clone())?;
        plug(&self.pci, pci::DISPLAY, 0, vga.clone())?;
        self.vga = Some(vga);
        Ok(())
    }

    /// What a monitor would show, if there is a display adapter.
    pub fn screen(&self) -> Option<Screen> {
        self.vga.as_ref().map(|vga| lock(vga).screen())
    }

    /// Adds the IDE controller to the south bridge. `drives` are the first and the second drive of
    /// the first channel, then those of the second; `ram` is where their data go.
    ///
    /// # Errors
    ///
    /// [`ChipsetError`] if it is there already.
    pub fn add_ide(
        &mut self,
        ram: &Arc<GuestRam>,
        drives: [Option<IdeDrive>; 4],
    ) -> Result<(), ChipsetError> {
        const LABEL: &str = "IDE controller";
        let row = self.table.add(LABEL);
        let (ports, mmio) = (Arc::downgrade(&self.ports), Arc::downgrade(&self.mmio));
        let mapper = BarMapper::new(LABEL, row, ports, mmio);
        let irqs = [interrupt::IDE_PRIMARY_IRQ, interrupt::IDE_SECONDARY_IRQ];
        let irqs = irqs.map(|irq| self.isa_pins[usize::from(irq & 0xf)].wire(format!("IDE {irq}")));
        let ide = IdeController::new(ram, irqs, drives, mapper)?;
        let places = [
            (port::IDE_PRIMARY, port::IDE_PRIMARY_CONTROL),
            (port::IDE_SECONDARY, port::IDE_SECONDARY_CONTROL),
        ];
        for ((command, control), channel) in places.into_iter().zip(ide.channels()) {
            let control = PortRange::new(control, 1).at_offset(IdeChannel::CONTROL);
            for range in [PortRange::new(command, 8), control] {
                self.ports.map(range, LABEL, row, channel.clone())?;
            }
        }
        plug(&self.pci, pci::SOUTH_BRIDGE, pci::IDE_FUNCTION, shared(ide))
    }

    /// Plugs an e1000 network adapter in the first free place.
    ///
    /// # Errors
    ///
    /// [`ChipsetError`] if there is no free place.
    pub fn add_e1000(
        &mut self,
        ram: &Arc<GuestRam>,
        clock: &Arc<VmClock>,
        network: Arc<dyn NetBackend>,
        mac: MacAddress,
    ) -> Result<(), ChipsetError> {
        const LABEL: &str = "e1000 network adapter";
        const PIN: u8 = 0;
        let taken = self.pci.addresses();
        let free = (pci::FIRST_SLOT..pci::SLOTS)
            .filter_map(|slot| PciAddress::new(slot, 0))
            .find(|address| !taken.contains(address));
        let address = free.ok_or(ChipsetError::NoSuchPlace(pci::SLOTS, 0))?;
        let row = self.table.add(LABEL);
        let (ports, mmio) = (Arc::downgrade(&self.ports), Arc::downgrade(&self.mmio));
        let adapter = E1000::new(E1000Parts {
            ram: Arc::clone(ram),
            clock: Arc::clone(clock),
            wire: self.pci_pin(address.device(), PIN).wire(LABEL),
            pin: PIN,
            mapper: BarMapper::new(LABEL, row, ports, mmio),
            network,
            mac,
        })?;
        plug(&self.pci, address.device(), 0, adapter)
    }

    /// The bus of I/O ports.
    pub fn ports(&self) -> &Arc<PortBus> {
        &self.ports
    }

    /// The bus of memory-mapped registers, without the local APICs.
    pub fn mmio(&self) -> &Arc<MmioBus> {
        &self.mmio
    }

    /// The rows of accounting.
    pub fn devices(&self) -> &DeviceTable {
        &self.table
    }

    /// The rows of accounting, to add devices.
    pub fn devices_mut(&mut self) -> &mut DeviceTable {
        &mut self.table
    }

    /// The local APICs by vCPU.
    pub fn local_apics(&self) -> &[Arc<LocalApic>] {
        self.fabric.apics()
    }

    /// Where devices send message-signalled interrupts.
    pub fn msi(&self) -> Arc<dyn MsiTarget> {
        Arc::clone(&self.fabric) as Arc<dyn MsiTarget>
    }

    /// An ISA interrupt (0–15), at both interrupt controllers.
    pub fn isa_pin(&self, irq: u8) -> Option<&InputPin> {
        self.isa_pins.get(usize::from(irq))
    }

    /// The line that `pin` (0 = INTA# … 3 = INTD#) of a PCI device drives.
    pub fn pci_pin(&self, device: u8, pin: u8) -> &InputPin {
        &self.pci_pins[usize::from(interrupt::pci_line(device, pin)) % LINES]
    }

    /// PCI bus 0.
    pub fn pci(&self) -> &Arc<PciBus> {
        &self.pci
    }

    /// Sends bytes to the guest through the first serial port; returns how many were taken.
    pub fn console_input(&self, bytes: &[u8]) -> usize {
        lock(&self.uart).receive(bytes)
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        lock(&self.pm).press_power_button();
    }
}

/// First of the four I/O APIC pins that the HPET can be routed to.
const HPET_PINS: usize = 20;

/// Ports that software touches blindly: both DMA controllers with their page registers (among them
/// the POST port), the coprocessor's error latch, the other delay port.
const ABSENT: [PortRange; 5] = [
    PortRange::new(0x00, 0x10),
    PortRange::new(port::POST, 0x10),
    PortRange::new(0xc0, 0x20),
    PortRange::new(0xed, 1),
    PortRange::new(0xf0, 2),
];

fn plug(
    bus: &PciBus,
    device: u8,
    function: u8,
    chip: Shared<dyn PciFunction>,
) -> Result<(), ChipsetError> {
    let address =
        PciAddress::new(device, function).ok_or(ChipsetError::NoSuchPlace(device, function))?;
    Ok(bus.plug(address, chip)?)
}

#[cfg(test)]
mod tests;
