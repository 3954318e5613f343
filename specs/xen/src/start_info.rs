//! What a PV kernel finds at its start (`struct start_info`, `public/xen.h`).

/// The magic text.
pub const MAGIC: usize = 0;
/// Pages the domain has.
pub const PAGES: usize = 32;
/// Machine address of the shared page.
pub const SHARED_INFO: usize = 40;
/// Flags.
pub const FLAGS: usize = 48;
/// Frame of the store's page.
pub const STORE_MFN: usize = 56;
/// Event channel of the store.
pub const STORE_EVTCHN: usize = 64;
/// Frame of the console's page.
pub const CONSOLE_MFN: usize = 72;
/// Event channel of the console.
pub const CONSOLE_EVTCHN: usize = 80;
/// Virtual address of the top-level page table.
pub const PT_BASE: usize = 88;
/// Frames of the initial page tables.
pub const PT_FRAMES: usize = 96;
/// Virtual address of the list of frames.
pub const MFN_LIST: usize = 104;
/// Virtual address, or frame, of the module.
pub const MOD_START: usize = 112;
/// Bytes of the module.
pub const MOD_LENGTH: usize = 120;
/// The command line.
pub const COMMAND_LINE: usize = 128;
/// Bytes of the command line with its NUL.
pub const MAX_COMMAND_LINE: usize = 1024;
/// First frame of the list of frames, where the list is not in the initial mapping.
pub const FIRST_P2M_PFN: usize = 1152;
/// Frames of the list.
pub const P2M_FRAMES: usize = 1160;
/// Bytes.
pub const SIZE: usize = 1168;

/// Flag: [`MOD_START`] is a frame.
pub const MOD_START_PFN: u32 = 1 << 3;
