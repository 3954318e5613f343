//! The configuration registers of a function.

use thiserror::Error;

/// Registers (PCI Local Bus Specification 3.0, chapter 6).
mod spec {
    pub(super) const VENDOR: usize = 0x00;
    pub(super) const DEVICE: usize = 0x02;
    pub(super) const COMMAND: usize = 0x04;
    pub(super) const STATUS: usize = 0x06;
    pub(super) const REVISION: usize = 0x08;
    pub(super) const CLASS: usize = 0x09;
    pub(super) const CACHE_LINE: usize = 0x0c;
    pub(super) const LATENCY: usize = 0x0d;
    pub(super) const HEADER_TYPE: usize = 0x0e;
    pub(super) const BAR_0: usize = 0x10;
    pub(super) const SUBSYSTEM_VENDOR: usize = 0x2c;
    pub(super) const SUBSYSTEM: usize = 0x2e;
    pub(super) const CAPABILITIES: usize = 0x34;
    pub(super) const INTERRUPT_LINE: usize = 0x3c;
    pub(super) const INTERRUPT_PIN: usize = 0x3d;
    /// First register of the function's own.
    pub(super) const OWN: usize = 0x40;

    /// Command: the function answers port accesses.
    pub(super) const COMMAND_IO: u16 = 1 << 0;
    /// Command: the function answers memory accesses.
    pub(super) const COMMAND_MEMORY: u16 = 1 << 1;
    /// Command: the function may access memory itself.
    pub(super) const COMMAND_MASTER: u16 = 1 << 2;
    /// Command: the function does not drive its interrupt pin.
    pub(super) const COMMAND_NO_INTX: u16 = 1 << 10;
    /// Command: what can be written; parity and system errors have no effect.
    pub(super) const COMMAND_WRITABLE: u16 =
        COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | 1 << 6 | 1 << 8 | COMMAND_NO_INTX;
    /// Status: the function asks for an interrupt.
    pub(super) const STATUS_INTERRUPT: u16 = 1 << 3;
    /// Status: there is a list of capabilities.
    pub(super) const STATUS_CAPABILITIES: u16 = 1 << 4;
    /// Header type: there are other functions beside this one.
    pub(super) const MULTIFUNCTION: u8 = 1 << 7;

    /// Base address register: port space.
    pub(super) const BAR_IO: u32 = 1 << 0;
    /// Base address register: 64 bits wide.
    pub(super) const BAR_64: u32 = 2 << 1;
    /// Base address register: prefetchable.
    pub(super) const BAR_PREFETCHABLE: u32 = 1 << 3;

    /// Capability: message-signalled interrupts.
    pub(super) const MSI: u8 = 0x05;
    /// MSI control: enabled.
    pub(super) const MSI_ENABLE: u8 = 1 << 0;
    /// MSI control: 64-bit addresses.
    pub(super) const MSI_64: u8 = 1 << 7;
}

/// Size of the configuration space of conventional PCI.
const SIZE: usize = 256;

/// Who a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciIdentity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass, programming interface.
    pub class: [u8; 3],
    /// Subsystem's vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// What a base address register maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Ports,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes two registers.
    Memory64 {
        /// Whether reads have no side effects.
        prefetchable: bool,
    },
}

/// A base address register as the guest set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// What it maps.
    pub kind: BarKind,
    /// First port or guest-physical address.
    pub address: u64,
    /// How many ports or bytes.
    pub size: u64,
}

/// An interrupt message as the guest set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// A mistake in the layout of a function's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The base address register does not exist, is taken, or has no room for its second half.
    #[error("base address register {0} is not free")]
    Bar(usize),
    /// The size is not a power of two or not possible for the kind.
    #[error("a base address register cannot map {0:#x} addresses")]
    BarSize(u64),
    /// The capabilities do not fit.
    #[error("no room for a capability of {0} bytes")]
    Capability(usize),
}

/// The 256 bytes of configuration space of a function, and which of their bits can be written.
///
/// Sizing of base address registers follows from that: address bits below the size cannot be
/// written, so that a guest that writes ones reads back the size.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    value: [u8; SIZE],
    writable: [u8; SIZE],
    bars: [Option<(BarKind, u64)>; 6],
    /// Offset of the last capability's pointer to the next one.
    last_pointer: usize,
    /// First byte that no capability uses.
    free: usize,
    msi: Option<usize>,
}

impl ConfigSpace {
    /// The registers of a function with nothing but its identity.
    pub fn new(identity: &PciIdentity) -> Self {
        let mut space = Self {
            value: [0; SIZE],
            writable: [0; SIZE],
            bars: [None; 6],
            last_pointer: spec::CAPABILITIES,
            free: spec::OWN,
            msi: None,
        };
        let [class, subclass, interface] = identity.class;
        space.put(spec::VENDOR, &identity.vendor.to_le_bytes());
        space.put(spec::DEVICE, &identity.device.to_le_bytes());
        space.put(spec::REVISION, &[identity.revision]);
        space.put(spec::CLASS, &[interface, subclass, class]);
        space.put(spec::SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        space.put(spec::SUBSYSTEM, &identity.subsystem.to_le_bytes());
        space.make_writable(spec::COMMAND, &spec::COMMAND_WRITABLE.to_le_bytes());
        space.make_writable(spec::CACHE_LINE, &[0xff]);
        space.make_writable(spec::LATENCY, &[0xff]);
        space.make_writable(spec::INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Says that the device has other functions.
    #[must_use]
    pub fn multifunction(mut self) -> Self {
        self.value[spec::HEADER_TYPE] |= spec::MULTIFUNCTION;
        self
    }

    /// Says which interrupt pin the function drives: 0 = INTA# … 3 = INTD#.
    #[must_use]
    pub fn with_interrupt_pin(mut self, pin: u8) -> Self {
        self.value[spec::INTERRUPT_PIN] = (pin & 3) + 1;
        self
    }

    /// Sets registers of the function's own, at `offset` from 0x40 up: their `value` and which bits
    /// of them can be written. What goes past the end is ignored.
    #[must_use]
    pub fn with_registers(mut self, offset: u8, value: &[u8], writable: &[u8]) -> Self {
        let offset = usize::from(offset).max(spec::OWN);
        self.put(offset, value);
        self.make_writable(offset, writable);
        self
    }

    /// Adds base address register `index` (0–5) for `size` ports or bytes, a power of two.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if there is no such register or size.
    pub fn add_bar(&mut self, index: usize, kind: BarKind, size: u64) -> Result<(), ConfigError> {
        let (least, most, flags) = match kind {
            BarKind::Ports => (4, 0x100, spec::BAR_IO),
            BarKind::Memory32 => (16, 1 << 31, 0),
            BarKind::Memory64 { prefetchable: false } => (16, 1 << 62, spec::BAR_64),
            BarKind::Memory64 { prefetchable: true } => {
                (16, 1 << 62, spec::BAR_64 | spec::BAR_PREFETCHABLE)
            }
        };
        if !size.is_power_of_two() || size < least || size > most {
            return Err(ConfigError::BarSize(size));
        }
        let halves = if matches!(kind, BarKind::Memory64 { .. }) { 2 } else { 1 };
        let free = |index: usize| {
            let taken_by_low_half = index > 0
                && matches!(self.bars.get(index - 1), Some(Some((BarKind::Memory64 { .. }, _))));
            self.bars.get(index) == Some(&None) && !taken_by_low_half
        };
        if !(index..index + halves).all(free) {
            return Err(ConfigError::Bar(index));
        }
        self.bars[index] = Some((kind, size));
        let offset = spec::BAR_0 + index * 4;
        let mask = !(size - 1);
        self.put(offset, &flags.to_le_bytes());
        self.make_writable(offset, &mask.to_le_bytes()[..halves * 4]);
        Ok(())
    }

    /// Appends a capability whose bytes after ID and pointer are `body`, and says which bits of
    /// them can be written. Returns the capability's offset.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Capability`] if there is no room.
    pub fn add_capability(
        &mut self,
        id: u8,
        body: &[u8],
        writable: &[u8],
    ) -> Result<u8, ConfigError> {
        let length = body.len().saturating_add(2);
        let offset = self.free;
        if length > SIZE - offset {
            return Err(ConfigError::Capability(length));
        }
        self.put(offset, &[id, 0]);
        self.put(offset + 2, body);
        self.make_writable(offset + 2, &writable[..writable.len().min(body.len())]);
        self.value[self.last_pointer] = offset as u8;
        self.last_pointer = offset + 1;
        self.free = (offset + length).next_multiple_of(4);
        self.value[spec::STATUS] |= spec::STATUS_CAPABILITIES as u8;
        Ok(offset as u8)
    }

    /// Appends the capability of one message-signalled interrupt.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Capability`] if there is no room.
    pub fn add_msi(&mut self) -> Result<(), ConfigError> {
        let mut body = [0; 12];
        body[0] = spec::MSI_64;
        let mut writable = [0; 12];
        writable[0] = spec::MSI_ENABLE;
        writable[2..6].copy_from_slice(&0xffff_fffcu32.to_le_bytes());
        writable[6..12].fill(0xff);
        self.msi = Some(usize::from(self.add_capability(spec::MSI, &body, &writable)?));
        Ok(())
    }

    /// Reads registers; what is past the end reads as zero.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (byte, offset) in data.iter_mut().zip(usize::from(offset)..) {
            *byte = self.value.get(offset).copied().unwrap_or(0);
        }
    }

    /// Writes those bits that can be written; returns whether anything changed.
    pub fn write(&mut self, offset: u16, data: &[u8]) -> bool {
        let mut changed = false;
        for (byte, offset) in data.iter().zip(usize::from(offset)..) {
            if let (Some(value), Some(mask)) =
                (self.value.get_mut(offset), self.writable.get(offset))
            {
                let new = *value & !mask | byte & mask;
                changed |= new != *value;
                *value = new;
            }
        }
        changed
    }

    /// A byte of the registers.
    pub fn byte(&self, offset: u8) -> u8 {
        self.value[usize::from(offset)]
    }

    /// Changes a byte of the registers from the function's side.
    pub fn set_byte(&mut self, offset: u8, value: u8) {
        self.value[usize::from(offset)] = value;
    }

    fn command(&self) -> u16 {
        u16::from_le_bytes([self.value[spec::COMMAND], self.value[spec::COMMAND + 1]])
    }

    /// What base address register `index` maps now; `None` if there is no such register, or the
    /// guest has its kind of access switched off.
    pub fn bar(&self, index: usize) -> Option<Bar> {
        let (kind, size) = (*self.bars.get(index)?)?;
        let enabled = match kind {
            BarKind::Ports => spec::COMMAND_IO,
            BarKind::Memory32 | BarKind::Memory64 { .. } => spec::COMMAND_MEMORY,
        };
        let offset = spec::BAR_0 + index * 4;
        let mut bytes = [0; 8];
        let halves = if matches!(kind, BarKind::Memory64 { .. }) { 2 } else { 1 };
        bytes[..halves * 4].copy_from_slice(&self.value[offset..offset + halves * 4]);
        let address = u64::from_le_bytes(bytes) & !(size - 1);
        (self.command() & enabled != 0).then_some(Bar { kind, address, size })
    }

    /// Whether the guest lets the function access memory.
    pub fn is_bus_master(&self) -> bool {
        self.command() & spec::COMMAND_MASTER != 0
    }

    /// Notes in the status register whether the function asks for an interrupt; returns whether
    /// it may drive its pin.
    pub fn set_interrupt(&mut self, asserted: bool) -> bool {
        let bit = spec::STATUS_INTERRUPT as u8;
        let status = &mut self.value[spec::STATUS];
        *status = if asserted { *status | bit } else { *status & !bit };
        asserted && self.command() & spec::COMMAND_NO_INTX == 0 && self.msi_message().is_none()
    }

    /// The message to send instead of driving the interrupt pin, if the guest enabled that.
    pub fn msi_message(&self) -> Option<MsiMessage> {
        let offset = self.msi?;
        let at = |from: usize| -> u32 {
            let bytes = &self.value[offset + from..offset + from + 4];
            bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
        };
        (self.value[offset + 2] & spec::MSI_ENABLE != 0).then(|| MsiMessage {
            address: u64::from(at(4)) | u64::from(at(8)) << 32,
            data: u32::from(at(12) as u16),
        })
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        for (value, byte) in self.value.iter_mut().skip(offset).zip(bytes) {
            *value = *byte;
        }
    }

    fn make_writable(&mut self, offset: usize, mask: &[u8]) {
        for (writable, byte) in self.writable.iter_mut().skip(offset).zip(mask) {
            *writable = *byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: PciIdentity = PciIdentity {
        vendor: 0x8086,
        device: 0x100e,
        revision: 3,
        class: [2, 0, 0],
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
    };

    fn dword(space: &ConfigSpace, offset: u16) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(space: &mut ConfigSpace, offset: u16, value: u32) {
        space.write(offset, &value.to_le_bytes());
    }

    #[test]
    fn identity_cannot_be_written() {
        let mut space = ConfigSpace::new(&IDENTITY).multifunction().with_interrupt_pin(1);
        for offset in 0..256 {
            space.write(offset, &[0xff]);
        }
        assert_eq!(dword(&space, 0), 0x100e_8086);
        assert_eq!(dword(&space, 8), 0x0200_0003);
        assert_eq!(dword(&space, 0xc), 0x0080_ffff);
        assert_eq!(dword(&space, 0x2c), 0x1100_1af4);
        assert_eq!(dword(&space, 0x3c), 0x02ff);
        assert_eq!(dword(&space, 0x200), 0);
    }

    #[test]
    fn sizes_are_read_back() {
        let mut space = ConfigSpace::new(&IDENTITY);
        space.add_bar(0, BarKind::Memory32, 0x20000).unwrap();
        space.add_bar(1, BarKind::Ports, 0x40).unwrap();
        space.add_bar(2, BarKind::Memory64 { prefetchable: true }, 1 << 33).unwrap();
        for offset in [0x10, 0x14, 0x18, 0x1c, 0x20] {
            write(&mut space, offset, u32::MAX);
        }
        assert_eq!(dword(&space, 0x10), 0xfffe_0000);
        assert_eq!(dword(&space, 0x14), 0xffff_ffc1);
        assert_eq!(dword(&space, 0x18), 0x0000_000c);
        assert_eq!(dword(&space, 0x1c), 0xffff_fffe);
        assert_eq!(dword(&space, 0x20), 0);
        write(&mut space, 0x10, 0xfeb0_0000);
        write(&mut space, 0x1c, 0x4);
        assert_eq!(space.bar(0), None);
        write(&mut space, 4, 3);
        assert_eq!(space.bar(0).unwrap().address, 0xfeb0_0000);
        assert_eq!(space.bar(2).unwrap().address, 4 << 32);
        assert_eq!(space.bar(3), None);
    }

    #[test]
    fn impossible_layouts_are_refused() {
        let mut space = ConfigSpace::new(&IDENTITY);
        let memory = BarKind::Memory64 { prefetchable: false };
        assert_eq!(space.add_bar(5, memory, 4096), Err(ConfigError::Bar(5)));
        assert_eq!(space.add_bar(6, BarKind::Ports, 4), Err(ConfigError::Bar(6)));
        assert_eq!(space.add_bar(0, BarKind::Ports, 48), Err(ConfigError::BarSize(48)));
        space.add_bar(0, memory, 4096).unwrap();
        assert_eq!(space.add_bar(1, BarKind::Ports, 4), Err(ConfigError::Bar(1)));
        space.add_capability(9, &[0; 180], &[]).unwrap();
        assert_eq!(space.add_capability(9, &[0; 80], &[]), Err(ConfigError::Capability(82)));
    }

    #[test]
    fn capabilities_are_a_list() {
        let mut space = ConfigSpace::new(&IDENTITY);
        assert_eq!(dword(&space, 4) >> 16 & 0x10, 0);
        assert_eq!(space.add_capability(0x09, &[5, 1, 2], &[0, 0xff]), Ok(0x40));
        space.add_msi().unwrap();
        assert_eq!(dword(&space, 4) >> 16 & 0x10, 0x10);
        assert_eq!(space.byte(0x34), 0x40);
        assert_eq!(dword(&space, 0x40), 0x0105_4809);
        assert_eq!(dword(&space, 0x48), 0x0080_0005);
        assert_eq!(space.msi_message(), None);
        write(&mut space, 0x4c, 0xfee0_1003);
        write(&mut space, 0x54, 0xffff_0041);
        assert!(space.set_interrupt(true));
        write(&mut space, 0x48, 0xffff_0000);
        assert_eq!(space.msi_message(), Some(MsiMessage { address: 0xfee0_1000, data: 0x41 }));
        assert!(!space.set_interrupt(true));
        assert_eq!(dword(&space, 4) >> 16 & 8, 8);
    }
}
