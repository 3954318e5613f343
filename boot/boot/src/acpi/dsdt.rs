//! The DSDT: devices that a guest cannot find by itself (ACPI 6.5, chapters 6 and 19).

use super::tables::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use acpi_tables::aml::{
    self, AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, IO, Memory32Fixed, Method,
    Name, Package, PackageBuilder, Path, ResourceTemplate, Return, Scope, Store,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};
use ambos_pc_map::{interrupt, memory, pci, port};

/// Set by `\_PIC`: whether the guest uses the I/O APIC.
const APIC_MODE: &str = "PICM";

pub(super) fn dsdt(cpus: u32, ram_size: u64) -> Vec<u8> {
    let mut code = Vec::new();
    sleep_states(&mut code);
    interrupt_mode(&mut code);
    system_bus(cpus, ram_size, &mut code);
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&code);
    table.as_slice().to_vec()
}

/// `\_S5`: what to write to PM1a control to power off. There is no other sleep state.
fn sleep_states(code: &mut Vec<u8>) {
    let off = port::SLEEP_TYPE_S5;
    let values = Package::new(vec![&off, &aml::ZERO, &aml::ZERO, &aml::ZERO]);
    Name::new("_S5_".into(), &values).to_aml_bytes(code);
}

/// `\_PIC`, which the guest calls with 1 when it uses the I/O APIC.
fn interrupt_mode(code: &mut Vec<u8>) {
    let mode = Path::new(APIC_MODE);
    Name::new(Path::new(APIC_MODE), &aml::ZERO).to_aml_bytes(code);
    let store = Store::new(&mode, &Arg(0));
    Method::new("_PIC".into(), 1, false, vec![&store]).to_aml_bytes(code);
}

fn system_bus(cpus: u32, ram_size: u64, code: &mut Vec<u8>) {
    let processors: Vec<Processor> = (0..cpus).map(Processor).collect();
    let root = PciRoot { ram_size };
    let mut children: Vec<&dyn Aml> = vec![&root, &Motherboard, &Hpet];
    children.extend(processors.iter().map(|processor| processor as &dyn Aml));
    Scope::new("_SB_".into(), children).to_aml_bytes(code);
}

fn hardware_id(id: &str) -> Name {
    Name::new("_HID".into(), &EISAName::new(id))
}

fn number(name: &str, value: u32) -> Name {
    Name::new(name.into(), &value)
}

fn resources(descriptors: Vec<&dyn Aml>) -> Name {
    Name::new("_CRS".into(), &ResourceTemplate::new(descriptors))
}

fn ports(first: u16, count: u8) -> IO {
    IO::new(first, first, 1, count)
}

/// An ISA interrupt: edge-triggered, active high (section 6.4.2.1).
struct Irq(u8);

impl Aml for Irq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const SHORT_FORM: u8 = 0x22;
        sink.byte(SHORT_FORM);
        sink.word(1 << self.0);
    }
}

/// A processor, matched by its unique ID with the entry of its local APIC.
struct Processor(u32);

impl Aml for Processor {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let name = format!("C{:03X}", self.0);
        let id = Name::new("_HID".into(), &"ACPI0007");
        Device::new(name.as_str().into(), vec![&id, &number("_UID", self.0)]).to_aml_bytes(sink);
    }
}

/// What belongs to no device: configuration space, power management, edge/level control.
struct Motherboard;

impl Aml for Motherboard {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ecam = Memory32Fixed::new(true, memory::ECAM_START as u32, memory::ECAM_SIZE as u32);
        let power = ports(port::PM_BASE, port::PM_LEN as u8);
        let trigger = ports(port::ELCR, 2);
        Device::new(
            "MBRD".into(),
            vec![&hardware_id("PNP0C02"), &resources(vec![&ecam, &power, &trigger])],
        )
        .to_aml_bytes(sink);
    }
}

struct Hpet;

impl Aml for Hpet {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let registers = Memory32Fixed::new(true, memory::HPET as u32, memory::HPET_SIZE as u32);
        Device::new(
            "HPET".into(),
            vec![&hardware_id("PNP0103"), &number("_UID", 0), &resources(vec![&registers])],
        )
        .to_aml_bytes(sink);
    }
}

/// The PCI host bridge with everything below it.
struct PciRoot {
    ram_size: u64,
}

impl Aml for PciRoot {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        Device::new(
            "PCI0".into(),
            vec![
                &hardware_id("PNP0A03"),
                &number("_UID", 0),
                &number("_BBN", 0),
                &number("_SEG", 0),
                &self.windows(),
                &Routing,
                &IsaBridge,
            ],
        )
        .to_aml_bytes(sink);
    }
}

impl PciRoot {
    /// Buses, ports and memory that devices below may use.
    fn windows(&self) -> Name {
        let config = ports(port::PCI_CONFIG_ADDRESS, 8);
        let window = |start: u64, end: u64| {
            let cacheable = AddressSpaceCacheable::NotCacheable;
            // Both lie below 4 GiB.
            AddressSpace::new_memory(cacheable, true, start as u32, (end - 1) as u32, None)
        };
        let high = memory::high_pci_window_start(self.ram_size);
        let high_last = high.saturating_add(memory::HIGH_PCI_WINDOW_SIZE - 1);
        resources(vec![
            &AddressSpace::new_bus_number(0_u16, 255),
            &config,
            &AddressSpace::new_io(0_u16, port::PCI_CONFIG_ADDRESS - 1, None),
            &AddressSpace::new_io(port::PCI_CONFIG_ADDRESS + 8, u16::MAX, None),
            &window(memory::VGA_START, memory::VGA_END),
            &window(memory::PCI_WINDOW_START, memory::PCI_WINDOW_END),
            &window(memory::PCI_WINDOW2_START, memory::PCI_WINDOW2_END),
            &AddressSpace::new_memory(
                AddressSpaceCacheable::NotCacheable,
                true,
                high,
                high_last,
                None,
            ),
        ])
    }
}

/// `_PRT`: which interrupt each pin of each device reaches, in both modes.
struct Routing;

impl Routing {
    fn table(gsi: impl Fn(u8, u8) -> u8) -> PackageBuilder {
        let mut table = PackageBuilder::new();
        for device in 0..pci::SLOTS {
            for pin in 0..4_u8 {
                let address = u32::from(device) << 16 | 0xffff;
                let line = gsi(device, pin);
                table.add_element(&Package::new(vec![&address, &pin, &aml::ZERO, &line]));
            }
        }
        table
    }
}

impl Aml for Routing {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        Name::new("PRTA".into(), &Self::table(interrupt::pci_gsi)).to_aml_bytes(sink);
        Name::new("PRTP".into(), &Self::table(interrupt::pci_pic_irq)).to_aml_bytes(sink);
        let (apic, pic) = (Path::new("PRTA"), Path::new("PRTP"));
        let (return_apic, return_pic) = (Return::new(&apic), Return::new(&pic));
        let mode = Path::new(APIC_MODE);
        let choice = aml::If::new(&mode, vec![&return_apic]);
        let method = Method::new("_PRT".into(), 0, false, vec![&choice, &return_pic]);
        method.to_aml_bytes(sink);
    }
}

/// The ISA bridge with the devices that only ACPI can announce.
struct IsaBridge;

impl Aml for IsaBridge {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let keyboard_ports = [ports(port::I8042_DATA, 1), ports(port::I8042_COMMAND, 1)];
        Device::new(
            "ISA_".into(),
            vec![
                &number("_ADR", u32::from(pci::SOUTH_BRIDGE) << 16),
                &isa_device(
                    "COM1",
                    "PNP0501",
                    vec![&ports(port::COM1, 8), &Irq(interrupt::COM1_IRQ)],
                ),
                &isa_device(
                    "KBD_",
                    "PNP0303",
                    vec![&keyboard_ports[0], &keyboard_ports[1], &Irq(interrupt::KEYBOARD_IRQ)],
                ),
                &isa_device("MOU_", "PNP0F13", vec![&Irq(interrupt::MOUSE_IRQ)]),
                &isa_device(
                    "RTC_",
                    "PNP0B00",
                    vec![&ports(port::RTC_INDEX, 2), &Irq(interrupt::RTC_IRQ)],
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// An ISA device, already in bytes.
fn isa_device(name: &str, id: &str, descriptors: Vec<&dyn Aml>) -> Encoded {
    /// Present, decoding, shown, working.
    const STATUS: u32 = 0xf;
    let mut bytes = Vec::new();
    Device::new(
        name.into(),
        vec![
            &hardware_id(id),
            &number("_UID", 1),
            &number("_STA", STATUS),
            &resources(descriptors),
        ],
    )
    .to_aml_bytes(&mut bytes);
    Encoded(bytes)
}

struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}
