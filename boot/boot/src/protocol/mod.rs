//! Boot protocols: what a kernel finds in memory and registers when it starts.
//!
//! | protocol | takes | starts in |
//! |---|---|---|
//! | Linux 64-bit | bzImage, vmlinux | long mode, RSI = zero page |
//! | PVH | vmlinux (also from a bzImage) or any ELF file with the note | protected mode, EBX = start info |
//! | Multiboot v1 | ELF or flat file with the header | protected mode, EBX = information |
//!
//! | Xen PV | vmlinux (also from a bzImage) with Xen's notes | 64-bit mode under a hypervisor, RSI = start info |
//!
//! All but the last get the same PC: the memory map of [`MemoryMap`] and the tables of [`crate::acpi`].
//! What a protocol puts into memory is placed by [`Layout`] around the kernel's own segments.

mod cpu;
mod layout;
mod linux64;
mod memory_map;
mod multiboot;
mod pvh;
mod screen;
mod segments;
mod xen_pv;

pub use layout::Layout;
pub use memory_map::{MapEntry, MapKind, MemoryMap};
pub use screen::Display;
pub use xen_pv::{XenPvGuest, load as load_xen_pv};

use crate::acpi::{self, AcpiError};
use crate::image::{ElfClass, ImageError, ImageKind, KernelImage, Way};
use ambos_memory::GuestRam;
use ambos_vcpu::CpuState;
use std::fmt;
use thiserror::Error;

/// Which protocol to boot by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// The quickest one the kernel has: PVH, else Multiboot, else Linux 64-bit; for a bzImage on a machine with a
    /// display, Linux 64-bit with the kernel proper unpacked by the host.
    #[default]
    Auto,
    /// Linux's 64-bit boot protocol.
    Linux64,
    /// PVH.
    Pvh,
    /// Multiboot v1.
    Multiboot,
    /// A paravirtualized kernel of Xen's, started by [`load_xen_pv`].
    XenPv,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Linux64 => "linux64",
            Self::Pvh => "pvh",
            Self::Multiboot => "multiboot",
            Self::XenPv => "Xen PV",
        })
    }
}

/// A file given to a Multiboot kernel.
#[derive(Debug, Clone)]
pub struct Module {
    /// Its content.
    pub data: Vec<u8>,
    /// The text that comes with it: by custom its name and arguments.
    pub text: String,
}

/// A range of guest-physical memory that the guest must leave alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

/// What to boot and how. Large (it holds the files): drop it after [`load`].
#[derive(Debug, Clone)]
pub struct BootConfig {
    /// The kernel.
    pub kernel: KernelImage,
    /// Linux's initial RAM disk; the first module for Multiboot.
    pub initrd: Option<Vec<u8>>,
    /// Modules, for Multiboot only.
    pub modules: Vec<Module>,
    /// The kernel's command line.
    pub command_line: String,
    /// Number of vCPUs, 1 to [`acpi::MAX_CPUS`].
    pub cpus: u32,
    /// The protocol.
    pub protocol: Protocol,
    /// Memory to keep the guest from.
    pub reserved: Vec<Reserved>,
    /// What the display adapter shows, if there is one. Linux can be told by its own protocol only.
    pub display: Option<Display>,
}

impl BootConfig {
    /// Boots `kernel` on one vCPU, with nothing else.
    pub fn new(kernel: KernelImage) -> Self {
        Self {
            kernel,
            initrd: None,
            modules: Vec::new(),
            command_line: String::new(),
            cpus: 1,
            protocol: Protocol::Auto,
            reserved: Vec::new(),
            display: None,
        }
    }
}

/// Why a guest cannot be started.
#[derive(Debug, Error)]
pub enum BootError {
    /// The kernel file is unusable.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The tables cannot be built.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// The kernel does not have the protocol asked for.
    #[error("the kernel cannot be booted by the {protocol} protocol: {reason}")]
    Protocol {
        /// The protocol.
        protocol: Protocol,
        /// What is missing, and what to do.
        reason: &'static str,
    },
    /// The command line is longer than the kernel takes.
    #[error(
        "the command line has {length} bytes, but the kernel takes at most {limit}; shorten it"
    )]
    CommandLineTooLong {
        /// Its length.
        length: usize,
        /// The most.
        limit: usize,
    },
    /// The command line has a NUL byte, which would end it.
    #[error("the command line contains a NUL byte; remove it")]
    CommandLineNul,
    /// The kernel does not fit into RAM.
    #[error(
        "the kernel needs memory up to {end:#x}, but the guest has {ram_mib} MiB; \
         give it at least {needed_mib} MiB"
    )]
    KernelDoesNotFit {
        /// End of what the kernel needs.
        end: u64,
        /// RAM there is, in MiB.
        ram_mib: u64,
        /// RAM that would do, in MiB.
        needed_mib: u64,
    },
    /// There is no room for something besides the kernel.
    #[error(
        "there is no room for {what} of {size} bytes in {ram_mib} MiB of guest memory; {advice}"
    )]
    NoRoom {
        /// What.
        what: &'static str,
        /// Its size.
        size: u64,
        /// RAM there is, in MiB.
        ram_mib: u64,
        /// What to do.
        advice: &'static str,
    },
    /// A segment of the kernel lies where it may not.
    #[error(
        "the kernel wants to be loaded at {start:#x}-{end:#x}, which overlaps {with}; \
         link it to another address, such as 1 MiB"
    )]
    Overlap {
        /// First address.
        start: u64,
        /// End.
        end: u64,
        /// What is there.
        with: &'static str,
    },
    /// The entry point is not in the kernel.
    #[error("the kernel's entry point {0:#x} lies outside its segments; link it again")]
    Entry(u64),
    /// The kernel demands something of its loader that does not exist here.
    #[error("the kernel's Multiboot header demands unknown features (flags {0:#x}); clear them")]
    MultibootRequirements(u32),
    /// The address fields of the Multiboot header contradict each other.
    #[error("the kernel's Multiboot header is damaged: {0}; link the kernel again")]
    MultibootAddresses(&'static str),
    /// Guest memory refused a write that had been checked.
    #[error("cannot write {size} bytes of guest memory at {address:#x}")]
    Memory {
        /// Where.
        address: u64,
        /// How much.
        size: usize,
        /// The reason.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
}

/// Puts the kernel and all it is told into `ram` and returns the state of the first vCPU.
///
/// `ram` may hold the remains of an earlier run: what the guest may rely on is written anew.
///
/// # Errors
///
/// [`BootError`], a sentence that says what is wrong and how to mend it.
pub fn load(ram: &GuestRam, config: &BootConfig) -> Result<CpuState, BootError> {
    if config.command_line.as_bytes().contains(&0) {
        return Err(BootError::CommandLineNul);
    }
    config.kernel.by_any_way(|way| load_by(way, ram, config))
}

fn load_by(way: Way, ram: &GuestRam, config: &BootConfig) -> Result<CpuState, BootError> {
    let rsdp = acpi::write(ram, config.cpus)?;
    let map = MemoryMap::of(ram, &config.reserved);
    let layout = Layout::new(&map);
    let mut boot = Boot { ram, config, map, layout, rsdp };
    boot.write_bios_data()?;
    let kernel = &config.kernel;
    match config.protocol {
        Protocol::Linux64 => linux64::load(&mut boot, None),
        Protocol::Multiboot => multiboot::load(&mut boot),
        Protocol::XenPv => Err(xen_pv::OTHER_MACHINE),
        Protocol::Pvh => {
            let proper = kernel.loadable(way)?.ok_or(pvh::NOT_ELF)?;
            pvh::load(&mut boot, &proper)
        }
        Protocol::Auto => {
            let proper =
                match kernel.loadable(way) {
                    Ok(proper) => proper,
                    // The kernel's own decompressor may know what ours does not.
                    Err(
                        ImageError::UnsupportedCompression(_) | ImageError::UnknownCompression(_),
                    ) if matches!(kernel.kind(), ImageKind::BzImage(_)) => None,
                    Err(error) => return Err(error.into()),
                };
            // PVH has no words for a screen.
            let told = config.display.is_some() && matches!(kernel.kind(), ImageKind::BzImage(_));
            match proper {
                Some(proper) if told && proper.elf.class == ElfClass::Elf64 => {
                    linux64::load(&mut boot, Some(&proper))
                }
                Some(proper) if proper.xen_notes()?.pvh_entry().is_some() => {
                    pvh::load(&mut boot, &proper)
                }
                _ if kernel.multiboot().is_some() => multiboot::load(&mut boot),
                _ if matches!(kernel.kind(), ImageKind::BzImage(_)) => {
                    linux64::load(&mut boot, None)
                }
                proper => linux64::load(&mut boot, proper.as_ref()),
            }
        }
    }
}

/// One guest being started.
struct Boot<'a> {
    ram: &'a GuestRam,
    config: &'a BootConfig,
    map: MemoryMap,
    layout: Layout,
    /// Address of the ACPI tables' root.
    rsdp: u64,
}

impl Boot<'_> {
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), BootError> {
        self.ram.fill(address, bytes).map_err(|source| BootError::Memory {
            address,
            size: bytes.len(),
            source,
        })
    }

    /// The two words of the BIOS data area that kernels look at: where the extended BIOS data area
    /// is, and how much conventional memory there is.
    fn write_bios_data(&self) -> Result<(), BootError> {
        const EBDA_SEGMENT: u64 = 0x40e;
        const BASE_MEMORY_KIB: u64 = 0x413;
        let ebda = ambos_pc_map::memory::EBDA_START;
        if self.ram.size() <= ebda {
            return Ok(());
        }
        self.write(EBDA_SEGMENT, &((ebda >> 4) as u16).to_le_bytes())?;
        self.write(BASE_MEMORY_KIB, &((ebda >> 10) as u16).to_le_bytes())
    }

    /// Places `bytes` in conventional memory and writes them.
    fn put_low(&mut self, what: &'static str, bytes: &[u8], align: u64) -> Result<u64, BootError> {
        let size = bytes.len() as u64;
        let address = self.layout.take_low(size, align).ok_or(BootError::NoRoom {
            what,
            size,
            ram_mib: self.ram.size() >> 20,
            advice: "give the guest more memory or link the kernel to above 1 MiB",
        })?;
        self.write(address, bytes)?;
        Ok(address)
    }

    /// Places `bytes` as high as possible below `limit` and writes them.
    fn put_high(&mut self, what: &'static str, bytes: &[u8], limit: u64) -> Result<u64, BootError> {
        let size = bytes.len() as u64;
        let address =
            self.layout.take_high(size, ambos_x86::PAGE_SIZE, limit).ok_or(BootError::NoRoom {
                what,
                size,
                ram_mib: self.ram.size() >> 20,
                advice: "give the guest more memory",
            })?;
        self.write(address, bytes)?;
        Ok(address)
    }

    /// Places the command line, NUL-terminated, in conventional memory.
    fn put_command_line(&mut self, line: &str, limit: usize) -> Result<u64, BootError> {
        if line.len() > limit {
            return Err(BootError::CommandLineTooLong { length: line.len(), limit });
        }
        let mut bytes = line.as_bytes().to_vec();
        bytes.push(0);
        self.put_low("the command line", &bytes, 16)
    }

    /// Modules are a Multiboot matter.
    fn refuse_modules(&self, protocol: Protocol) -> Result<(), BootError> {
        if self.config.modules.is_empty() {
            return Ok(());
        }
        let reason = "it has no modules; give one initrd instead";
        Err(BootError::Protocol { protocol, reason })
    }
}

#[cfg(test)]
mod tests;
