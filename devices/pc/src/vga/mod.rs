//! A VGA with Bochs's linear modes, as a PCI display adapter (QEMU's `stdvga`).
//!
//! - The registers behind the VGA's ports ([`registers`], [`palette`]) and the window at A0000h to the four
//!   planes ([`planes`]).
//! - Linear modes by Bochs's display interface ([`dispi`]), in ports and in a page of registers.
//! - Linear memory, which the guest reaches as fast as RAM: it is part of the guest's memory file and shown to the
//!   engines where base address register 0 says, so a frame buffer costs no interceptions.
//! - [`Screen`]: what a monitor would show ([`screen`], [`text`]).
//!
//! There is no firmware, so a new adapter is as firmware leaves it ([`power_on`]): with a place for its memory, a font,
//! and the mode that the kernel is told of.
//!
//! Not here: the vertical retrace (it is always about to come), blinking, and panning by single dots.

mod dispi;
mod font;
mod palette;
mod planes;
mod power_on;
mod registers;
mod screen;
mod text;

pub use screen::Screen;

use crate::lock;
use ambos_device::{
    AccessError, BarKind, BarMapper, ConfigError, ConfigSpace, MmioDevice, PciFunction,
    PciIdentity, PortDevice,
};
use ambos_memory::{DeviceMemory, GuestRam};
use ambos_pc_map::memory as map;
use dispi::{Dispi, Effect};
use planes::Planes;
use registers::Registers;
use std::sync::{Arc, Mutex, Weak};

/// The function's registers.
mod spec {
    /// Base address register of the linear memory.
    pub(super) const MEMORY: usize = 0;
    /// Base address register of the page of registers.
    pub(super) const REGISTERS: usize = 2;
    /// In the page: the VGA's ports from 3C0h on.
    pub(super) const PAGE_VGA: std::ops::Range<u64> = 0x400..0x420;
    /// In the page: the registers of Bochs's interface, two bytes each.
    pub(super) const PAGE_DISPI: std::ops::Range<u64> = 0x500..0x516;
    /// In the page: how many bytes of further registers there are.
    pub(super) const PAGE_EXTENSION: std::ops::Range<u64> = 0x600..0x604;
    /// Where the command register is, and what makes the adapter decode ports and memory.
    pub(super) const COMMAND: u16 = 0x04;
    pub(super) const DECODE: u8 = 3;
    pub(super) const FIRST_BAR: u16 = 0x10;
}

const IDENTITY: PciIdentity = PciIdentity {
    vendor: 0x1234,
    device: 0x1111,
    revision: 2,
    // A display controller that is compatible with VGA.
    class: [3, 0, 0],
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

/// What an adapter shows at power-on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VideoMode {
    /// 80 × 25 characters.
    #[default]
    Text,
    /// A frame buffer with 32 bits for each dot.
    Linear {
        /// Dots of a line, a multiple of eight.
        width: u16,
        /// Lines.
        height: u16,
    },
}

/// What an adapter stands on.
pub struct VgaParts {
    /// The guest's memory, with memory for a display.
    pub ram: Arc<GuestRam>,
    /// Puts its registers on the buses.
    pub mapper: BarMapper,
    /// What it shows at power-on.
    pub mode: VideoMode,
    /// Makes all vCPUs forget where its memory was.
    pub flush: Box<dyn Fn() + Send>,
}

/// The adapter.
pub struct Vga {
    // Dependencies.
    ram: Arc<GuestRam>,
    mapper: BarMapper,
    flush: Box<dyn Fn() + Send>,

    // Volatile state.
    config: ConfigSpace,
    registers: Registers,
    planes: Planes,
    dispi: Dispi,
}

impl Vga {
    /// Offset of the VGA's ports, counted from 3B0h.
    pub const PORTS: u16 = 0;
    /// Offset of the ports of Bochs's interface.
    pub const DISPI_PORTS: u16 = 0x100;
    /// Offset of the window at A0000h.
    pub const WINDOW: u64 = 0;
    /// Offset of the page of registers.
    const PAGE: u64 = 1 << 32;
    /// Offset of the linear memory.
    const LINEAR: u64 = 2 << 32;

    /// An adapter as firmware leaves it.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] is a mistake in the layout of the function's registers.
    pub fn new(parts: VgaParts) -> Result<Arc<Mutex<Self>>, ConfigError> {
        let VgaParts { ram, mut mapper, mode, flush } = parts;
        let size = ram.display().map_or(0, DeviceMemory::size);
        let mut config = ConfigSpace::new(&IDENTITY);
        config.add_bar(spec::MEMORY, BarKind::Memory32, size)?;
        config.add_bar(spec::REGISTERS, BarKind::Memory32, map::DISPLAY_REGISTERS_SIZE)?;
        let places =
            [(spec::MEMORY, map::DISPLAY_MEMORY), (spec::REGISTERS, map::DISPLAY_REGISTERS)];
        for (index, address) in places {
            // All places lie below 4 GiB.
            config.write(spec::FIRST_BAR + index as u16 * 4, &(address as u32).to_le_bytes());
        }
        config.write(spec::COMMAND, &[spec::DECODE]);
        if let Some(memory) = ram.display() {
            power_on::fill(memory);
        }
        let mut dispi = Dispi::new(usize::try_from(size).unwrap_or(0));
        if let VideoMode::Linear { width, height } = mode {
            dispi.show(width, height);
            if let Some(memory) = ram.display() {
                memory.clear();
            }
        }
        let vga = Arc::new_cyclic(|this: &Weak<Mutex<Self>>| {
            let page = this.clone() as Weak<Mutex<dyn MmioDevice>>;
            mapper.show_memory(spec::REGISTERS, page, Self::PAGE);
            let linear = this.clone() as Weak<Mutex<dyn MmioDevice>>;
            mapper.show_memory(spec::MEMORY, linear, Self::LINEAR);
            let (registers, planes) = (Registers::new(), Planes::default());
            Mutex::new(Self { ram, mapper, flush, config, registers, planes, dispi })
        });
        lock(&vga).place();
        Ok(vga)
    }

    /// What a monitor would show.
    pub fn screen(&self) -> Screen {
        match self.ram.display() {
            Some(memory) => screen::picture(&self.registers, self.dispi.mode(), memory),
            None => Screen::dark(1, 1),
        }
    }

    /// Shows registers and memory where the function's registers say.
    fn place(&mut self) {
        self.mapper.update(&self.config);
        let address = self.mapper.mapped(spec::MEMORY).map(|bar| bar.address);
        if self.ram.display().is_some_and(|memory| memory.show_at(address)) {
            (self.flush)();
        }
    }

    fn write_dispi(&mut self, index: u16, value: u16) {
        if let (Effect::Clear(size), Some(memory)) =
            (self.dispi.write(index, value), self.ram.display())
        {
            memory.fill_zero(size);
        }
        self.registers.palette.set_wide(self.dispi.has_wide_palette());
    }

    fn read_page(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = if spec::PAGE_VGA.contains(&at) {
                self.registers.read(0x3c0 + (at - spec::PAGE_VGA.start) as u16)
            } else if spec::PAGE_DISPI.contains(&at) {
                let at = at - spec::PAGE_DISPI.start;
                self.dispi.read((at / 2) as u16).to_le_bytes()[(at & 1) as usize]
            } else if spec::PAGE_EXTENSION.contains(&at) {
                // There are no further registers, and no description of a monitor.
                0
            } else {
                0xff
            };
        }
        Ok(())
    }

    fn write_page(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        if spec::PAGE_DISPI.contains(&offset) {
            let index = ((offset - spec::PAGE_DISPI.start) / 2) as u16;
            let (values, rest) = data.as_chunks::<2>();
            if offset & 1 != 0 || !rest.is_empty() {
                return Err(AccessError::Size);
            }
            for (index, value) in (index..).zip(values) {
                self.write_dispi(index, u16::from_le_bytes(*value));
            }
            return Ok(());
        }
        for (byte, at) in data.iter().zip(offset..) {
            if spec::PAGE_VGA.contains(&at) {
                self.registers.write(0x3c0 + (at - spec::PAGE_VGA.start) as u16, *byte);
            }
        }
        Ok(())
    }

    fn read_window(&mut self, offset: u64) -> u8 {
        let (Some(memory), Ok(offset)) = (self.ram.display(), usize::try_from(offset)) else {
            return 0xff;
        };
        if self.dispi.mode().is_some_and(|mode| mode.depth >= 8) {
            return self
                .dispi
                .banked(offset)
                .map_or(0xff, |offset| memory.load(offset & !3)[offset & 3]);
        }
        self.planes.read(&self.registers, memory, offset)
    }

    fn write_window(&mut self, offset: u64, value: u8) {
        let (Some(memory), Ok(offset)) = (self.ram.display(), usize::try_from(offset)) else {
            return;
        };
        if self.dispi.mode().is_some_and(|mode| mode.depth >= 8) {
            if let Some(offset) = self.dispi.banked(offset) {
                memory.write(offset, &[value]);
            }
            return;
        }
        self.planes.write(&self.registers, memory, offset, value);
    }
}

impl PciFunction for Vga {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        if self.config.write(offset, data) {
            self.place();
        }
    }
}

impl PortDevice for Vga {
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        if let Some(port) = offset.checked_sub(Self::DISPI_PORTS) {
            let value =
                if port == 0 { self.dispi.index() } else { self.dispi.read(self.dispi.index()) };
            let bytes = value.to_le_bytes();
            if data.len() > bytes.len() {
                return Err(AccessError::Size);
            }
            data.copy_from_slice(&bytes[..data.len()]);
            return Ok(());
        }
        for (byte, port) in data.iter_mut().zip(registers::FIRST_PORT + offset..) {
            *byte = self.registers.read(port);
        }
        Ok(())
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        if let Some(port) = offset.checked_sub(Self::DISPI_PORTS) {
            let &[low, high] = data else { return Err(AccessError::Size) };
            let value = u16::from_le_bytes([low, high]);
            if port == 0 {
                self.dispi.set_index(value);
            } else {
                self.write_dispi(self.dispi.index(), value);
            }
            return Ok(());
        }
        for (byte, port) in data.iter().zip(registers::FIRST_PORT + offset..) {
            self.registers.write(port, *byte);
        }
        Ok(())
    }
}

impl MmioDevice for Vga {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        if let Some(offset) = offset.checked_sub(Self::LINEAR) {
            // Engines find the memory themselves; this is for an access that was under way as it moved.
            if let (Some(memory), Ok(offset)) = (self.ram.display(), usize::try_from(offset)) {
                memory.read(offset, data);
            }
        } else if let Some(offset) = offset.checked_sub(Self::PAGE) {
            return self.read_page(offset, data);
        } else {
            for (byte, at) in data.iter_mut().zip(offset..) {
                *byte = self.read_window(at);
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        if let Some(offset) = offset.checked_sub(Self::LINEAR) {
            if let (Some(memory), Ok(offset)) = (self.ram.display(), usize::try_from(offset)) {
                memory.write(offset, data);
            }
        } else if let Some(offset) = offset.checked_sub(Self::PAGE) {
            return self.write_page(offset, data);
        } else {
            for (byte, at) in data.iter().zip(offset..) {
                self.write_window(at, *byte);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
