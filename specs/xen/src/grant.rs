//! Grant tables (`public/grant_table.h`).

/// Operations.
pub mod op {
    /// Map a foreign frame.
    pub const MAP_GRANT_REF: u64 = 0;
    /// Unmap it.
    pub const UNMAP_GRANT_REF: u64 = 1;
    /// Make the table so many frames and say where they are.
    pub const SETUP_TABLE: u64 = 2;
    /// Print the table.
    pub const DUMP_TABLE: u64 = 3;
    /// Give a page to a domain that asked for one.
    pub const TRANSFER: u64 = 4;
    /// Copy between domains.
    pub const COPY: u64 = 5;
    /// Size of the table.
    pub const QUERY_SIZE: u64 = 6;
    /// Unmap and replace.
    pub const UNMAP_AND_REPLACE: u64 = 7;
    /// Choose the layout.
    pub const SET_VERSION: u64 = 8;
    /// Where the status frames are.
    pub const GET_STATUS_FRAMES: u64 = 9;
    /// Which layout.
    pub const GET_VERSION: u64 = 10;
    /// Swap two entries.
    pub const SWAP_GRANT_REF: u64 = 11;
    /// Clean the cache.
    pub const CACHE_FLUSH: u64 = 12;
}

/// Status codes, which stand in the structures.
pub mod status {
    /// Done.
    pub const OKAY: i16 = 0;
    /// Undefined error.
    pub const GENERAL_ERROR: i16 = -1;
    /// No such domain.
    pub const BAD_DOMAIN: i16 = -2;
    /// No such grant.
    pub const BAD_GNTREF: i16 = -3;
    /// No such handle.
    pub const BAD_HANDLE: i16 = -4;
    /// No such virtual address.
    pub const BAD_VIRT_ADDR: i16 = -5;
    /// No room for another mapping.
    pub const NO_DEVICE_SPACE: i16 = -7;
    /// Not permitted.
    pub const PERMISSION_DENIED: i16 = -8;
    /// Not a page of the guest.
    pub const BAD_PAGE: i16 = -9;
    /// Copies cross a page.
    pub const BAD_COPY_ARG: i16 = -10;
}

/// Flags of a mapping.
pub mod map {
    /// For devices.
    pub const DEVICE: u32 = 1;
    /// For the processor.
    pub const HOST: u32 = 1 << 1;
    /// Read-only.
    pub const READONLY: u32 = 1 << 2;
    /// For user mode.
    pub const APPLICATION: u32 = 1 << 3;
    /// The address is that of an entry of a page table, not that of the page.
    pub const CONTAINS_PTE: u32 = 1 << 4;
    /// Where the flags begin that go into the bits of the entry that are left to the guest.
    pub const AVAILABLE_SHIFT: u32 = 16;
}

/// Flags of an entry.
pub mod flag {
    /// The kind of grant.
    pub const TYPE_MASK: u16 = 3;
    /// Invalid.
    pub const INVALID: u16 = 0;
    /// The frame may be mapped or accessed.
    pub const PERMIT_ACCESS: u16 = 1;
    /// A frame is accepted.
    pub const ACCEPT_TRANSFER: u16 = 2;
    /// Access is read-only.
    pub const READONLY: u16 = 1 << 2;
    /// Someone reads it.
    pub const READING: u16 = 1 << 3;
    /// Someone writes it.
    pub const WRITING: u16 = 1 << 4;
    /// Only a part of the page, in layout 2.
    pub const SUB_PAGE: u16 = 1 << 8;
}

/// Bytes of an entry of layout 1: flags, domain, frame.
pub const V1_ENTRY: u64 = 8;
/// Entries in a frame of layout 1.
pub const V1_PER_FRAME: u64 = 512;
/// Bytes of an entry of layout 2: flags, domain, offset and length of a part, frame.
pub const V2_ENTRY: u64 = 16;
/// Entries in a frame of layout 2.
pub const V2_PER_FRAME: u64 = 256;
/// Bytes of an entry's status in layout 2.
pub const V2_STATUS: u64 = 2;
/// Entries that a change of the layout keeps.
pub const RESERVED_ENTRIES: u32 = 8;
/// Entry that the domain builder makes for the console's page.
pub const RESERVED_CONSOLE: u32 = 0;
/// Entry that the domain builder makes for the store's page.
pub const RESERVED_XENSTORE: u32 = 1;
