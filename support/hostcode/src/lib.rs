//! Running host instructions on a guest's behalf: the home of most `unsafe`.
//!
//! - [`alu`]: single integer instructions executed on the host, flags included.
//! - [`heap`]: how the host's allocator keeps large tables.
//! - [`low`]: words that code reaches without a register.
//! - [`prefer_large_pages`]: advice for memory that is filled at once.
//! - [`mem`]: loads, stores, atomics and string instructions on raw host addresses.
//! - [`arena`]: executable memory, written through one mapping and executed through another (W^X).
//! - [`guard`]: calls into generated code whose faults come back as values.
//! - [`stage`]: memory of which parts fault.
//! - [`signals`]: preparing a thread for code that owns the stack pointer.
//! - [`views`]: pages of a file, seen where another address space has them.
//! - [`windows`]: memory whose first part is seen at several addresses.
//!
//! Nothing here knows of guests, machines or instruction encodings.
#![expect(unsafe_code, reason = "this crate exists to confine it")]

pub mod alu;
pub mod arena;
pub mod guard;
pub mod heap;
mod large;
pub mod low;
pub mod mem;
pub mod signals;
pub mod stage;
pub mod views;
pub mod windows;

pub use alu::Word;
pub use arena::{Arena, ArenaError};
pub use guard::{HostFault, ThunkFrame};
pub use large::{make_large, prefer_large_pages};
pub use low::LowWord;
pub use stage::Stage;
pub use views::View;

/// The MXCSR bits that the processor has.
pub fn mxcsr_mask() -> u32 {
    static MASK: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *MASK.get_or_init(|| {
        #[repr(C, align(16))]
        struct Image([u8; 512]);
        let mut image = Image([0; 512]);
        // SAFETY: every x86-64 processor has FXSAVE; the image has its size and alignment.
        unsafe { std::arch::x86_64::_fxsave64(image.0.as_mut_ptr()) };
        let mask = u32::from_le_bytes([image.0[28], image.0[29], image.0[30], image.0[31]]);
        // Processors that do not say have all bits but denormals-are-zeros.
        if mask == 0 { 0xffbf } else { mask }
    })
}
pub use windows::Windows;
