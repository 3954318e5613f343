//! ELF executables, 32- and 64-bit (System V ABI, chapters 4 and 5).

use super::ImageError;
use crate::bytes::{range, u8_at, u16_at, u32_at, u64_at};

const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const TYPE_EXEC: u16 = 2;
const TYPE_DYN: u16 = 3;
const LITTLE_ENDIAN: u8 = 1;
/// More program headers than any kernel has.
const MAX_HEADERS: u16 = 512;

/// Word size of an ELF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElfClass {
    /// 32-bit.
    Elf32,
    /// 64-bit.
    Elf64,
}

/// What a program header describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// Bytes to load (`PT_LOAD`).
    Load,
    /// Notes (`PT_NOTE`).
    Note,
    /// Something that does not matter to a loader.
    Other(u32),
}

/// A program header. The range in the file has been checked to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramHeader {
    /// What it describes.
    pub kind: SegmentKind,
    /// Offset of its bytes in the file.
    pub offset: u64,
    /// Virtual address.
    pub virtual_address: u64,
    /// Physical address.
    pub physical_address: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes in memory; what the file does not have is zero.
    pub memory_size: u64,
    /// Alignment.
    pub align: u64,
}

impl ProgramHeader {
    /// Its bytes in the file.
    pub fn bytes<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        range(file, self.offset, self.file_size).unwrap_or_default()
    }
}

/// The headers of an ELF executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// Word size.
    pub class: ElfClass,
    /// Entry point as the header has it.
    pub entry: u64,
    /// Program headers, in the file's order.
    pub segments: Vec<ProgramHeader>,
}

impl Elf {
    /// Reads the headers; `None` if `bytes` is no ELF file.
    ///
    /// # Errors
    ///
    /// [`ImageError`] if it is for another machine, not executable, or damaged.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, ImageError> {
        Self::parse_start(bytes, bytes.len() as u64)
    }

    /// Reads the headers of a file of `size` bytes, of which `bytes` are the first.
    pub(super) fn parse_start(bytes: &[u8], size: u64) -> Result<Option<Self>, ImageError> {
        if !bytes.starts_with(b"\x7fELF") {
            return Ok(None);
        }
        let truncated =
            || ImageError::Truncated { what: "the ELF header", end: 64, have: bytes.len() as u64 };
        let class = match u8_at(bytes, 4).ok_or_else(truncated)? {
            1 => ElfClass::Elf32,
            2 => ElfClass::Elf64,
            other => {
                return Err(ImageError::Damaged { what: "the ELF class", value: other.into() });
            }
        };
        let order = u8_at(bytes, 5).ok_or_else(truncated)?;
        let kind = u16_at(bytes, 16).ok_or_else(truncated)?;
        let machine = u16_at(bytes, 18).ok_or_else(truncated)?;
        let fits = match class {
            ElfClass::Elf32 => machine == MACHINE_386,
            // 32-bit code in a 64-bit file is odd but harmless.
            ElfClass::Elf64 => matches!(machine, MACHINE_X86_64 | MACHINE_386),
        };
        if order != LITTLE_ENDIAN || !fits {
            return Err(ImageError::Machine(machine));
        }
        if !matches!(kind, TYPE_EXEC | TYPE_DYN) {
            return Err(ImageError::NotExecutable(kind));
        }
        let read = || match class {
            ElfClass::Elf32 => Some((
                u32_at(bytes, 24)?.into(),
                u32_at(bytes, 28)?.into(),
                u16_at(bytes, 42)?,
                u16_at(bytes, 44)?,
            )),
            ElfClass::Elf64 => Some((
                u64_at(bytes, 24)?,
                u64_at(bytes, 32)?,
                u16_at(bytes, 54)?,
                u16_at(bytes, 56)?,
            )),
        };
        let (entry, table, entry_size, count) = read().ok_or_else(truncated)?;
        let segments = program_headers(bytes, size, class, table, entry_size, count)?;
        Ok(Some(Self { class, entry, segments }))
    }

    /// The segments to load.
    pub fn loads(&self) -> impl Iterator<Item = &ProgramHeader> {
        self.segments.iter().filter(|segment| segment.kind == SegmentKind::Load)
    }

    /// The physical address of the entry point. Linux's vmlinux gives a physical one; other kernels
    /// give a virtual one inside a segment, which tells the distance.
    pub fn physical_entry(&self) -> Option<u64> {
        let inside = |start: u64, segment: &ProgramHeader| {
            self.entry.checked_sub(start).filter(|offset| *offset < segment.memory_size)
        };
        let physical = self
            .loads()
            .find_map(|segment| inside(segment.physical_address, segment).map(|_| self.entry));
        physical.or_else(|| {
            self.loads().find_map(|segment| {
                let offset = inside(segment.virtual_address, segment)?;
                segment.physical_address.checked_add(offset)
            })
        })
    }
}

fn program_headers(
    bytes: &[u8],
    size: u64,
    class: ElfClass,
    table: u64,
    entry_size: u16,
    count: u16,
) -> Result<Vec<ProgramHeader>, ImageError> {
    let least = match class {
        ElfClass::Elf32 => 32,
        ElfClass::Elf64 => 56,
    };
    if count == 0 || count > MAX_HEADERS {
        let what = "the number of ELF program headers";
        return Err(ImageError::Damaged { what, value: count.into() });
    }
    if entry_size < least {
        let what = "the size of an ELF program header";
        return Err(ImageError::Damaged { what, value: entry_size.into() });
    }
    let length = u64::from(entry_size) * u64::from(count);
    let have = bytes.len() as u64;
    let headers = range(bytes, table, length).ok_or(ImageError::Truncated {
        what: "the ELF program header table",
        end: table.saturating_add(length),
        have,
    })?;
    let mut segments = Vec::with_capacity(count.into());
    for raw in headers.chunks_exact(entry_size.into()) {
        let segment = program_header(raw, class).ok_or(ImageError::Damaged {
            what: "the size of an ELF program header",
            value: entry_size.into(),
        })?;
        if segment.kind == SegmentKind::Load {
            check_load(&segment, size)?;
        }
        segments.push(segment);
    }
    if !segments.iter().any(|segment| segment.kind == SegmentKind::Load) {
        return Err(ImageError::Damaged { what: "the number of ELF segments to load", value: 0 });
    }
    Ok(segments)
}

fn program_header(raw: &[u8], class: ElfClass) -> Option<ProgramHeader> {
    let kind = match u32_at(raw, 0)? {
        1 => SegmentKind::Load,
        4 => SegmentKind::Note,
        other => SegmentKind::Other(other),
    };
    Some(match class {
        ElfClass::Elf32 => ProgramHeader {
            kind,
            offset: u32_at(raw, 4)?.into(),
            virtual_address: u32_at(raw, 8)?.into(),
            physical_address: u32_at(raw, 12)?.into(),
            file_size: u32_at(raw, 16)?.into(),
            memory_size: u32_at(raw, 20)?.into(),
            align: u32_at(raw, 28)?.into(),
        },
        ElfClass::Elf64 => ProgramHeader {
            kind,
            offset: u64_at(raw, 8)?,
            virtual_address: u64_at(raw, 16)?,
            physical_address: u64_at(raw, 24)?,
            file_size: u64_at(raw, 32)?,
            memory_size: u64_at(raw, 40)?,
            align: u64_at(raw, 48)?,
        },
    })
}

fn check_load(segment: &ProgramHeader, have: u64) -> Result<(), ImageError> {
    let end = segment.offset.saturating_add(segment.file_size);
    if end > have {
        return Err(ImageError::Truncated { what: "an ELF segment", end, have });
    }
    if segment.memory_size < segment.file_size {
        let what = "an ELF segment's size in memory, less than that in the file,";
        return Err(ImageError::Damaged { what, value: segment.memory_size });
    }
    if segment.physical_address.checked_add(segment.memory_size).is_none() {
        let what = "an ELF segment's physical address";
        return Err(ImageError::Damaged { what, value: segment.physical_address });
    }
    Ok(())
}
