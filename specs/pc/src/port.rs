//! I/O ports.

/// First port of the first 8259 interrupt controller (2 ports).
pub const PIC_MASTER: u16 = 0x20;
/// First port of the second 8259 interrupt controller (2 ports).
pub const PIC_SLAVE: u16 = 0xa0;
/// Edge/level control registers of both 8259s (2 ports).
pub const ELCR: u16 = 0x4d0;
/// First port of the 8254 timer (4 ports).
pub const PIT: u16 = 0x40;
/// NMI status and control, with the gate and output of timer channel 2.
pub const SYSTEM_CONTROL_B: u16 = 0x61;
/// A20 gate and fast reset.
pub const SYSTEM_CONTROL_A: u16 = 0x92;
/// Data port of the 8042 keyboard controller.
pub const I8042_DATA: u16 = 0x60;
/// Status and command port of the 8042 keyboard controller.
pub const I8042_COMMAND: u16 = 0x64;
/// Index port of the CMOS RAM and real-time clock.
pub const RTC_INDEX: u16 = 0x70;
/// Data port of the CMOS RAM and real-time clock.
pub const RTC_DATA: u16 = 0x71;
/// POST diagnostic code; also what kernels write to for a short delay.
pub const POST: u16 = 0x80;
/// First port of the first serial port (8 ports).
pub const COM1: u16 = 0x3f8;
/// First port of the second serial port (8 ports).
pub const COM2: u16 = 0x2f8;
/// Command block of the primary IDE channel (8 ports).
pub const IDE_PRIMARY: u16 = 0x1f0;
/// Control block of the primary IDE channel (1 port).
pub const IDE_PRIMARY_CONTROL: u16 = 0x3f6;
/// Command block of the secondary IDE channel (8 ports).
pub const IDE_SECONDARY: u16 = 0x170;
/// Control block of the secondary IDE channel (1 port).
pub const IDE_SECONDARY_CONTROL: u16 = 0x376;
/// Ports of a VGA of which the monochrome ones come first (12 ports).
pub const VGA_MONOCHROME: u16 = 0x3b0;
/// Ports of a VGA, the rest (32 ports).
pub const VGA: u16 = 0x3c0;
/// Index of Bochs's display interface; its data follow (3 ports, 16-bit access only).
pub const BOCHS_DISPLAY: u16 = 0x1ce;
/// The `isa-debug-exit` convention: writing v ends the monitor with status 2v+1 (4 ports).
pub const DEBUG_EXIT: u16 = 0xf4;
/// PCI configuration mechanism 1: address register (4 ports, 32-bit access only).
pub const PCI_CONFIG_ADDRESS: u16 = 0xcf8;
/// PCI configuration mechanism 1: data window (4 ports).
pub const PCI_CONFIG_DATA: u16 = 0xcfc;
/// Reset control register; inside the PCI address register, told apart by the access's width.
pub const RESET_CONTROL: u16 = 0xcf9;
/// What the FADT says to write to [`RESET_CONTROL`]: reset the system and the CPU.
pub const RESET_VALUE: u8 = 0x06;

/// First port of the ACPI power-management block.
pub const PM_BASE: u16 = 0x600;
/// PM1a event block: status (2 bytes), then enable (2 bytes).
pub const PM1A_EVENT: u16 = PM_BASE;
/// Bytes of the PM1a event block.
pub const PM1A_EVENT_LEN: u8 = 4;
/// PM1a control register.
pub const PM1A_CONTROL: u16 = PM_BASE + 4;
/// Bytes of the PM1a control register.
pub const PM1A_CONTROL_LEN: u8 = 2;
/// Power-management timer, counting at [`PM_TIMER_HZ`].
pub const PM_TIMER: u16 = PM_BASE + 8;
/// Bytes of the power-management timer.
pub const PM_TIMER_LEN: u8 = 4;
/// Ports of the whole power-management block, unused ones included.
pub const PM_LEN: u16 = 0x40;
/// Frequency of the power-management timer (ACPI 6.5, section 4.8.2.4).
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// SLP_TYP value of the PM1a control register that powers the machine off (S5).
pub const SLEEP_TYPE_S5: u8 = 5;

/// First port that firmware and kernels may hand to PCI devices.
pub const PCI_WINDOW_START: u16 = 0x1000;
/// Last port that firmware and kernels may hand to PCI devices.
pub const PCI_WINDOW_LAST: u16 = 0xffff;
