//! The Multiboot header (Multiboot Specification 0.6.96, section 3.1).

use crate::bytes::{array_at, u32_at};

const MAGIC: u32 = 0x1bad_b002;
/// The header lies within this many bytes of the file's start.
const SEARCH: usize = 8192;
const FLAG_PAGE_ALIGN: u32 = 1 << 0;
const FLAG_MEMORY_INFO: u32 = 1 << 1;
const FLAG_VIDEO: u32 = 1 << 2;
const FLAG_ADDRESSES: u32 = 1 << 16;
/// A loader that does not know one of these must not go on.
const REQUIREMENTS: u32 = 0xffff;

/// A Multiboot header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultibootHeader {
    /// Where in the file it is.
    pub offset: u32,
    /// Its flags.
    pub flags: u32,
    /// Load addresses, for files that are not ELF or ask for it.
    pub addresses: Option<MultibootAddresses>,
}

/// The header's address fields; all physical.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultibootAddresses {
    /// Where the header itself belongs.
    pub header: u32,
    /// Start of what is loaded from the file.
    pub load: u32,
    /// End of what is loaded; zero: to the end of the file.
    pub load_end: u32,
    /// End of the zeroed area behind it; zero: there is none.
    pub bss_end: u32,
    /// Entry point.
    pub entry: u32,
}

impl MultibootHeader {
    /// Finds the header in a file.
    pub fn find(bytes: &[u8]) -> Option<Self> {
        let area = &bytes[..bytes.len().min(SEARCH)];
        (0..area.len()).step_by(4).find_map(|offset| Self::read(area, offset))
    }

    fn read(area: &[u8], offset: usize) -> Option<Self> {
        let [magic, flags, checksum] =
            [u32_at(area, offset)?, u32_at(area, offset + 4)?, u32_at(area, offset + 8)?];
        if magic != MAGIC || magic.wrapping_add(flags).wrapping_add(checksum) != 0 {
            return None;
        }
        let addresses = if flags & FLAG_ADDRESSES != 0 {
            let fields: [u8; 20] = array_at(area, offset + 12)?;
            Some(MultibootAddresses {
                header: u32_at(&fields, 0)?,
                load: u32_at(&fields, 4)?,
                load_end: u32_at(&fields, 8)?,
                bss_end: u32_at(&fields, 12)?,
                entry: u32_at(&fields, 16)?,
            })
        } else {
            None
        };
        Some(Self { offset: u32::try_from(offset).ok()?, flags, addresses })
    }

    /// Requirements that no loader of this specification knows: flags 3 to 15.
    pub fn unknown_requirements(&self) -> u32 {
        self.flags & REQUIREMENTS & !(FLAG_PAGE_ALIGN | FLAG_MEMORY_INFO | FLAG_VIDEO)
    }

    /// Whether the kernel asks for a video mode, which it will not get: it is told that there is
    /// none.
    pub fn wants_video(&self) -> bool {
        self.flags & FLAG_VIDEO != 0
    }
}
