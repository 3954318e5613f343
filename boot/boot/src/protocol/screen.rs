//! What Linux is told of the screen that it starts with (`struct screen_info`,
//! Documentation/arch/x86/zero-page.rst and include/uapi/linux/screen_info.h).

use ambos_pc_map::memory;
use linux_loader::loader::bootparam::screen_info;

/// What the display adapter shows when the kernel starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Display {
    /// 80 × 25 characters of a VGA.
    Text,
    /// A frame buffer with 32 bits for each dot, in the adapter's memory.
    Linear {
        /// Dots of a line.
        width: u16,
        /// Lines.
        height: u16,
    },
}

/// The description of `display`.
pub(super) fn info(display: Display) -> screen_info {
    /// `orig_video_isVGA`: a VGA in text mode.
    const VGA: u8 = 0x01;
    /// `orig_video_isVGA`: a linear frame buffer.
    const LINEAR: u8 = 0x23;
    /// VESA's attributes of a mode: supported, colour, graphics, linear.
    const ATTRIBUTES: u16 = 0x9b;
    match display {
        Display::Text => screen_info {
            orig_video_mode: 3,
            orig_video_cols: 80,
            orig_video_lines: 25,
            orig_video_isVGA: VGA,
            orig_video_points: 16,
            ..screen_info::default()
        },
        Display::Linear { width, height } => screen_info {
            orig_video_isVGA: LINEAR,
            lfb_width: width,
            lfb_height: height,
            lfb_depth: 32,
            lfb_base: memory::DISPLAY_MEMORY as u32,
            // In units of 64 KiB.
            lfb_size: (memory::DISPLAY_MEMORY_SIZE >> 16) as u32,
            lfb_linelength: width.saturating_mul(4),
            red_size: 8,
            red_pos: 16,
            green_size: 8,
            green_pos: 8,
            blue_size: 8,
            blue_pos: 0,
            rsvd_size: 8,
            rsvd_pos: 24,
            pages: 1,
            vesa_attributes: ATTRIBUTES,
            ..screen_info::default()
        },
    }
}
