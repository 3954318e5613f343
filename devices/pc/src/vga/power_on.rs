//! What firmware leaves in a VGA: 80 × 25 characters (mode 3), a blank screen, a font.
//!
//! There is no firmware here, but kernels count on what it does.

use super::font;
use ambos_memory::DeviceMemory;

/// Miscellaneous output.
pub(super) const MISC: u8 = 0x67;
/// Sequencer.
pub(super) const SEQUENCER: [u8; 5] = [0x03, 0x00, 0x03, 0x00, 0x02];
/// Graphics controller.
pub(super) const GRAPHICS: [u8; 9] = [0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff];
/// CRT controller: 720 × 400 dots.
pub(super) const CRTC: [u8; 25] = [
    0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00,
    0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
];
/// Attribute controller.
pub(super) const ATTRIBUTES: [u8; 21] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
    0x0c, 0x00, 0x0f, 0x08, 0x00,
];

/// `values`, and zeroes.
pub(super) fn extend<const N: usize>(values: &[u8]) -> [u8; N] {
    std::array::from_fn(|index| values.get(index).copied().unwrap_or(0))
}

/// Fills the memory: spaces in light grey, and the font in plane 2.
pub(super) fn fill(memory: &DeviceMemory) {
    /// As many characters as the window has.
    const CELLS: usize = 0x4000;
    memory.clear();
    for cell in 0..CELLS {
        let line = font::line((cell / font::STRIDE) as u8, cell % font::STRIDE);
        let glyphs = cell < 256 * font::STRIDE;
        memory.store(cell * 4, [b' ', 0x07, if glyphs { line } else { 0 }, 0]);
    }
}
