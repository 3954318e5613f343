//! `memory_op` (`public/memory.h`).

/// Operations.
pub mod op {
    /// Add pages, anywhere.
    pub const INCREASE_RESERVATION: u64 = 0;
    /// Give pages back.
    pub const DECREASE_RESERVATION: u64 = 1;
    /// The machine's highest frame.
    pub const MAXIMUM_RAM_PAGE: u64 = 2;
    /// How many pages a domain has.
    pub const CURRENT_RESERVATION: u64 = 3;
    /// How many it may have.
    pub const MAXIMUM_RESERVATION: u64 = 4;
    /// Where the machine-to-physical table is, by frames.
    pub const MACHPHYS_MFN_LIST: u64 = 5;
    /// Add pages at given physical frames.
    pub const POPULATE_PHYSMAP: u64 = 6;
    /// Map a frame of Xen into the physical address space.
    pub const ADD_TO_PHYSMAP: u64 = 7;
    /// The domain's memory map.
    pub const MEMORY_MAP: u64 = 9;
    /// The machine's memory map.
    pub const MACHINE_MEMORY_MAP: u64 = 10;
    /// Swap pages for others.
    pub const EXCHANGE: u64 = 11;
    /// Where the machine-to-physical table is, by addresses.
    pub const MACHPHYS_MAPPING: u64 = 12;
    /// The highest physical frame.
    pub const MAXIMUM_GPFN: u64 = 14;
}

/// Bytes of `struct xen_memory_reservation`: list, count, order, flags, domain.
pub const RESERVATION_SIZE: u64 = 32;
/// Bytes of an entry of the memory map.
pub const MAP_ENTRY_SIZE: u64 = 20;
/// Usable memory in the map.
pub const MAP_RAM: u32 = 1;
