//! Screens of characters.

use super::registers::{Registers, spec};
use super::{font, screen::Screen};
use ambos_memory::DeviceMemory;

/// Attribute mode: the ninth dot of box characters repeats the eighth.
const LINE_GRAPHICS: u8 = 1 << 2;
/// Attribute mode: the highest bit of an attribute blinks instead of brightening the background.
const BLINK: u8 = 1 << 3;
/// Attribute mode: characters may be underlined.
const MONOCHROME: u8 = 1 << 1;

/// Offset in plane 2 of the character set that `select` of the font register names.
fn font_offset(select: u8) -> usize {
    // Sets 0 to 3 lie 16 KiB apart, sets 4 to 7 in between.
    usize::from(select & 3) * 0x4000 + usize::from(select >> 2 & 1) * 0x2000
}

/// The two character sets: for a clear and a set bit 3 of the attribute.
fn fonts(registers: &Registers) -> [usize; 2] {
    let font = registers.sequencer[spec::SEQ_FONT];
    let clear = font & 3 | font >> 2 & 4;
    let set = font >> 2 & 3 | font >> 3 & 4;
    [font_offset(clear), font_offset(set)]
}

/// The screen.
pub(super) fn picture(registers: &Registers, memory: &DeviceMemory) -> Screen {
    const CURSOR_OFF: u8 = 1 << 5;
    let crtc = &registers.crtc;
    let nine = registers.sequencer[spec::SEQ_CLOCKING] & spec::EIGHT_DOTS == 0;
    let dots = if nine { 9 } else { 8 };
    let columns = usize::from(crtc[spec::CRTC_WIDTH]) + 1;
    let cell_height = usize::from(crtc[spec::CRTC_ROW] & 0x1f) + 1;
    let rows = (registers.lines() / cell_height).max(1);
    let (width, height) = (columns * dots, rows * cell_height);
    let mut screen = Screen::dark(width, height);
    if !registers.is_on() {
        return screen;
    }

    let mode = registers.attributes[spec::ATTR_MODE];
    let colours: [[u8; 3]; 16] = std::array::from_fn(|index| registers.colour(index as u8));
    let fonts = fonts(registers);
    let start = registers.crtc_word(spec::CRTC_START);
    let pitch = usize::from(crtc[spec::CRTC_OFFSET]) * 2;
    let cursor = (crtc[spec::CRTC_CURSOR_START] & CURSOR_OFF == 0)
        .then(|| registers.crtc_word(spec::CRTC_CURSOR));
    let cursor_lines = usize::from(crtc[spec::CRTC_CURSOR_START] & 0x1f)
        ..=usize::from(crtc[spec::CRTC_CURSOR_END] & 0x1f);
    let underline = usize::from(crtc[spec::CRTC_UNDERLINE] & 0x1f);
    let mut text = Vec::with_capacity(rows);
    for row in 0..rows {
        let mut characters = String::with_capacity(columns);
        for column in 0..columns {
            // The controller counts in 16 bits.
            let place = (start + row * pitch + column) & 0xffff;
            let [character, attribute, ..] = memory.load(place * 4);
            characters.push(font::meaning(character));
            let background = if mode & BLINK != 0 { attribute >> 4 & 7 } else { attribute >> 4 };
            let foreground = colours[usize::from(attribute & 0xf)];
            let background = colours[usize::from(background)];
            let glyph =
                fonts[usize::from(attribute >> 3 & 1)] + usize::from(character) * font::STRIDE;
            for line in 0..cell_height {
                let mut bits = u16::from(memory.load((glyph + line) * 4)[2]) << 1;
                if mode & LINE_GRAPHICS != 0 && (0xc0..=0xdf).contains(&character) {
                    bits |= bits >> 1 & 1;
                }
                let underlined = mode & MONOCHROME != 0 && attribute & 7 == 1 && line == underline;
                if underlined || cursor == Some(place) && cursor_lines.contains(&line) {
                    bits = 0x1ff;
                }
                let first = ((row * cell_height + line) * width + column * dots) * 3;
                for (dot, rgb) in
                    screen.rgb[first..][..dots * 3].as_chunks_mut::<3>().0.iter_mut().enumerate()
                {
                    *rgb = if bits >> (8 - dot) & 1 != 0 { foreground } else { background };
                }
            }
        }
        text.push(characters);
    }
    screen.text = Some(text);
    screen
}
