//! Guest physical memory.
//!
//! A guest's RAM is one memfd, mapped shared, in up to two regions: below the 32-bit PCI hole and
//! above 4 GiB; a display adapter's memory ([`DeviceMemory`]) follows in the same file. Devices and
//! loaders use RAM through [`vm_memory`]'s traits ([`GuestRam::memory`]); engines, which reach it for
//! every guest access, use [`GuestRam::host_page`] and the per-page [`PageFlags`].

mod device_memory;
mod dma;
mod filling;
mod large_pages;
mod mapping;
mod page_flags;
mod ram;
mod words;

pub use device_memory::DeviceMemory;
pub use dma::{DmaRange, NotRam};
pub use page_flags::{PageFlags, Watch};
pub use ram::{GuestRam, MemoryError, PCI_HOLE_END, PCI_HOLE_START, Region};
pub use vm_memory::{
    Bytes, GuestAddress as GuestPhysAddr, GuestMemory, GuestMemoryBackend, GuestMemoryMmap,
    VolatileMemory, VolatileSlice,
};
pub use words::PAGE_WORDS;
