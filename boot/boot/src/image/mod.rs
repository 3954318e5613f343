//! Kernel files: what kind one is and what it says of itself.
//!
//! [`KernelImage`] recognises three kinds. A *bzImage* is what distributions ship: a setup header,
//! a decompressor, and the compressed kernel proper ([`KernelImage::vmlinux`] unpacks it). An *ELF*
//! file is such a kernel unpacked, or somebody's own operating system. A *flat* file is neither,
//! but has a Multiboot header that says where to put it.
//!
//! Files are untrusted: every offset is checked against what is there, and unpacking is bounded.
//! Placing a kernel in guest memory is the business of [`crate::protocol`].

mod bzimage;
mod elf;
mod loadable;
mod lz4;
mod multiboot;
mod notes;
mod payload;

pub use bzimage::{BzImage, LoadFlags, XLoadFlags};
pub(crate) use loadable::{Loadable, Way};

pub use elf::{Elf, ElfClass, ProgramHeader, SegmentKind};
pub use multiboot::{MultibootAddresses, MultibootHeader};
pub use notes::{XenNote, XenNotes, XenValue};
pub use payload::{Compression, MAX_UNPACKED, unpack};

use crate::bytes::find;
use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use thiserror::Error;

/// The largest kernel file that is read.
pub const MAX_FILE: u64 = 1 << 30;

/// Why a kernel file is unusable.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error("cannot read the kernel file '{path}'; check its name and permissions")]
    Read {
        /// The name as given.
        path: String,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than [`MAX_FILE`].
    #[error("the kernel file '{path}' is larger than {limit} bytes; is it a disk image?", limit = MAX_FILE)]
    TooLarge {
        /// The name as given.
        path: String,
    },
    /// No known signature.
    #[error(
        "the file is neither a bzImage nor an x86 ELF kernel nor a Multiboot image; \
         give a kernel such as /boot/vmlinuz"
    )]
    Unknown,
    /// The file ends before what its header announces.
    #[error("the kernel file is truncated: {what} ends at byte {end} of {have}; copy it again")]
    Truncated {
        /// What is cut off.
        what: &'static str,
        /// Where it should end.
        end: u64,
        /// Bytes there are.
        have: u64,
    },
    /// A field has an impossible value.
    #[error("the kernel file is damaged: {what} is {value:#x}; copy or build it again")]
    Damaged {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// The boot protocol is from before it knew compressed payloads or 64-bit entries.
    #[error(
        "the kernel's boot protocol {major}.{minor:02} is too old: {needed} or later is needed \
         (Linux 2.6.26 of 2008); give a newer kernel"
    )]
    OldProtocol {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
        /// The least version.
        needed: &'static str,
    },
    /// The ELF file is for another machine.
    #[error("the ELF file is for another processor (machine type {0}); give an x86 kernel")]
    Machine(u16),
    /// The ELF file is not executable.
    #[error(
        "the ELF file is not an executable (type {0}) but an object or core file; link it first"
    )]
    NotExecutable(u16),
    /// The payload's compression is known but not supported.
    #[error(
        "the kernel is compressed with {0}, which is not supported; \
         give one compressed with gzip, xz, lzma, lz4 or zstd, or its vmlinux"
    )]
    UnsupportedCompression(Compression),
    /// The payload's compression is not recognised.
    #[error("the kernel's payload begins with {0:02x?}, no known compression; give its vmlinux")]
    UnknownCompression([u8; 4]),
    /// The payload cannot be unpacked.
    #[error("the kernel's {compression} payload is damaged ({reason}); copy the file again")]
    Unpack {
        /// How it is compressed.
        compression: Compression,
        /// What the decompressor says.
        reason: String,
    },
    /// The payload unpacks to more than [`MAX_UNPACKED`].
    #[error("the kernel's payload unpacks to more than {limit} bytes; give another kernel", limit = MAX_UNPACKED)]
    UnpacksTooLarge,
}

/// A kernel file in memory.
#[derive(Debug, Clone)]
pub struct KernelImage {
    name: String,
    bytes: Vec<u8>,
    kind: ImageKind,
    multiboot: Option<MultibootHeader>,
}

/// What kind a kernel file is.
#[derive(Debug, Clone)]
pub enum ImageKind {
    /// A Linux bzImage.
    BzImage(BzImage),
    /// An ELF executable.
    Elf(Elf),
    /// Neither, but with a Multiboot header that gives load addresses.
    Flat,
}

impl KernelImage {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// [`ImageError`] if it cannot be read or is no kernel.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ImageError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let read = |source| ImageError::Read { path: name.clone(), source };
        let file = File::open(path).map_err(read)?;
        let size = file.metadata().map_or(0, |metadata| metadata.len().min(MAX_FILE));
        // With room for the read that finds the end.
        let mut bytes = Vec::with_capacity(size as usize + 64);
        ambos_hostcode::prefer_large_pages(bytes.spare_capacity_mut());
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(ImageError::TooLarge { path: name });
        }
        Self::parse(name, bytes)
    }

    /// Recognises `bytes`; `name` is what the file is called to the guest (Multiboot tells it) and
    /// in reports.
    ///
    /// # Errors
    ///
    /// [`ImageError`] if it is no kernel or its headers are damaged.
    pub fn parse(name: impl Into<String>, bytes: Vec<u8>) -> Result<Self, ImageError> {
        let name = name.into();
        if let Some(bzimage) = BzImage::parse(&bytes)? {
            return Ok(Self { name, bytes, kind: ImageKind::BzImage(bzimage), multiboot: None });
        }
        let multiboot = MultibootHeader::find(&bytes);
        let kind = match Elf::parse(&bytes)? {
            Some(elf) => ImageKind::Elf(elf),
            None if multiboot.as_ref().is_some_and(|header| header.addresses.is_some()) => {
                ImageKind::Flat
            }
            None => return Err(ImageError::Unknown),
        };
        Ok(Self { name, bytes, kind, multiboot })
    }

    /// The file's name as given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What kind of file it is.
    pub fn kind(&self) -> &ImageKind {
        &self.kind
    }

    /// The Multiboot header, if there is one. A bzImage is not searched for one.
    pub fn multiboot(&self) -> Option<&MultibootHeader> {
        self.multiboot.as_ref()
    }

    /// The kernel proper as an ELF file: unpacked from a bzImage, or the file itself. `None` for a
    /// flat image. Unpacking takes a noticeable part of a second and is not remembered, because the
    /// result is large.
    ///
    /// # Errors
    ///
    /// [`ImageError`] if the payload cannot be unpacked or is no ELF file.
    pub fn vmlinux(&self) -> Result<Option<Vmlinux<'_>>, ImageError> {
        match &self.kind {
            ImageKind::BzImage(bzimage) => {
                let bytes = unpack(bzimage.payload(&self.bytes)?)?;
                let elf = Elf::parse(&bytes)?.ok_or(ImageError::Damaged {
                    what: "the ELF signature of the unpacked kernel",
                    value: bytes.first_chunk().map_or(0, |magic| u32::from_le_bytes(*magic)).into(),
                })?;
                Ok(Some(Vmlinux { bytes: Cow::Owned(bytes), elf }))
            }
            ImageKind::Elf(elf) => {
                Ok(Some(Vmlinux { bytes: Cow::Borrowed(&self.bytes), elf: elf.clone() }))
            }
            ImageKind::Flat => Ok(None),
        }
    }
}

/// A kernel proper: an ELF file and what its headers say.
#[derive(Debug)]
pub struct Vmlinux<'a> {
    /// The file's content.
    pub bytes: Cow<'a, [u8]>,
    /// Its headers.
    pub elf: Elf,
}

impl Vmlinux<'_> {
    /// Its Xen notes; empty if it has none.
    pub fn xen_notes(&self) -> XenNotes {
        XenNotes::parse(&self.bytes, &self.elf)
    }

    /// Linux's banner ("Linux version …"), if it is Linux.
    pub fn banner(&self) -> Option<String> {
        // The format string for /proc/version begins alike; the banner goes on with a number.
        let prefix = b"Linux version ";
        let mut from = 0;
        while let Some(found) = find(self.bytes.get(from..)?, prefix) {
            let text = &self.bytes[from + found..];
            if text.get(prefix.len()).is_some_and(u8::is_ascii_digit) {
                let line = &text[..text.len().min(512)];
                let end = line.iter().position(|&byte| byte == b'\n' || byte == 0);
                return Some(crate::bytes::printable(&line[..end.unwrap_or(line.len())]));
            }
            from += found + prefix.len();
        }
        None
    }
}

#[cfg(test)]
mod tests;
