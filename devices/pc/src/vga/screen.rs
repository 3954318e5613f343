//! What a monitor on this adapter would show.

use super::dispi::LinearMode;
use super::registers::{Registers, spec};
use super::text;
use ambos_memory::DeviceMemory;

/// A picture of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    /// Dots of a line.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// Red, green and blue of each dot, from the top left on.
    pub rgb: Vec<u8>,
    /// The characters of each row, if the screen shows characters.
    pub text: Option<Vec<String>>,
}

impl Screen {
    /// A dark screen.
    pub(super) fn dark(width: usize, height: usize) -> Self {
        Self { width, height, rgb: vec![0; width * height * 3], text: None }
    }
}

/// The screen as registers and memory say; `linear` is the mode of Bochs's interface, if one is shown.
pub(super) fn picture(
    registers: &Registers,
    linear: Option<LinearMode>,
    memory: &DeviceMemory,
) -> Screen {
    match linear {
        Some(mode) => linear_picture(registers, mode, memory),
        None if registers.is_text() => text::picture(registers, memory),
        None => graphics_picture(registers, memory),
    }
}

/// Widens a component of `bits` bits to eight.
fn widen(value: u32, bits: u32) -> u8 {
    let value = value & ((1 << bits) - 1);
    (value << (8 - bits) | value >> (2 * bits - 8)) as u8
}

fn linear_picture(registers: &Registers, mode: LinearMode, memory: &DeviceMemory) -> Screen {
    let LinearMode { width, height, depth, pitch, start } = mode;
    let mut screen = Screen::dark(width, height);
    let palette: [[u8; 3]; 256] =
        std::array::from_fn(|index| registers.palette.colour(index as u8));
    let mut line = vec![0; pitch];
    for (row, dots) in screen.rgb.chunks_exact_mut(width * 3).enumerate() {
        memory.read(start + row * pitch, &mut line);
        let (dots, _) = dots.as_chunks_mut::<3>();
        match depth {
            4 => {
                for (index, dot) in dots.iter_mut().enumerate() {
                    *dot = registers.colour(planar(&line, index));
                }
            }
            8 => {
                for (dot, value) in dots.iter_mut().zip(&line) {
                    *dot = palette[usize::from(*value)];
                }
            }
            15 | 16 => {
                // Five bits each, or six for green.
                let green = depth - 10;
                for (dot, value) in dots.iter_mut().zip(line.as_chunks::<2>().0) {
                    let value = u32::from(u16::from_le_bytes(*value));
                    let (red, middle) = (value >> (5 + green), value >> 5);
                    *dot = [widen(red, 5), widen(middle, green.into()), widen(value, 5)];
                }
            }
            _ => {
                for (dot, value) in dots.iter_mut().zip(line.chunks_exact(usize::from(depth / 8))) {
                    *dot = [value[2], value[1], value[0]];
                }
            }
        }
    }
    screen
}

/// Dot `index` of a line whose bytes are those of the four planes in turn.
fn planar(line: &[u8], index: usize) -> u8 {
    let group = line.get(index / 8 * 4..).unwrap_or_default();
    let bit = 7 - index % 8;
    group.iter().take(4).enumerate().fold(0, |dot, (plane, byte)| dot | (byte >> bit & 1) << plane)
}

/// How dots lie in the bytes of a line.
#[derive(Clone, Copy)]
enum Shift {
    /// A bit in each plane.
    Planar,
    /// Two bits each, in planes 0 and 1 by turns.
    Pairs,
    /// A byte each.
    Bytes,
}

fn graphics_picture(registers: &Registers, memory: &DeviceMemory) -> Screen {
    /// Lines are shown twice.
    const DOUBLED: u8 = 1 << 7;
    /// Odd rows lie 8 KiB behind even ones.
    const ROW_BIT_AS_IT_IS: u8 = 1 << 0;
    let crtc = &registers.crtc;
    let shift = match registers.graphics[spec::GFX_MODE] >> 5 & 3 {
        0 => Shift::Planar,
        1 => Shift::Pairs,
        _ => Shift::Bytes,
    };
    let characters = usize::from(crtc[spec::CRTC_WIDTH]) + 1;
    let width = characters * if matches!(shift, Shift::Bytes) { 4 } else { 8 };
    let row = crtc[spec::CRTC_ROW];
    // CGA's modes show two rows of memory in one row of the controller.
    let interleaved = crtc[spec::CRTC_MODE] & ROW_BIT_AS_IT_IS == 0;
    let repeats = if interleaved { 1 } else { usize::from(row & 0x1f) + 1 };
    let repeats = repeats * if row & DOUBLED != 0 { 2 } else { 1 };
    let height = (registers.lines() / repeats).max(1);
    let mut screen = Screen::dark(width, height);
    if !registers.is_on() {
        return screen;
    }
    let pitch = usize::from(crtc[spec::CRTC_OFFSET]) * 8;
    let start = registers.crtc_word(spec::CRTC_START) * 4;
    let split = registers.split() / repeats;
    let mut line = vec![0; characters * 16];
    for (number, dots) in screen.rgb.chunks_exact_mut(width * 3).enumerate() {
        let (first, number) =
            if number > split { (0, number - split - 1) } else { (start, number) };
        let offset = if interleaved {
            first + number / 2 * pitch + (number & 1) * 0x2000 * 2
        } else {
            first + number * pitch
        };
        memory.read(offset, &mut line);
        for (index, dot) in dots.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            *dot = match shift {
                Shift::Planar => {
                    let shown = registers.attributes[spec::ATTR_PLANES];
                    registers.colour(planar(&line, index) & shown)
                }
                Shift::Pairs => {
                    let byte = line[index / 8 * 4 + ((index / 4) & 1)];
                    registers.colour(byte >> (6 - index % 4 * 2) & 3)
                }
                Shift::Bytes => registers.palette.colour(line[index]),
            };
        }
    }
    screen
}
