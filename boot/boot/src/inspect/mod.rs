//! What a kernel file supports, for people ([`std::fmt::Display`]) and programs
//! ([`serde::Serialize`]).
//!
//! A [`Report`] says what kind of file it is, by which protocols it boots, and for each technique
//! whether it can run under it and which of the drivers that matter it has. Drivers are known from
//! the kernel's configuration, which some kernels carry inside and distributions put beside them.

mod kconfig;
mod techniques;
mod text;

pub use kconfig::{ConfigSource, KernelConfig, OptionState};
pub use techniques::{Driver, Technique, TechniqueReport, Verdict};

use crate::image::{
    BzImage, Compression, ElfClass, ImageError, ImageKind, KernelImage, Vmlinux, XLoadFlags,
    XenNotes,
};
use crate::protocol::Protocol;
use serde::{Serialize, Serializer};
use std::path::Path;

/// What kind a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A Linux bzImage.
    BzImage,
    /// A 64-bit ELF executable.
    Elf64,
    /// A 32-bit ELF executable.
    Elf32,
    /// A flat file with a Multiboot header.
    Flat,
}

/// A boot protocol and whether the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProtocolReport {
    /// The protocol.
    #[serde(serialize_with = "as_text")]
    pub protocol: Protocol,
    /// Whether the kernel can be booted by it.
    pub supported: bool,
    /// Where it is entered, or why not.
    pub detail: String,
}

/// A Xen note as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NoteReport {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

/// What a kernel file supports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file's name as given.
    pub file: String,
    /// Its size in bytes.
    pub size: u64,
    /// What kind it is.
    pub kind: FileKind,
    /// Version of Linux's boot protocol ("2.15"); bzImage only.
    pub setup_version: Option<String>,
    /// How the kernel proper is packed; bzImage only.
    #[serde(serialize_with = "as_optional_text")]
    pub compression: Option<Compression>,
    /// Size of the kernel proper in bytes.
    pub unpacked_size: Option<u64>,
    /// Why the kernel proper cannot be unpacked.
    pub unpack_error: Option<String>,
    /// The kernel's own words about its version.
    pub version: Option<String>,
    /// Its release ("6.1.0-51-amd64").
    pub release: Option<String>,
    /// The longest command line in bytes; bzImage only.
    pub command_line_max: Option<u32>,
    /// Boot protocols.
    pub protocols: Vec<ProtocolReport>,
    /// Xen notes.
    pub xen_notes: Vec<NoteReport>,
    /// Where the kernel's configuration was found.
    pub config: Option<ConfigSource>,
    /// What the techniques find.
    pub techniques: Vec<TechniqueReport>,
}

fn as_text<S: Serializer>(value: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn as_optional_text<S: Serializer>(
    value: &Option<impl ToString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}

/// Inspects the kernel file at `path`, looking for its configuration inside it, beside it and in
/// the usual place.
///
/// # Errors
///
/// [`ImageError`] if the file cannot be read or is no kernel. A kernel whose payload cannot be
/// unpacked is reported, with the reason.
pub fn inspect(path: &Path) -> Result<Report, ImageError> {
    let image = KernelImage::open(path)?;
    Ok(examine(&image, |release| KernelConfig::beside(path, release)))
}

/// Inspects `image`; `find_config` looks for the configuration of a release where the image has
/// none inside.
pub fn examine(
    image: &KernelImage,
    find_config: impl FnOnce(Option<&str>) -> Option<KernelConfig>,
) -> Report {
    let (vmlinux, unpack_error) = match image.vmlinux() {
        Ok(vmlinux) => (vmlinux, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let bzimage = match image.kind() {
        ImageKind::BzImage(bzimage) => Some(bzimage),
        ImageKind::Elf(_) | ImageKind::Flat => None,
    };
    // The setup header's text is the banner without the compiler.
    let version = bzimage.and_then(BzImage::version_text).map(str::to_owned);
    let version = version.or_else(|| vmlinux.as_ref()?.banner());
    let release = version.as_deref().and_then(release).map(str::to_owned);
    let notes = vmlinux.as_ref().map(Vmlinux::xen_notes).unwrap_or_default();
    let embedded = vmlinux.as_ref().and_then(|vmlinux| KernelConfig::embedded(&vmlinux.bytes));
    let config = match embedded {
        None if version.is_some() => find_config(release.as_deref()),
        embedded => embedded,
    };
    let protocols = protocols(image, vmlinux.as_ref(), &notes, unpack_error.is_some());
    let facts = techniques::Facts {
        protocols: &protocols,
        notes: &notes,
        is_linux: version.is_some(),
        elf64: vmlinux.as_ref().is_some_and(|vmlinux| vmlinux.elf.class == ElfClass::Elf64),
        unpacked: unpack_error.is_none(),
        config: config.as_ref(),
    };
    Report {
        file: image.name().to_owned(),
        size: image.bytes().len() as u64,
        kind: match image.kind() {
            ImageKind::BzImage(_) => FileKind::BzImage,
            ImageKind::Elf(elf) if elf.class == ElfClass::Elf64 => FileKind::Elf64,
            ImageKind::Elf(_) => FileKind::Elf32,
            ImageKind::Flat => FileKind::Flat,
        },
        setup_version: bzimage.map(|bzimage| {
            let (major, minor) = bzimage.protocol();
            format!("{major}.{minor:02}")
        }),
        compression: bzimage
            .and_then(|bzimage| Compression::detect(bzimage.payload(image.bytes()).ok()?)),
        unpacked_size: vmlinux.as_ref().map(|vmlinux| vmlinux.bytes.len() as u64),
        command_line_max: bzimage.map(BzImage::command_line_max),
        techniques: Technique::ALL.map(|technique| technique.judge(&facts)).into(),
        xen_notes: notes
            .iter()
            .map(|(note, value)| NoteReport { name: note.name(), value: value.to_string() })
            .collect(),
        config: config.map(|config| config.source().clone()),
        unpack_error,
        version,
        release,
        protocols,
    }
}

/// The release in a banner or a setup header's version string.
fn release(version: &str) -> Option<&str> {
    version.strip_prefix("Linux version ").unwrap_or(version).split_whitespace().next()
}

fn protocols(
    image: &KernelImage,
    vmlinux: Option<&Vmlinux<'_>>,
    notes: &XenNotes,
    packed: bool,
) -> Vec<ProtocolReport> {
    let report = |protocol, found: Result<String, &str>| ProtocolReport {
        protocol,
        supported: found.is_ok(),
        detail: found.unwrap_or_else(str::to_owned),
    };
    let linux64 = match image.kind() {
        ImageKind::BzImage(bzimage) if bzimage.x_load_flags().contains(XLoadFlags::KERNEL_64) => {
            Ok(format!("loaded at {:#x}, entered at +0x200", { bzimage.header().pref_address }))
        }
        ImageKind::BzImage(_) => Err("no 64-bit entry point"),
        ImageKind::Elf(elf) if elf.class == ElfClass::Elf64 => match elf.physical_entry() {
            Some(entry) if vmlinux.and_then(Vmlinux::banner).is_some() => {
                Ok(format!("entry at {entry:#x}"))
            }
            Some(_) => Err("not a Linux kernel"),
            None => Err("its entry point lies outside its segments"),
        },
        ImageKind::Elf(_) => Err("a 32-bit ELF file"),
        ImageKind::Flat => Err("not a Linux kernel"),
    };
    let pvh = match notes.pvh_entry() {
        Some(entry) => Ok(format!("entry at {entry:#x}")),
        None if packed => Err("unknown: the kernel cannot be unpacked"),
        None => Err("no PHYS32_ENTRY note"),
    };
    let multiboot = match image.multiboot() {
        Some(header) if header.unknown_requirements() != 0 => {
            Err("its header demands unknown features")
        }
        Some(header) => Ok(format!("header at {:#x}", header.offset)),
        None => Err("no Multiboot header"),
    };
    vec![
        report(Protocol::Pvh, pvh),
        report(Protocol::Linux64, linux64),
        report(Protocol::Multiboot, multiboot),
    ]
}

#[cfg(test)]
mod tests;
