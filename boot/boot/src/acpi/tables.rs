//! The tables with a fixed layout (ACPI 6.5, chapter 5).

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::{GenericAddress, Sdt};
use acpi_tables::xsdt::XSDT;
use ambos_pc_map::{interrupt, memory, port};

/// Who made the tables; all of them say so.
pub(super) const OEM_ID: [u8; 6] = *b"AMBOS ";
pub(super) const OEM_TABLE_ID: [u8; 8] = *b"AMBOSPC ";
pub(super) const OEM_REVISION: u32 = 1;
const HEADER_LEN: u32 = 36;

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

pub(super) fn rsdp(xsdt: u32) -> Vec<u8> {
    bytes(&Rsdp::new(OEM_ID, xsdt.into()))
}

pub(super) fn xsdt(entries: &[u32]) -> Vec<u8> {
    let mut table = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for entry in entries {
        table.add_entry((*entry).into());
    }
    bytes(&table)
}

pub(super) fn facs() -> Vec<u8> {
    bytes(&FACS::new())
}

pub(super) fn mcfg() -> Vec<u8> {
    let mut table = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.add_ecam(memory::ECAM_START, 0, 0, 255);
    bytes(&table)
}

/// The fixed hardware: power management at I/O ports, always in ACPI mode (section 5.2.9).
pub(super) fn fadt(facs: u32, dsdt: u32) -> Vec<u8> {
    const LEGACY_DEVICES: u16 = 1 << 0;
    const HAS_8042: u16 = 1 << 1;
    /// Latencies that say: there is no C2 and no C3.
    const NO_C2: u16 = 0xfff;
    const NO_C3: u16 = 0xfff;
    /// Offset of the century in CMOS RAM.
    const CENTURY: u8 = 0x32;
    let ports = |width: u8, access, port: u16| {
        GAS::new(AddressSpace::SystemIo, width, 0, access, port.into())
    };
    let mut table = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_32(facs)
        .preferred_pm_profile(PmProfile::Desktop)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    table.dsdt = dsdt.into();
    table.x_dsdt = u64::from(dsdt).into();
    table.sci_int = u16::from(interrupt::SCI_IRQ).into();
    table.pm1a_evt_blk = u32::from(port::PM1A_EVENT).into();
    table.pm1_evt_len = port::PM1A_EVENT_LEN;
    table.x_pm1a_evt_blk = ports(32, AccessSize::WordAccess, port::PM1A_EVENT);
    table.pm1a_cnt_blk = u32::from(port::PM1A_CONTROL).into();
    table.pm1_cnt_len = port::PM1A_CONTROL_LEN;
    table.x_pm1a_cnt_blk = ports(16, AccessSize::WordAccess, port::PM1A_CONTROL);
    table.pm_tmr_blk = u32::from(port::PM_TIMER).into();
    table.pm_tmr_len = port::PM_TIMER_LEN;
    table.x_pm_tmr_blk = ports(32, AccessSize::DwordAccess, port::PM_TIMER);
    table.p_lvl2_lat = NO_C2.into();
    table.p_lvl3_lat = NO_C3.into();
    table.century = CENTURY;
    table.iapc_boot_arch = (LEGACY_DEVICES | HAS_8042).into();
    table.reset_reg = ports(8, AccessSize::ByteAccess, port::RESET_CONTROL);
    table.reset_value = port::RESET_VALUE;
    bytes(&table.finalize())
}

/// Processors and interrupt controllers (section 5.2.12).
pub(super) fn madt(cpus: u32) -> Vec<u8> {
    const REVISION: u8 = 3;
    /// There are 8259s too.
    const PCAT_COMPATIBLE: u32 = 1;
    const ENABLED: u32 = 1;
    const ISA: u8 = 0;
    const ALL_PROCESSORS: u8 = 0xff;
    /// Flags of an override: as the bus has it; or level-triggered and active high.
    const AS_THE_BUS: u16 = 0;
    const LEVEL_HIGH: u16 = 0b1101;
    let mut table = Sdt::new(*b"APIC", HEADER_LEN, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append(memory::LOCAL_APIC as u32);
    table.append(PCAT_COMPATIBLE);
    for cpu in 0..cpus {
        // Local APIC: processor, APIC ID; at most 255 processors.
        table.append_slice(&[0, 8, cpu as u8, cpu as u8]);
        table.append(ENABLED);
    }
    table.append_slice(&[1, 12, interrupt::ioapic_id(cpus), 0]);
    table.append(memory::IOAPIC as u32);
    table.append(0_u32);
    let overrides = [
        (interrupt::TIMER_IRQ, interrupt::TIMER_GSI, AS_THE_BUS),
        (interrupt::SCI_IRQ, interrupt::SCI_IRQ, LEVEL_HIGH),
    ];
    for (irq, gsi, flags) in overrides {
        table.append_slice(&[2, 10, ISA, irq]);
        table.append(u32::from(gsi));
        table.append(flags);
    }
    // Non-maskable interrupts arrive at LINT1 of every local APIC.
    table.append_slice(&[4, 6, ALL_PROCESSORS, 0, 0, 1]);
    bytes(&table)
}

/// The event timer (IA-PC HPET Specification 1.0a, section 3.2.4).
pub(super) fn hpet() -> Vec<u8> {
    /// Revision 1, three comparators, 64-bit counter, legacy replacement, vendor 8086.
    const BLOCK_ID: u32 = 0x8086_a201;
    /// Least periodic interval in ticks.
    const MINIMUM_TICK: u16 = 0x80;
    let mut table = Sdt::new(*b"HPET", HEADER_LEN, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append(BLOCK_ID);
    table.append(GenericAddress {
        access_size: 0,
        ..GenericAddress::mmio_address::<u64>(memory::HPET)
    });
    table.append(0_u8);
    table.append(MINIMUM_TICK);
    table.append(0_u8);
    bytes(&table)
}
