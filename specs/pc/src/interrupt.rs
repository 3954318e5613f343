//! Interrupt lines: ISA IRQs, global system interrupts, local APIC pins.
//!
//! A global system interrupt (GSI) is the number of an I/O APIC pin. ISA IRQ n is GSI n, except
//! that the timer's IRQ 0 arrives at GSI 2.

/// ISA IRQ of the 8254's channel 0 (and of the HPET's timer 0 in legacy replacement mode).
pub const TIMER_IRQ: u8 = 0;
/// GSI of the 8254's channel 0.
pub const TIMER_GSI: u8 = 2;
/// ISA IRQ of the keyboard.
pub const KEYBOARD_IRQ: u8 = 1;
/// ISA IRQ through which the second 8259 reaches the first.
pub const CASCADE_IRQ: u8 = 2;
/// ISA IRQ of the second serial port.
pub const COM2_IRQ: u8 = 3;
/// ISA IRQ of the first serial port.
pub const COM1_IRQ: u8 = 4;
/// ISA IRQ of the real-time clock (and of the HPET's timer 1 in legacy replacement mode).
pub const RTC_IRQ: u8 = 8;
/// ISA IRQ and GSI of ACPI's system control interrupt: level-triggered, active high.
pub const SCI_IRQ: u8 = 9;
/// ISA IRQ of the PS/2 mouse.
pub const MOUSE_IRQ: u8 = 12;
/// ISA IRQ of the primary IDE channel.
pub const IDE_PRIMARY_IRQ: u8 = 14;
/// ISA IRQ of the secondary IDE channel.
pub const IDE_SECONDARY_IRQ: u8 = 15;
/// Pins of the I/O APIC.
pub const IOAPIC_PINS: u8 = 24;
/// First of the four GSIs that PCI interrupt pins share.
pub const PCI_GSI_BASE: u8 = 16;
/// The ISA IRQs that the same four lines reach where the guest uses the 8259s.
pub const PCI_PIC_IRQS: [u8; 4] = [10, 11, 10, 11];

/// Which of the four PCI lines `pin` (0 = INTA# … 3 = INTD#) of device `device` on bus 0 drives.
pub const fn pci_line(device: u8, pin: u8) -> u8 {
    device.wrapping_add(pin) & 3
}

/// The GSI that `pin` (0 = INTA# … 3 = INTD#) of device `device` on bus 0 reaches: level-triggered,
/// active low on the bus.
pub const fn pci_gsi(device: u8, pin: u8) -> u8 {
    PCI_GSI_BASE + pci_line(device, pin)
}

/// The ISA IRQ that `pin` (0 = INTA# … 3 = INTD#) of device `device` on bus 0 reaches at the 8259s.
pub const fn pci_pic_irq(device: u8, pin: u8) -> u8 {
    PCI_PIC_IRQS[pci_line(device, pin) as usize]
}

/// The I/O APIC's ID in a machine with `cpus` processors, whose local APICs have the IDs from 0.
/// I/O APIC IDs have four bits in xAPIC times; larger machines share ID 0 among the kinds.
pub const fn ioapic_id(cpus: u32) -> u8 {
    if cpus < 15 { cpus as u8 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_pins_rotate_over_four_lines() {
        assert_eq!(pci_gsi(0, 0), 16);
        assert_eq!(pci_gsi(1, 0), 17);
        assert_eq!(pci_gsi(31, 3), 18);
        assert_eq!(pci_pic_irq(1, 0), 11);
        assert_eq!(pci_pic_irq(1, 1), 10);
    }
}
