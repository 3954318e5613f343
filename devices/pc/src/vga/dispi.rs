//! The display interface of Bochs (VBE): linear modes chosen by a few 16-bit registers.
//!
//! The registers are those of Bochs's VGA and of QEMU's `stdvga` (QEMU, docs/specs/standard-vga).

/// Registers.
mod spec {
    pub(super) const ID: u16 = 0;
    pub(super) const WIDTH: u16 = 1;
    pub(super) const HEIGHT: u16 = 2;
    pub(super) const DEPTH: u16 = 3;
    pub(super) const ENABLE: u16 = 4;
    pub(super) const BANK: u16 = 5;
    pub(super) const VIRTUAL_WIDTH: u16 = 6;
    pub(super) const VIRTUAL_HEIGHT: u16 = 7;
    pub(super) const X: u16 = 8;
    pub(super) const Y: u16 = 9;
    pub(super) const MEMORY: u16 = 10;

    /// Versions of the interface that software may choose.
    pub(super) const ID_FIRST: u16 = 0xb0c0;
    pub(super) const ID_LAST: u16 = 0xb0c5;

    /// Enable: a linear mode is shown.
    pub(super) const ENABLED: u16 = 1 << 0;
    /// Enable: reads of width, height and depth say what is possible.
    pub(super) const CAPABILITIES: u16 = 1 << 1;
    /// Enable: colours have eight bits for each component.
    pub(super) const WIDE_PALETTE: u16 = 1 << 5;
    /// Enable: memory is not cleared.
    pub(super) const KEEP: u16 = 1 << 7;

    /// Most dots of a line, and most lines.
    pub(super) const SIDE_MAX: u16 = 4096;
    /// Most bits of a dot.
    pub(super) const DEPTH_MAX: u16 = 32;
}

/// Bytes of a bank of the window.
const BANK: usize = 0x1_0000;

/// What a linear mode shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinearMode {
    /// Dots of a line.
    pub(super) width: usize,
    /// Lines.
    pub(super) height: usize,
    /// Bits of a dot: 4, 8, 15, 16, 24 or 32.
    pub(super) depth: u16,
    /// Bytes from one line to the next.
    pub(super) pitch: usize,
    /// Offset of the first dot.
    pub(super) start: usize,
}

/// What a write has done beside changing the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// A mode begins, and this many bytes of memory are to be cleared.
    Clear(usize),
}

/// The registers.
#[derive(Debug, Clone)]
pub(super) struct Dispi {
    /// Bytes of memory.
    memory: usize,
    index: u16,
    id: u16,
    width: u16,
    height: u16,
    depth: u16,
    enable: u16,
    bank: u16,
    virtual_width: u16,
    x: u16,
    y: u16,
}

/// Bytes of `width` dots.
fn bytes(width: usize, depth: u16) -> usize {
    match depth {
        4 => width / 2,
        15 => width * 2,
        depth => width * usize::from(depth / 8),
    }
}

impl Dispi {
    /// No linear mode yet, and `memory` bytes to show.
    pub(super) fn new(memory: usize) -> Self {
        Self {
            memory,
            index: 0,
            id: spec::ID_LAST,
            width: 0,
            height: 0,
            depth: 8,
            enable: 0,
            bank: 0,
            virtual_width: 0,
            x: 0,
            y: 0,
        }
    }

    /// Shows `width` × `height` dots of 32 bits, as firmware does before it starts a kernel.
    pub(super) fn show(&mut self, width: u16, height: u16) {
        for (index, value) in
            [(spec::WIDTH, width), (spec::HEIGHT, height), (spec::DEPTH, spec::DEPTH_MAX)]
        {
            self.write(index, value);
        }
        self.write(spec::ENABLE, spec::ENABLED);
    }

    /// The mode, if a linear one is shown.
    pub(super) fn mode(&self) -> Option<LinearMode> {
        if self.enable & spec::ENABLED == 0 {
            return None;
        }
        let pitch = bytes(self.virtual_width.into(), self.depth);
        let start = pitch * usize::from(self.y) + bytes(self.x.into(), self.depth);
        let (width, height) = (self.width.into(), self.height.into());
        Some(LinearMode { width, height, depth: self.depth, pitch, start })
    }

    /// Whether colours have eight bits for each component.
    pub(super) fn has_wide_palette(&self) -> bool {
        self.enable & spec::WIDE_PALETTE != 0
    }

    /// Offset in memory of `offset` in the window of one bank.
    pub(super) fn banked(&self, offset: usize) -> Option<usize> {
        (offset < BANK).then_some(usize::from(self.bank) * BANK + offset)
    }

    /// The index register.
    pub(super) fn index(&self) -> u16 {
        self.index
    }

    /// Writes the index register.
    pub(super) fn set_index(&mut self, index: u16) {
        self.index = index;
    }

    /// Reads register `index`.
    pub(super) fn read(&self, index: u16) -> u16 {
        let possible = self.enable & spec::CAPABILITIES != 0;
        match index {
            spec::ID => self.id,
            spec::WIDTH | spec::HEIGHT if possible => spec::SIDE_MAX,
            spec::DEPTH if possible => spec::DEPTH_MAX,
            spec::WIDTH => self.width,
            spec::HEIGHT => self.height,
            spec::DEPTH => self.depth,
            spec::ENABLE => self.enable,
            spec::BANK => self.bank,
            spec::VIRTUAL_WIDTH => self.virtual_width,
            spec::VIRTUAL_HEIGHT => match bytes(self.virtual_width.into(), self.depth) {
                0 => 0,
                pitch => u16::try_from(self.memory / pitch).unwrap_or(u16::MAX),
            },
            spec::X => self.x,
            spec::Y => self.y,
            spec::MEMORY => u16::try_from(self.memory / BANK).unwrap_or(u16::MAX),
            _ => 0,
        }
    }

    /// Writes register `index`. Whatever is written, the mode that is shown afterwards lies in memory.
    pub(super) fn write(&mut self, index: u16, value: u16) -> Effect {
        match index {
            spec::ID if (spec::ID_FIRST..=spec::ID_LAST).contains(&value) => self.id = value,
            spec::WIDTH => self.width = value,
            spec::HEIGHT => self.height = value,
            spec::DEPTH => self.depth = if value == 0 { 8 } else { value },
            spec::BANK => {
                let banks = (self.memory / BANK).max(1);
                self.bank = (usize::from(value) % banks) as u16;
            }
            spec::VIRTUAL_WIDTH => self.virtual_width = value,
            spec::X => self.x = value,
            spec::Y => self.y = value,
            spec::ENABLE => return self.enable(value),
            _ => {}
        }
        if self.enable & spec::ENABLED != 0 {
            self.fit();
        }
        Effect::None
    }

    fn enable(&mut self, value: u16) -> Effect {
        let begins = value & !self.enable & spec::ENABLED != 0;
        self.enable = value;
        if !begins {
            return Effect::None;
        }
        (self.bank, self.x, self.y) = (0, 0, 0);
        self.virtual_width = self.width;
        self.fit();
        let size = bytes(self.virtual_width.into(), self.depth) * usize::from(self.height);
        if value & spec::KEEP == 0 { Effect::Clear(size) } else { Effect::None }
    }

    /// Makes the mode one that exists and lies in memory.
    fn fit(&mut self) {
        if !matches!(self.depth, 4 | 8 | 15 | 16 | 24 | 32) {
            self.depth = 8;
        }
        self.width = (self.width & !7).clamp(8, spec::SIDE_MAX);
        // What is shown of a line lies in the line, with any offset.
        self.virtual_width = (self.virtual_width & !7).clamp(self.width, spec::SIDE_MAX * 2);
        self.x = self.x.min(self.virtual_width - self.width) & !7;
        let pitch = bytes(self.virtual_width.into(), self.depth);
        let lines = u16::try_from(self.memory / pitch.max(1)).unwrap_or(u16::MAX);
        self.height = self.height.clamp(1, spec::SIDE_MAX).min(lines.max(1));
        self.y = self.y.min(lines.saturating_sub(self.height));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    const MEMORY: usize = 16 << 20;

    #[test]
    fn a_mode_is_set_as_drivers_do() {
        let mut dispi = Dispi::new(MEMORY);
        assert_eq!((dispi.read(spec::ID), dispi.read(spec::MEMORY)), (0xb0c5, 256));
        assert_eq!(dispi.mode(), None);
        for (index, value) in [(spec::DEPTH, 32), (spec::WIDTH, 1024), (spec::HEIGHT, 768)] {
            assert_eq!(dispi.write(index, value), Effect::None);
        }
        assert_eq!(dispi.write(spec::ENABLE, 0x41), Effect::Clear(1024 * 768 * 4));
        let mode = LinearMode { width: 1024, height: 768, depth: 32, pitch: 4096, start: 0 };
        assert_eq!(dispi.mode(), Some(mode));
        assert_eq!(dispi.read(spec::VIRTUAL_HEIGHT), 4096);
        dispi.write(spec::Y, 100);
        assert_eq!(dispi.mode().unwrap().start, 409_600);
        assert_eq!(dispi.write(spec::ENABLE, 0xc1), Effect::None);
        dispi.write(spec::ENABLE, 3);
        assert_eq!((dispi.read(spec::WIDTH), dispi.read(spec::DEPTH)), (4096, 32));
        dispi.write(spec::ENABLE, 0);
        assert_eq!((dispi.mode(), dispi.read(spec::WIDTH)), (None, 1024));
    }

    #[test]
    fn whatever_is_written_lies_in_memory() {
        let mut random = Random::new(3);
        let mut dispi = Dispi::new(MEMORY);
        for _ in 0..100_000 {
            let value = (random.next() >> random.below(16)) as u16;
            dispi.write(random.below(12) as u16, value);
            let _ = dispi.read(random.below(12) as u16);
            assert!(dispi.banked(0xffff).unwrap() < MEMORY);
            let Some(mode) = dispi.mode() else { continue };
            let end = mode.start + mode.pitch * (mode.height - 1) + bytes(mode.width, mode.depth);
            assert!(end <= MEMORY, "{mode:?}");
        }
    }
}
