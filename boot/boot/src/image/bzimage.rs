//! The setup header of a bzImage (Linux, Documentation/arch/x86/boot.rst).

use super::ImageError;
use crate::bytes::{array_at, range, text_at, u8_at, u16_at, u32_at};
use bitflags::bitflags;
use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

/// Where the setup header begins in the file and in the zero page.
pub(crate) const HEADER_OFFSET: usize = 0x1f1;
/// Bytes of the setup header that are understood.
const HEADER_LEN: usize = size_of::<setup_header>();
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
const SECTOR: usize = 512;

bitflags! {
    /// `loadflags`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct LoadFlags: u8 {
        /// The protected-mode code belongs at 1 MiB (a bzImage, not a zImage).
        const LOADED_HIGH = 1 << 0;
        /// The kernel moved itself (internal).
        const KASLR = 1 << 1;
        /// Print no early messages.
        const QUIET = 1 << 5;
        /// Do not reload segment registers in the 32-bit entry.
        const KEEP_SEGMENTS = 1 << 6;
        /// `heap_end_ptr` is valid.
        const CAN_USE_HEAP = 1 << 7;
    }
}

bitflags! {
    /// `xloadflags`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct XLoadFlags: u16 {
        /// There is a 64-bit entry at offset 0x200.
        const KERNEL_64 = 1 << 0;
        /// Kernel, zero page, command line and initrd may be above 4 GiB.
        const CAN_BE_LOADED_ABOVE_4G = 1 << 1;
        /// 32-bit EFI hand-over entry.
        const EFI_HANDOVER_32 = 1 << 2;
        /// 64-bit EFI hand-over entry.
        const EFI_HANDOVER_64 = 1 << 3;
        /// kexec with EFI runtime support.
        const EFI_KEXEC = 1 << 4;
        /// The kernel knows 5-level page tables.
        const FIVE_LEVEL = 1 << 5;
        /// The kernel has 5-level page tables enabled.
        const FIVE_LEVEL_ENABLED = 1 << 6;
    }
}

/// What a bzImage's setup header says.
#[derive(Debug, Clone)]
pub struct BzImage {
    header: setup_header,
    version_text: Option<String>,
}

impl BzImage {
    /// Reads the setup header; `None` if `bytes` is no Linux kernel with one.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, ImageError> {
        if u16_at(bytes, 0x1fe) != Some(BOOT_FLAG) || u32_at(bytes, 0x202) != Some(MAGIC) {
            return Ok(None);
        }
        // The header ends where the jump at 0x200 goes to; what an old kernel lacks reads as zero.
        let jump = u8_at(bytes, 0x201).unwrap_or(0);
        let end = (0x202 + usize::from(jump)).min(HEADER_OFFSET + HEADER_LEN);
        let have = bytes.len() as u64;
        let source = bytes.get(HEADER_OFFSET..end).ok_or(ImageError::Truncated {
            what: "the setup header",
            end: end as u64,
            have,
        })?;
        let mut raw = [0; HEADER_LEN];
        raw[..source.len()].copy_from_slice(source);
        let header = *setup_header::from_slice(&raw).ok_or(ImageError::Unknown)?;
        let [minor, major] = header.version.to_le_bytes();
        if header.version < 0x0208 {
            return Err(ImageError::OldProtocol { major, minor, needed: "2.08" });
        }
        let image = Self { header, version_text: None };
        if !image.load_flags().contains(LoadFlags::LOADED_HIGH) {
            let value = image.header.loadflags.into();
            return Err(ImageError::Damaged { what: "the setup header's loadflags", value });
        }
        image.code(bytes)?;
        let pointer = usize::from(image.header.kernel_version);
        let version_text = match pointer {
            0 => None,
            pointer => {
                text_at(&bytes[..image.code_offset().min(bytes.len())], pointer + 0x200, 256)
            }
        };
        Ok(Some(Self { version_text, ..image }))
    }

    /// The raw header.
    pub fn header(&self) -> &setup_header {
        &self.header
    }

    /// The boot protocol's version: major, minor.
    pub fn protocol(&self) -> (u8, u8) {
        let [minor, major] = self.header.version.to_le_bytes();
        (major, minor)
    }

    /// `loadflags`.
    pub fn load_flags(&self) -> LoadFlags {
        LoadFlags::from_bits_retain(self.header.loadflags)
    }

    /// `xloadflags`; empty before protocol 2.12.
    pub fn x_load_flags(&self) -> XLoadFlags {
        match self.header.version {
            ..0x020c => XLoadFlags::empty(),
            _ => XLoadFlags::from_bits_retain(self.header.xloadflags),
        }
    }

    /// The kernel's version string ("6.1.0 (builder) #1 …").
    pub fn version_text(&self) -> Option<&str> {
        self.version_text.as_deref()
    }

    /// The largest command line in bytes, without the terminating NUL.
    pub fn command_line_max(&self) -> u32 {
        self.header.cmdline_size
    }

    /// Offset in the file of the protected-mode code (which has the 64-bit entry at 0x200).
    pub fn code_offset(&self) -> usize {
        // Zero means four for historical reasons.
        let sectors = match self.header.setup_sects {
            0 => 4,
            sectors => usize::from(sectors),
        };
        (sectors + 1) * SECTOR
    }

    /// The protected-mode code.
    ///
    /// # Errors
    ///
    /// [`ImageError::Truncated`] if the file is shorter than `syssize` says.
    pub fn code<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], ImageError> {
        let start = self.code_offset() as u64;
        let length = u64::from(self.header.syssize) * 16;
        // syssize counts 16-byte units; the last one may be incomplete.
        let have = bytes.len() as u64;
        let end = start + length;
        if length == 0 || have + 15 < end || have <= start {
            return Err(ImageError::Truncated { what: "the protected-mode code", end, have });
        }
        range(bytes, start, length.min(have - start)).ok_or(ImageError::Truncated {
            what: "the protected-mode code",
            end,
            have,
        })
    }

    /// The compressed kernel.
    ///
    /// # Errors
    ///
    /// [`ImageError::Truncated`] if it is not all there.
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], ImageError> {
        let code = self.code(bytes)?;
        let (offset, length) = (self.header.payload_offset, self.header.payload_length);
        if length == 0 {
            return Err(ImageError::Damaged { what: "the payload's length", value: 0 });
        }
        range(code, offset.into(), length.into()).ok_or(ImageError::Truncated {
            what: "the payload",
            end: self.code_offset() as u64 + u64::from(offset) + u64::from(length),
            have: bytes.len() as u64,
        })
    }
}

/// The first bytes of a payload, for error messages.
pub(crate) fn signature(payload: &[u8]) -> [u8; 4] {
    array_at(payload, 0).unwrap_or_default()
}
