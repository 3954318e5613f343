//! Xen's ELF notes (Xen, public/elfnote.h): how a kernel wants to be started by a hypervisor.

use super::{Elf, SegmentKind};
use crate::bytes::{printable, u32_at};
use std::collections::BTreeMap;
use std::fmt;

/// The types of Xen's notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum XenNote {
    /// Free information.
    Info = 0,
    /// Virtual address of the paravirtual entry point.
    Entry = 1,
    /// Virtual address of the page to fill with hypercall stubs.
    HypercallPage = 2,
    /// Virtual address that the physical address 0 is mapped to.
    VirtBase = 3,
    /// What to subtract from ELF physical addresses.
    PaddrOffset = 4,
    /// The Xen version the kernel was written for.
    XenVersion = 5,
    /// Name of the operating system.
    GuestOs = 6,
    /// Version of the operating system.
    GuestVersion = 7,
    /// Kind of loader expected.
    Loader = 8,
    /// Whether PAE is needed (32-bit kernels).
    PaeMode = 9,
    /// Features required (with `!`) and supported, as text.
    Features = 10,
    /// Whether the symbol table is wanted.
    BsdSymtab = 11,
    /// Lowest virtual address the hypervisor may use.
    HvStartLow = 12,
    /// Mask and value that tell a valid level-1 machine frame.
    L1MfnValid = 13,
    /// Whether suspending can be cancelled.
    SuspendCancel = 14,
    /// Virtual address for the physical-to-machine table.
    InitP2m = 15,
    /// Whether module (initrd) is given by frame number.
    ModStartPfn = 16,
    /// Features supported, as bits.
    SupportedFeatures = 17,
    /// Physical address of the 32-bit entry: the PVH entry point.
    Phys32Entry = 18,
    /// The PVH kernel can be moved: alignment, least and largest address.
    Phys32Reloc = 19,
}

impl XenNote {
    const ALL: [Self; 20] = [
        Self::Info,
        Self::Entry,
        Self::HypercallPage,
        Self::VirtBase,
        Self::PaddrOffset,
        Self::XenVersion,
        Self::GuestOs,
        Self::GuestVersion,
        Self::Loader,
        Self::PaeMode,
        Self::Features,
        Self::BsdSymtab,
        Self::HvStartLow,
        Self::L1MfnValid,
        Self::SuspendCancel,
        Self::InitP2m,
        Self::ModStartPfn,
        Self::SupportedFeatures,
        Self::Phys32Entry,
        Self::Phys32Reloc,
    ];

    /// The note's name as in the header, without its prefix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Entry => "ENTRY",
            Self::HypercallPage => "HYPERCALL_PAGE",
            Self::VirtBase => "VIRT_BASE",
            Self::PaddrOffset => "PADDR_OFFSET",
            Self::XenVersion => "XEN_VERSION",
            Self::GuestOs => "GUEST_OS",
            Self::GuestVersion => "GUEST_VERSION",
            Self::Loader => "LOADER",
            Self::PaeMode => "PAE_MODE",
            Self::Features => "FEATURES",
            Self::BsdSymtab => "BSD_SYMTAB",
            Self::HvStartLow => "HV_START_LOW",
            Self::L1MfnValid => "L1_MFN_VALID",
            Self::SuspendCancel => "SUSPEND_CANCEL",
            Self::InitP2m => "INIT_P2M",
            Self::ModStartPfn => "MOD_START_PFN",
            Self::SupportedFeatures => "SUPPORTED_FEATURES",
            Self::Phys32Entry => "PHYS32_ENTRY",
            Self::Phys32Reloc => "PHYS32_RELOC",
        }
    }

    fn is_text(self) -> bool {
        matches!(
            self,
            Self::Info
                | Self::XenVersion
                | Self::GuestOs
                | Self::GuestVersion
                | Self::Loader
                | Self::PaeMode
                | Self::Features
                | Self::BsdSymtab
        )
    }
}

/// The value of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XenValue {
    /// A string.
    Text(String),
    /// Numbers: one in most notes, two in `L1_MFN_VALID`, three in `PHYS32_RELOC`.
    Numbers(Vec<u64>),
}

impl fmt::Display for XenValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Numbers(numbers) => {
                for (index, number) in numbers.iter().enumerate() {
                    let separator = if index == 0 { "" } else { " " };
                    write!(f, "{separator}{number:#x}")?;
                }
                Ok(())
            }
        }
    }
}

/// A kernel's Xen notes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XenNotes(BTreeMap<XenNote, XenValue>);

impl XenNotes {
    /// Reads the notes of `elf`. Damaged and unknown notes are left out: a kernel without a note it
    /// needs is refused by whoever needs it.
    pub fn parse(bytes: &[u8], elf: &Elf) -> Self {
        let mut notes = Self::default();
        for segment in &elf.segments {
            if segment.kind == SegmentKind::Note {
                notes.add(segment.bytes(bytes));
            }
        }
        notes
    }

    /// Adds those of a segment.
    pub(super) fn add(&mut self, segment: &[u8]) {
        read_notes(segment, &mut self.0);
    }

    /// The number in `note`.
    pub fn number(&self, note: XenNote) -> Option<u64> {
        match self.0.get(&note)? {
            XenValue::Numbers(numbers) => numbers.first().copied(),
            XenValue::Text(_) => None,
        }
    }

    /// The text in `note`.
    pub fn text(&self, note: XenNote) -> Option<&str> {
        match self.0.get(&note)? {
            XenValue::Text(text) => Some(text),
            XenValue::Numbers(_) => None,
        }
    }

    /// The value of `note`.
    pub fn get(&self, note: XenNote) -> Option<&XenValue> {
        self.0.get(&note)
    }

    /// All notes, by type.
    pub fn iter(&self) -> impl Iterator<Item = (XenNote, &XenValue)> {
        self.0.iter().map(|(note, value)| (*note, value))
    }

    /// The physical address of the PVH entry point, if there is one.
    pub fn pvh_entry(&self) -> Option<u32> {
        self.number(XenNote::Phys32Entry).and_then(|entry| u32::try_from(entry).ok())
    }

    /// Whether there is no note at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Notes are padded to four bytes, also in 64-bit Linux files.
fn padded(length: u32) -> Option<usize> {
    usize::try_from(length).ok()?.checked_next_multiple_of(4)
}

fn read_notes(mut rest: &[u8], notes: &mut BTreeMap<XenNote, XenValue>) {
    while let Some((name, kind, value, length)) = read_note(rest) {
        if name == b"Xen\0"
            && let Some(note) = XenNote::ALL.into_iter().find(|note| *note as u32 == kind)
            && let Some(value) = read_value(note, value)
        {
            notes.insert(note, value);
        }
        rest = &rest[length.min(rest.len())..];
    }
}

/// The first note of `bytes`: name, type, value, and the bytes it takes.
fn read_note(bytes: &[u8]) -> Option<(&[u8], u32, &[u8], usize)> {
    let (name_size, value_size, kind) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?, u32_at(bytes, 8)?);
    let value_at = padded(name_size)?.checked_add(12)?;
    let end = value_at.checked_add(padded(value_size)?)?;
    let name = bytes.get(12..)?.get(..usize::try_from(name_size).ok()?)?;
    let value = bytes.get(value_at..)?.get(..usize::try_from(value_size).ok()?)?;
    Some((name, kind, value, end))
}

fn read_value(note: XenNote, value: &[u8]) -> Option<XenValue> {
    if note.is_text() {
        let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
        return Some(XenValue::Text(printable(&value[..end.min(1024)])));
    }
    let word = match value.len() {
        8 | 16 => 8,
        4 | 12 => 4,
        _ => return None,
    };
    let number = |chunk: &[u8]| {
        chunk.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    Some(XenValue::Numbers(value.chunks_exact(word).map(number).collect()))
}
