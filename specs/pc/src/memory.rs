//! Guest-physical addresses.
//!
//! ```text
//! 0x0000_0000  RAM, up to LOW_RAM_MAX
//!   0x0009_fc00  reserved: extended BIOS data area, VGA window, firmware (ACPI tables)
//!   0x0010_0000  RAM again
//! 0xc000_0000  PCI memory window
//! 0xe000_0000  PCI configuration space (ECAM), 256 buses
//! 0xf000_0000  PCI memory window, second part
//! 0xfec0_0000  I/O APIC
//! 0xfed0_0000  HPET
//! 0xfee0_0000  local APICs, message-signalled interrupts
//! 0x1_0000_0000  RAM that does not fit below
//! above RAM    64-bit PCI memory window, see HIGH_PCI_WINDOW_ALIGN
//! ```

/// End of conventional memory: the extended BIOS data area begins.
pub const EBDA_START: u64 = 0x9_fc00;
/// The VGA frame-buffer window.
pub const VGA_START: u64 = 0xa_0000;
/// End of the VGA frame-buffer window.
pub const VGA_END: u64 = 0xc_0000;
/// Where the display adapter's memory is at power-on, in the second part of the PCI memory window.
pub const DISPLAY_MEMORY: u64 = 0xfd00_0000;
/// Bytes of the display adapter's memory.
pub const DISPLAY_MEMORY_SIZE: u64 = 16 << 20;
/// Where the display adapter's registers are at power-on.
pub const DISPLAY_REGISTERS: u64 = 0xfebf_0000;
/// Bytes decoded by the display adapter's registers.
pub const DISPLAY_REGISTERS_SIZE: u64 = 0x1000;
/// Start of the area where guests search for the RSDP; the ACPI tables live here.
pub const ACPI_START: u64 = 0xe_0000;
/// End of the area of the ACPI tables.
pub const ACPI_END: u64 = 0x10_0000;
/// Start of extended memory.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;

/// Largest end of RAM below the 32-bit hole; equal to the start of the PCI memory window.
pub const LOW_RAM_MAX: u64 = 0xc000_0000;
/// First part of the 32-bit PCI memory window.
pub const PCI_WINDOW_START: u64 = LOW_RAM_MAX;
/// End (exclusive) of the first part of the 32-bit PCI memory window.
pub const PCI_WINDOW_END: u64 = ECAM_START;
/// PCI configuration space: one 4 KiB page per function, 256 buses.
pub const ECAM_START: u64 = 0xe000_0000;
/// Bytes of PCI configuration space.
pub const ECAM_SIZE: u64 = 256 << 20;
/// Second part of the 32-bit PCI memory window.
pub const PCI_WINDOW2_START: u64 = ECAM_START + ECAM_SIZE;
/// End (exclusive) of the second part of the 32-bit PCI memory window.
pub const PCI_WINDOW2_END: u64 = IOAPIC;
/// Registers of the I/O APIC.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Bytes decoded by the I/O APIC.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// Registers of the HPET.
pub const HPET: u64 = 0xfed0_0000;
/// Bytes decoded by the HPET.
pub const HPET_SIZE: u64 = 0x400;
/// Registers of the local APIC, at reset; each vCPU sees its own. Writes from devices to this range
/// are message-signalled interrupts.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// Bytes decoded by the local APIC.
pub const LOCAL_APIC_SIZE: u64 = 0x1000;
/// End of the 32-bit hole: RAM continues here.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;
/// The 64-bit PCI memory window starts at the next multiple of this above all RAM.
pub const HIGH_PCI_WINDOW_ALIGN: u64 = 1 << 32;
/// Bytes of the 64-bit PCI memory window.
pub const HIGH_PCI_WINDOW_SIZE: u64 = 16 << 30;

/// Start of the 64-bit PCI memory window for a machine with `ram_size` bytes of RAM.
pub const fn high_pci_window_start(ram_size: u64) -> u64 {
    let ram_end = if ram_size > LOW_RAM_MAX {
        HIGH_RAM_START.saturating_add(ram_size - LOW_RAM_MAX)
    } else {
        HIGH_RAM_START
    };
    match ram_end.checked_next_multiple_of(HIGH_PCI_WINDOW_ALIGN) {
        Some(start) => start,
        None => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_window_is_above_all_ram() {
        assert_eq!(high_pci_window_start(512 << 20), 0x1_0000_0000);
        assert_eq!(high_pci_window_start(LOW_RAM_MAX), 0x1_0000_0000);
        assert_eq!(high_pci_window_start(LOW_RAM_MAX + 4096), 0x2_0000_0000);
        assert_eq!(high_pci_window_start(LOW_RAM_MAX + (4 << 30)), 0x2_0000_0000);
    }
}
