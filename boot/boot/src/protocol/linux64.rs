//! Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
//!
//! A bzImage's protected-mode code is loaded to its preferred address and entered at its 64-bit
//! entry; it unpacks itself. An ELF kernel is loaded to its physical addresses and entered at its
//! own entry point, which expects the same.

use super::{Boot, BootError, Protocol, cpu, segments};
use crate::image::{BzImage, ElfClass, ImageKind, Loadable, Way, XLoadFlags};
use ambos_pc_map::memory::{HIGH_MEMORY_START, LOW_RAM_MAX};
use ambos_vcpu::CpuState;
use ambos_x86::gpr;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

/// Offset of the 64-bit entry in the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// `type_of_loader`: a loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// The most an ELF kernel's command line may have: what Linux has on x86 (COMMAND_LINE_SIZE).
const ELF_COMMAND_LINE_MAX: usize = 2047;
/// Highest address of an initrd where the header does not say.
const INITRD_ADDRESS_MAX: u64 = 0x7fff_ffff;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");

const fn refuse(reason: &'static str) -> BootError {
    BootError::Protocol { protocol: Protocol::Linux64, reason }
}

/// Loads the configured kernel; `proper` is its ELF file where the caller has it already, and instead of a bzImage
/// that unpacks itself.
pub(super) fn load(
    boot: &mut Boot<'_>,
    proper: Option<&Loadable<'_>>,
) -> Result<CpuState, BootError> {
    boot.refuse_modules(Protocol::Linux64)?;
    let kernel = &boot.config.kernel;
    let loaded = match (kernel.kind(), proper) {
        (ImageKind::BzImage(image), None) => load_bzimage(boot, image)?,
        // The kernel proper, unpacked: what its own header says of it holds all the same.
        (ImageKind::BzImage(image), Some(proper)) => {
            let command_line_max = usize::try_from(image.command_line_max()).unwrap_or(usize::MAX);
            Loaded { header: *image.header(), command_line_max, ..load_elf(boot, proper)? }
        }
        (ImageKind::Elf(_), Some(proper)) => load_elf(boot, proper)?,
        (ImageKind::Elf(_), None) => match kernel.loadable(Way::Whole)? {
            Some(proper) => load_elf(boot, &proper)?,
            None => return Err(refuse("it is no ELF file; give a bzImage or vmlinux")),
        },
        (ImageKind::Flat, _) => {
            return Err(refuse("it is no Linux kernel; boot it by the multiboot protocol"));
        }
    };
    let zero_page = write_zero_page(boot, &loaded)?;
    let mut state = cpu::long(boot, loaded.entry)?;
    state.gpr[gpr::RSI] = zero_page;
    Ok(state)
}

/// A kernel in place.
struct Loaded {
    entry: u64,
    header: setup_header,
    command_line_max: usize,
}

fn load_bzimage(boot: &mut Boot<'_>, image: &BzImage) -> Result<Loaded, BootError> {
    if !image.x_load_flags().contains(XLoadFlags::KERNEL_64) {
        return Err(refuse(
            "it has no 64-bit entry point (it is a 32-bit kernel or older than Linux 3.8); \
             give an x86-64 kernel",
        ));
    }
    let header = *image.header();
    // Fields from protocol 2.10 on; a 64-bit entry came with 2.12.
    let start = header.pref_address.max(HIGH_MEMORY_START);
    let code = image.code(boot.config.kernel.bytes())?;
    let size = u64::from(header.init_size).max(code.len() as u64);
    let end = start.checked_add(size).ok_or_else(|| BootError::does_not_fit(boot.ram, start))?;
    let entry = start.saturating_add(ENTRY_64);
    if code.len() as u64 <= ENTRY_64 {
        return Err(BootError::Entry(entry));
    }
    segments::place(boot, start, end)?;
    boot.write(start, code)?;
    let command_line_max = usize::try_from(image.command_line_max()).unwrap_or(usize::MAX);
    Ok(Loaded { entry, header, command_line_max })
}

fn load_elf(boot: &mut Boot<'_>, kernel: &Loadable<'_>) -> Result<Loaded, BootError> {
    if kernel.elf.class != ElfClass::Elf64 {
        return Err(refuse("it is a 32-bit ELF file; give an x86-64 kernel"));
    }
    let entry = kernel.elf.physical_entry().ok_or(BootError::Entry(kernel.elf.entry))?;
    segments::load(boot, kernel)?;
    let header = setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: 0x020c,
        initrd_addr_max: INITRD_ADDRESS_MAX as u32,
        ..setup_header::default()
    };
    Ok(Loaded { entry, header, command_line_max: ELF_COMMAND_LINE_MAX })
}

fn write_zero_page(boot: &mut Boot<'_>, loaded: &Loaded) -> Result<u64, BootError> {
    let config = boot.config;
    let mut params = boot_params { hdr: loaded.header, ..boot_params::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.acpi_rsdp_addr = boot.rsdp;
    if let Some(display) = config.display {
        params.screen_info = super::screen::info(display);
    }
    let limit = loaded.command_line_max;
    params.hdr.cmd_line_ptr = boot.put_command_line(&config.command_line, limit)? as u32;
    if let Some(initrd) = &config.initrd {
        let limit = match loaded.header.initrd_addr_max {
            0 => INITRD_ADDRESS_MAX,
            max => max.into(),
        };
        let address = boot.put_high("the initrd", initrd, LOW_RAM_MAX.min(limit + 1))?;
        // Both are below LOW_RAM_MAX.
        params.hdr.ramdisk_image = address as u32;
        params.hdr.ramdisk_size = initrd.len() as u32;
    }
    let mut table = params.e820_table;
    let mut count = 0;
    for (slot, entry) in table.iter_mut().zip(boot.map.entries()) {
        *slot = boot_e820_entry { addr: entry.start, size: entry.size, r#type: entry.kind as u32 };
        count += 1;
    }
    params.e820_table = table;
    params.e820_entries = count;
    boot.put_low("the zero page", params.as_slice(), ambos_x86::PAGE_SIZE)
}
