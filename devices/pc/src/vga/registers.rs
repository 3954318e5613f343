//! The registers of a VGA, as its ports show them.

use super::palette::Palette;
use super::power_on;

/// Registers (IBM VGA XGA Technical Reference Manual, May 1992, section 2).
pub(super) mod spec {
    /// Sequencer: clocking mode.
    pub(in super::super) const SEQ_CLOCKING: usize = 1;
    /// Sequencer: which planes are written.
    pub(in super::super) const SEQ_MAP_MASK: usize = 2;
    /// Sequencer: which two character sets are shown.
    pub(in super::super) const SEQ_FONT: usize = 3;
    /// Sequencer: memory mode.
    pub(in super::super) const SEQ_MEMORY: usize = 4;
    /// Clocking mode: characters are eight dots wide, not nine.
    pub(in super::super) const EIGHT_DOTS: u8 = 1 << 0;
    /// Clocking mode: the screen is off.
    pub(in super::super) const SCREEN_OFF: u8 = 1 << 5;
    /// Memory mode: no odd and even planes.
    pub(in super::super) const SEQUENTIAL: u8 = 1 << 2;
    /// Memory mode: all four planes are chained.
    pub(in super::super) const CHAIN_4: u8 = 1 << 3;

    /// Graphics: what planes are set or reset to.
    pub(in super::super) const GFX_SET_RESET: usize = 0;
    /// Graphics: which planes are set or reset.
    pub(in super::super) const GFX_SET_RESET_ENABLE: usize = 1;
    /// Graphics: the colour that is compared with.
    pub(in super::super) const GFX_COMPARE: usize = 2;
    /// Graphics: rotation and logical function.
    pub(in super::super) const GFX_ROTATE: usize = 3;
    /// Graphics: the plane that is read.
    pub(in super::super) const GFX_READ_MAP: usize = 4;
    /// Graphics: write mode, read mode, shift mode.
    pub(in super::super) const GFX_MODE: usize = 5;
    /// Graphics: graphics or text, and where the window is.
    pub(in super::super) const GFX_MISC: usize = 6;
    /// Graphics: which planes take part in a comparison.
    pub(in super::super) const GFX_COMPARE_CARE: usize = 7;
    /// Graphics: which bits are written.
    pub(in super::super) const GFX_BIT_MASK: usize = 8;
    /// Graphics mode: reads go to odd and even planes.
    pub(in super::super) const ODD_EVEN: u8 = 1 << 4;
    /// Graphics misc: graphics, not text.
    pub(in super::super) const GRAPHICS: u8 = 1 << 0;

    /// CRT controller: last shown character of a line.
    pub(in super::super) const CRTC_WIDTH: usize = 0x01;
    /// CRT controller: high bits of vertical values.
    pub(in super::super) const CRTC_OVERFLOW: usize = 0x07;
    /// CRT controller: last line of a row, and a bit of the line compare.
    pub(in super::super) const CRTC_ROW: usize = 0x09;
    /// CRT controller: first line of the cursor, and whether it is off.
    pub(in super::super) const CRTC_CURSOR_START: usize = 0x0a;
    /// CRT controller: last line of the cursor.
    pub(in super::super) const CRTC_CURSOR_END: usize = 0x0b;
    /// CRT controller: where the screen begins (two registers, high byte first).
    pub(in super::super) const CRTC_START: usize = 0x0c;
    /// CRT controller: where the cursor is (two registers, high byte first).
    pub(in super::super) const CRTC_CURSOR: usize = 0x0e;
    /// CRT controller: protects registers 0 to 7, besides the vertical retrace's end.
    pub(in super::super) const CRTC_PROTECT: usize = 0x11;
    /// CRT controller: last shown line.
    pub(in super::super) const CRTC_HEIGHT: usize = 0x12;
    /// CRT controller: from one row to the next.
    pub(in super::super) const CRTC_OFFSET: usize = 0x13;
    /// CRT controller: where underlines are.
    pub(in super::super) const CRTC_UNDERLINE: usize = 0x14;
    /// CRT controller: addressing.
    pub(in super::super) const CRTC_MODE: usize = 0x17;
    /// CRT controller: the line from which memory is shown from its beginning.
    pub(in super::super) const CRTC_LINE_COMPARE: usize = 0x18;

    /// Attributes: mode.
    pub(in super::super) const ATTR_MODE: usize = 0x10;
    /// Attributes: which planes are shown.
    pub(in super::super) const ATTR_PLANES: usize = 0x12;
    /// Attributes: high bits of colours.
    pub(in super::super) const ATTR_COLOUR: usize = 0x14;

    /// Miscellaneous output: the CRT controller is at 3D4h, not at 3B4h.
    pub(in super::super) const MISC_COLOUR: u8 = 1 << 0;
    /// Attribute index: the palette belongs to the display.
    pub(in super::super) const PALETTE_SHOWN: u8 = 1 << 5;
}

/// First port; offsets are counted from it.
pub(super) const FIRST_PORT: u16 = 0x3b0;

/// The registers.
#[derive(Debug, Clone)]
pub(super) struct Registers {
    pub(super) misc: u8,
    pub(super) sequencer: [u8; 8],
    pub(super) graphics: [u8; 16],
    pub(super) crtc: [u8; 32],
    pub(super) attributes: [u8; 32],
    pub(super) palette: Palette,
    feature: u8,
    sequencer_index: u8,
    graphics_index: u8,
    crtc_index: u8,
    attribute_index: u8,
    /// The next write of the attributes' port is a value.
    attribute_value: bool,
    /// What status register 1 said last.
    retrace: u8,
}

impl Registers {
    /// As firmware leaves them: 80 × 25 characters.
    pub(super) fn new() -> Self {
        Self {
            misc: power_on::MISC,
            sequencer: power_on::extend(&power_on::SEQUENCER),
            graphics: power_on::extend(&power_on::GRAPHICS),
            crtc: power_on::extend(&power_on::CRTC),
            attributes: power_on::extend(&power_on::ATTRIBUTES),
            palette: Palette::new(),
            feature: 0,
            sequencer_index: 0,
            graphics_index: 0,
            crtc_index: 0,
            attribute_index: spec::PALETTE_SHOWN,
            attribute_value: false,
            retrace: 0,
        }
    }

    /// Whether anything but darkness is shown.
    pub(super) fn is_on(&self) -> bool {
        let off = self.sequencer[spec::SEQ_CLOCKING] & spec::SCREEN_OFF != 0;
        !off && self.attribute_index & spec::PALETTE_SHOWN != 0
    }

    /// Whether characters are shown.
    pub(super) fn is_text(&self) -> bool {
        self.graphics[spec::GFX_MISC] & spec::GRAPHICS == 0
    }

    /// Reads a port; nobody answers in part of the range.
    pub(super) fn read(&mut self, port: u16) -> u8 {
        let colour = self.misc & spec::MISC_COLOUR != 0;
        match port {
            0x3b4 | 0x3b5 | 0x3ba if colour => 0xff,
            0x3d4 | 0x3d5 | 0x3da if !colour => 0xff,
            0x3b4 | 0x3d4 => self.crtc_index,
            0x3b5 | 0x3d5 => self.crtc[usize::from(self.crtc_index & 0x1f)],
            0x3ba | 0x3da => {
                /// In a retrace, and nothing is displayed.
                const RETRACE: u8 = 1 << 3 | 1 << 0;
                self.attribute_value = false;
                // Software waits for a retrace to begin and to end.
                self.retrace ^= RETRACE;
                self.retrace
            }
            0x3c0 => self.attribute_index,
            0x3c1 => self.attributes[usize::from(self.attribute_index & 0x1f)],
            0x3c2 => 0,
            0x3c4 => self.sequencer_index,
            0x3c5 => self.sequencer[usize::from(self.sequencer_index & 7)],
            0x3c6..=0x3c9 => self.palette.read(port),
            0x3ca => self.feature,
            0x3cc => self.misc,
            0x3ce => self.graphics_index,
            0x3cf => self.graphics[usize::from(self.graphics_index & 0xf)],
            _ => 0xff,
        }
    }

    /// Writes a port.
    pub(super) fn write(&mut self, port: u16, value: u8) {
        let colour = self.misc & spec::MISC_COLOUR != 0;
        match port {
            0x3b4 | 0x3b5 | 0x3ba if colour => {}
            0x3d4 | 0x3d5 | 0x3da if !colour => {}
            0x3b4 | 0x3d4 => self.crtc_index = value & 0x3f,
            0x3b5 | 0x3d5 => self.write_crtc(value),
            0x3ba | 0x3da => self.feature = value & 0x10,
            0x3c0 if !self.attribute_value => {
                self.attribute_index = value & 0x3f;
                self.attribute_value = true;
            }
            0x3c0 => {
                self.attributes[usize::from(self.attribute_index & 0x1f)] = value;
                self.attribute_value = false;
            }
            0x3c2 => self.misc = value & 0xef,
            0x3c4 => self.sequencer_index = value & 7,
            0x3c5 => self.sequencer[usize::from(self.sequencer_index & 7)] = value,
            0x3c6..=0x3c9 => self.palette.write(port, value),
            0x3ce => self.graphics_index = value & 0xf,
            0x3cf => self.graphics[usize::from(self.graphics_index & 0xf)] = value,
            _ => {}
        }
    }

    fn write_crtc(&mut self, value: u8) {
        /// Protects registers 0 to 7.
        const PROTECT: u8 = 1 << 7;
        /// The bit of the overflow register that is never protected: of the line compare.
        const FREE: u8 = 1 << 4;
        let index = usize::from(self.crtc_index & 0x1f);
        let protected = self.crtc[spec::CRTC_PROTECT] & PROTECT != 0;
        let register = &mut self.crtc[index];
        match index {
            spec::CRTC_OVERFLOW if protected => *register = *register & !FREE | value & FREE,
            0..spec::CRTC_OVERFLOW if protected => {}
            _ => *register = value,
        }
    }

    /// A value of which the CRT controller keeps bit 8 and bit 9 elsewhere.
    fn tall(&self, low: usize, bit_8: (usize, u8), bit_9: (usize, u8)) -> usize {
        let bit = |(register, bit): (usize, u8)| usize::from(self.crtc[register] >> bit & 1);
        usize::from(self.crtc[low]) | bit(bit_8) << 8 | bit(bit_9) << 9
    }

    /// Lines that are shown.
    pub(super) fn lines(&self) -> usize {
        let overflow = spec::CRTC_OVERFLOW;
        self.tall(spec::CRTC_HEIGHT, (overflow, 1), (overflow, 6)) + 1
    }

    /// The line after which memory is shown from its beginning.
    pub(super) fn split(&self) -> usize {
        self.tall(spec::CRTC_LINE_COMPARE, (spec::CRTC_OVERFLOW, 4), (spec::CRTC_ROW, 6))
    }

    /// Two registers of the CRT controller, high byte first.
    pub(super) fn crtc_word(&self, index: usize) -> usize {
        usize::from(self.crtc[index]) << 8 | usize::from(self.crtc[index + 1])
    }

    /// The colour of the display's 16 that `index` stands for.
    pub(super) fn colour(&self, index: u8) -> [u8; 3] {
        /// Bits 4 and 5 of a colour come from the colour select register.
        const SELECT: u8 = 1 << 7;
        let value = self.attributes[usize::from(index & 0xf)] & 0x3f;
        let high = self.attributes[spec::ATTR_COLOUR];
        let entry = if self.attributes[spec::ATTR_MODE] & SELECT != 0 {
            value & 0xf | (high & 0xf) << 4
        } else {
            value | (high & 0xc) << 4
        };
        self.palette.colour(entry)
    }
}
